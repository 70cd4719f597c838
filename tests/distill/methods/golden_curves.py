"""Losses of 50 training steps of every method on generated scenes: `python -m tests.distill.methods.golden_curves` writes them."""

from __future__ import annotations

import functools
import json
import math
from pathlib import Path

import torch

from distill.data import AugmentationConfig, ScenesConfig, build_dataset
from distill.data.stream import normalise, stream
from distill.methods import list_methods
from distill.models import SegmentationModel, build_model
from distill.random_state import RandomState
from distill.recipe import Recipe
from distill.training import Batch, Student, StudentSpec, teacher_output

CURVES = Path(__file__).with_name("golden_curves.json")
NAMES = [*list_methods(), "kd+cwd"]
STEPS = 50
CPU = torch.device("cpu")
SCENES = ScenesConfig(size=(32, 32), classes=4, train=16, teacher_train=16, tune=4, test=4)
RECIPE = Recipe(
    steps=STEPS, batch_size=4, augmentation=AugmentationConfig(crop=(32, 32)), lr=0.005, clip_norm=0.5, norm="group"
)  # fmt: skip


@functools.cache
def teacher() -> SegmentationModel:
    """A small transformer with random weights."""
    with RandomState(0, CPU):
        return build_model("segformer-test_vit", SCENES.classes, head_channels=8).eval().requires_grad_(False)


@functools.cache
def batches() -> tuple[Batch, ...]:
    """The first 50 batches of a stream, with the teacher's outputs."""
    hosts = stream(build_dataset(SCENES, "train"), RECIPE.augmentation, batch_size=RECIPE.batch_size, seed=1)
    found = []
    for _, host in zip(range(STEPS), hosts, strict=False):
        images = normalise(host.images_b3hw)
        found.append(
            Batch(images, host.labels_bhw.long(), host.index, teacher_output(teacher(), images, "fp32"))
        )
    return tuple(found)


def curve(name: str) -> list[float]:
    """The weighted total of each step of a small CNN's training, to six digits."""
    options = {"head_channels": 8, "dropout": 0.1}
    spec = StudentSpec("deeplabv3-test_resnet", options, name, {}, RECIPE, 2, SCENES.classes)
    student = Student(spec, teacher().info, device=CPU)
    if student.method.preparation is not None:
        with RandomState(0, CPU):
            taught = ((batch.teacher, batch.labels) for batch in _for_ever() if batch.teacher is not None)
            student.method.use_prepared(student.method.prepare(taught))
    totals = []
    for batch in batches():
        student.train_step(batch)
        student.check()
        totals.append(float(f"{math.fsum(student.read_losses()[1].values()):.6g}"))
    return totals


def _for_ever():  # type: ignore[no-untyped-def]
    while True:
        yield from batches()


if __name__ == "__main__":
    lines = [f" {json.dumps(name)}: {json.dumps(curve(name))}" for name in NAMES]
    CURVES.write_text("{\n" + ",\n".join(lines) + "\n}\n")
