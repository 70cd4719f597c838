"""Random maps and labels for the formulas."""

from dataclasses import dataclass

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st


def for_all(*strategies):
    """Check a property on 25 fixed examples."""
    return lambda test: settings(deadline=None, max_examples=25, derandomize=True)(given(*strategies)(test))


@dataclass(frozen=True)
class Case:
    """Two maps of one shape and labels, float64 for the loops; odd sizes, absent classes, much ignored."""

    student: np.ndarray
    teacher: np.ndarray
    labels: np.ndarray

    def tensors(self, dtype=torch.float32):
        return (
            torch.tensor(self.student, dtype=dtype),
            torch.tensor(self.teacher, dtype=dtype),
            torch.tensor(self.labels),
        )

    @property
    def valid(self):
        return torch.tensor(self.labels != 255)


def make_case(batch, channels, height, width, scale, ignored, seed, classes=None):
    random = np.random.default_rng(seed)
    shape = (batch, channels, height, width)
    labels = random.integers(0, classes or channels, (batch, height, width))
    labels[random.random(labels.shape) < ignored] = 255
    return Case(random.normal(0, scale, shape), random.normal(0, scale, shape), labels)


def cases(max_size=7, max_scale=8.0, channels=None):
    return st.builds(
        make_case,
        batch=st.integers(1, 3),
        channels=st.integers(2, 6) if channels is None else channels,
        height=st.integers(1, max_size),
        width=st.integers(1, max_size),
        scale=st.floats(0.1, max_scale),
        ignored=st.sampled_from([0.0, 0.4, 1.0]),
        seed=st.integers(0, 10**6),
    )
