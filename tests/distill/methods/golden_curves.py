"""Losses of 30 training steps of every method on generated scenes: `python -m tests.distill.methods.golden_curves` writes them.

Processors add in different orders, and training amplifies the rounding errors: in float32, after some dozen steps, by
as much as a small mistake in a formula would. So everything here is in float64, the random numbers too. Nothing else
depends on the processor: scenes are drawn in integers, views are cut out and not resized, and there is no dropout,
which PyTorch draws with MKL where it has MKL, and with its own generator elsewhere.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from distill.data import AugmentationConfig, ScenesConfig, build_dataset
from distill.data.stream import stream
from distill.methods import list_methods
from distill.models import SegmentationModel, build_model
from distill.normalisation import normalise
from distill.random_state import RandomState
from distill.recipe import Recipe
from distill.training import Batch, Student, StudentSpec, teacher_output

CURVES = Path(__file__).with_name("golden_curves.json")
READINGS = ("pixel", "bernoulli", "summary", "stable")
VARIANTS: dict[str, dict[str, Any]] = {
    **{f"heteroakd {reading}": {"preset": reading, "tap": "fused"} for reading in READINGS},
    "heteroakd literal": {"preset": "literal"},
    "heteroakd proj alone": {"hakd_weight": 0, "keep_proj": True, "tap": "fused"},
    "heteroakd two temperatures": {"hakd_temperature": 2, "proj_gradient": "projector", "tap": "fused"},
}
"""Readings of HeteroAKD, and its settings that are no part of a reading."""
NAMES = [*list_methods(), "kd+cwd", *VARIANTS]
CONFIGS: dict[str, dict[str, Any]] = {
    "af_dcd": {"mgd_weight": 2e-4},
    "cirkd": {"pixel_weight": 0.1, "region_weight": 0.1, "pixel_draws": 64, "region_draws": 32},
    "mgd": {"mgd_weight": 2e-3},
    **VARIANTS,
}
"""Settings for terms that are off by default, or too small by default for an error in them to show."""
STEPS = 30
TOLERANCE = 1e-9
"""Relative. Rounding changes a curve by about 1e-14, a term whose gradient is wrong by 0.3 % by 5e-8 or more."""
CPU = torch.device("cpu")
SCENES = ScenesConfig(
    size=(32, 48), classes=4, train=16, teacher_train=16, tune=4, test=4, ignore_border=1
)  # fmt: skip
VIEWS = AugmentationConfig(crop=(32, 32), scale=(1, 1))
RECIPE = Recipe(steps=STEPS, batch_size=2, augmentation=VIEWS, lr=0.005, clip_norm=5, norm="group")


@contextmanager
def float64() -> Iterator[None]:
    """Parameters, buffers and random numbers made inside are float64."""
    outer = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(outer)


@functools.cache
def teacher() -> SegmentationModel:
    """A small transformer with random weights."""
    made_for = {"img_size": VIEWS.crop}  # for another size timm resamples the position embedding in float32
    with float64(), RandomState(0, CPU):
        model = build_model("segformer-test_vit", SCENES.classes, head_channels=8, backbone_args=made_for)
    return model.eval().requires_grad_(False)


@functools.cache
def batches() -> tuple[Batch, ...]:
    """The first batches of a stream, with the teacher's outputs."""
    hosts = stream(build_dataset(SCENES, "train"), VIEWS, batch_size=RECIPE.batch_size, seed=1)
    found = []
    for _, host in zip(range(STEPS), hosts, strict=False):
        images = normalise(host.images_b3hw).double()
        found.append(
            Batch(images, host.labels_bhw.long(), host.index, teacher_output(teacher(), images, "fp32"))
        )
    return tuple(found)


def student(name: str) -> Student:
    """A small CNN at the start of its training with a method."""
    options = {"head_channels": 8, "dropout": 0.0}
    method, config = name.partition(" ")[0], CONFIGS.get(name, {})
    spec = StudentSpec("deeplabv3-test_resnet", options, method, config, RECIPE, 2, SCENES.classes)
    with float64():
        found = Student(spec, teacher().info, device=CPU)
        if found.method.preparation is not None:
            with RandomState(0, CPU):
                taught = ((batch.teacher, batch.labels) for batch in _for_ever() if batch.teacher is not None)
                found.method.use_prepared(found.method.prepare(taught))
    return found


def curve(student: Student, steps: int = STEPS) -> list[float]:
    """The weighted total of each of a student's first steps, to twelve digits."""
    totals = []
    with float64():
        for batch in batches()[:steps]:
            student.train_step(batch)
            student.check()
            totals.append(float(f"{math.fsum(student.read_losses()[1].values()):.12g}"))
    return totals


def _for_ever() -> Iterator[Batch]:
    while True:
        yield from batches()


if __name__ == "__main__":
    lines = [f" {json.dumps(name)}: {json.dumps(curve(student(name)))}" for name in NAMES]
    CURVES.write_text("{\n" + ",\n".join(lines) + "\n}\n")
