"""Does a weight that is relative to the task's loss stay so? `python benchmarks/drift.py`.

A weight `balanced.<term>_weight` is measured over the first 20 steps and constant afterwards. This script trains a small
student on generated scenes once with each method, for as many steps as the preset `scenes` trains its CNN, all weights balanced to 1, and measures in those 20 steps and in the last
20 how hard each weighted term pulls: the norm of its gradient over that of the task's loss, where `distill.balance` takes
them. Writes `benchmarks/drift.json` and prints it. A quarter of an hour of one core.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from distill.balance import Balance
from distill.data import AugmentationConfig, ScenesConfig, build_dataset
from distill.data.stream import stream
from distill.methods import cross_entropy, list_methods
from distill.methods.readings import READINGS
from distill.models import SegmentationModel
from distill.normalisation import normalise
from distill.recipe import Recipe
from distill.relative_weights import PREFIX, STEPS
from distill.training import Batch, Student, StudentSpec, teacher_output
from orchestrator.planning.method_settings import all_settings

RESULT = Path(__file__).with_suffix(".json")
CPU = torch.device("cpu")
SCENES = ScenesConfig(size=(32, 48), classes=6, train=64, teacher_train=512, tune=4, test=4)
VIEWS = AugmentationConfig(crop=(32, 32), scale=(1, 1))
TEACHER, STUDENT, WIDTH = "segformer-test_vit", "deeplabv3-test_resnet", 16
EVERY = 5
READ = [name for name in READINGS if name != "paper"]
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in list_methods() if name not in ("student", "heteroakd")},
    "cirkd, memories": ("cirkd", {"pixel_weight": 0.1, "region_weight": 0.1}),
    "cwd, features": ("cwd", {"where": "features"}),
    **{f"heteroakd, {name}": ("heteroakd", {"preset": name, "tap": "fused"}) for name in READ},
}


def main() -> None:
    """Train the teacher and each student, and write the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=720)
    parser.add_argument("--teacher-steps", type=int, default=300)
    parser.add_argument("--only", nargs="*", help="names of cases; the others stay as they are in the file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    teacher = trained_teacher(options.teacher_steps)
    rows = json.loads(RESULT.read_text())["rows"] if options.only else []
    for title in options.only or CASES:
        rows = [row for row in rows if row["case"] != title] + measured(title, teacher, options.steps)
        rows.sort(key=lambda row: list(CASES).index(row["case"]))
        print(*(row for row in rows if row["case"] == title), sep="\n", flush=True)
        report = {
            "torch": torch.__version__, "steps": options.steps, "teacher_steps": options.teacher_steps,
            "measured_steps": STEPS, "rows": rows,
        }  # fmt: skip
        RESULT.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def recipe(steps: int) -> Recipe:
    """The recipe of teacher and students."""
    return Recipe(
        steps=steps, batch_size=8, augmentation=VIEWS, optimizer="adamw", lr=4e-3, weight_decay=0.01,
        schedule="one_cycle", clip_norm=5,
    )  # fmt: skip


def batches(role: Any, teacher: SegmentationModel | None, steps: int) -> Iterator[Batch]:
    """The first batches of a stream, with the teacher's outputs."""
    hosts = stream(build_dataset(SCENES, "train", role=role), VIEWS, batch_size=8, seed=1)
    for _, host in zip(range(steps), hosts, strict=False):
        images = normalise(host.images_b3hw)
        output = None if teacher is None else teacher_output(teacher, images, "fp32")
        yield Batch(images, host.labels_bhw.long(), host.index, output)


def trained_teacher(steps: int) -> SegmentationModel:
    """The teacher, trained on labels of its own."""
    options = {"head_channels": WIDTH, "backbone_args": {"img_size": VIEWS.crop}}
    spec = StudentSpec(TEACHER, options, "student", {}, recipe(steps), 0, SCENES.classes)
    student = Student(spec, None, device=CPU)
    for batch in batches("teacher", None, steps):
        student.train_step(batch)
    student.check()
    return student.model.eval().requires_grad_(False)


def measured(title: str, teacher: SegmentationModel, steps: int) -> list[dict[str, Any]]:
    """A row for each term of a case: its pull in the first steps and in the last."""
    method, config = CASES[title]
    used = all_settings(method, config)
    relative = [name for name, value in used.items() if name.endswith("_weight") and value > 0]
    settings = {name: value for name, value in config.items() if name not in relative}
    settings |= {PREFIX + name: 1.0 for name in relative}
    spec = StudentSpec(STUDENT, {"head_channels": WIDTH}, method, settings, recipe(steps), 2, SCENES.classes)
    student = Student(spec, teacher.info, device=CPU)
    terms = frozenset(name.removesuffix("_weight") for name in relative)
    first, last = Balance(terms, CPU), Balance(terms, CPU)
    for step, batch in enumerate(batches("student", teacher, steps)):
        if step % EVERY == 0 and (step < STEPS or step >= steps - STEPS):
            with torch.random.fork_rng(devices=[]):
                (first if step < STEPS else last).add(pulls(student, batch, terms))
        student.train_step(batch)
    student.check()
    rows = []
    for term in sorted(terms):
        start, end = (1 / float(balance.factor(term)) for balance in (first, last))
        rows.append({"case": title, "term": term, "start": start, "end": end, "drift": end / start})
    return rows


def pulls(student: Student, batch: Batch, terms: frozenset[str]) -> torch.Tensor:
    """Squared gradient norms of one batch."""
    output = student.model(batch.images)
    raw = student.method(output, batch.teacher, batch.labels)
    squares = Balance(terms, CPU).measure(output, {**raw, "task": cross_entropy(output.logits, batch.labels)})
    student.optimizer.zero_grad(set_to_none=False)
    return squares


if __name__ == "__main__":
    main()
