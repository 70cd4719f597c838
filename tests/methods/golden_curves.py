"""Losses of the first training steps of every method: `python tests/methods/golden_curves.py` writes them anew."""

import copy
import json
from pathlib import Path

import torch

from distill.methods import build_method, list_methods
from distill.testing import CNN, NUM_CLASSES, TRANSFORMER, tiny_model, training_losses

CURVES = Path(__file__).with_name("golden_curves.json")
NAMES = [*list_methods(), "kd+cwd"]


def curve(name: str) -> list[float]:
    """Totals of six steps of a small CNN under a small transformer."""
    student, teacher = copy.deepcopy(tiny_model(CNN)), tiny_model(TRANSFORMER)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        method = build_method(name, student=student, teacher=teacher, num_classes=NUM_CLASSES)
        return training_losses(method.train(), student.train(), teacher, steps=6)


if __name__ == "__main__":
    CURVES.write_text(json.dumps({name: curve(name) for name in NAMES}, indent=1) + "\n")
