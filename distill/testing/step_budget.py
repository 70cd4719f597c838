"""Budgets of full-size training steps: peak memory, largest tensor, kernels and FLOPs on a fake GPU.

`python -m distill.testing.step_budget` measures them and writes `step_budgets.json`; with `--table` it prints every
method's step as a table for docs/performance.md.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distill.methods import list_methods
from distill.recipe import Recipe
from distill.testing.device_step import Case, WatchedTraining
from distill.testing.device_watch import Seen
from distill.testing.fake_cuda import fake_cuda

FILE = Path(__file__).with_name("step_budgets.json")
TOLERANCE = 0.05
GIB = 2**30


def full_size(**changes: Any) -> Recipe:
    """16 crops of 512×1024 in bfloat16 with channels last."""
    plain = {"steps": 100, "batch_size": 16, "augmentation": {"crop": [512, 1024]}, "lr": 0.01}
    return Recipe.model_validate({**plain, "precision": "bf16", "channels_last": True, **changes})


BUDGETS = {
    "segformer-mit_b4 to deeplabv3-resnet18": Case("segformer-mit_b4", "deeplabv3-resnet18", full_size()),
    "deeplabv3-resnet101 to deeplabv3-mobilenetv2_100": Case(
        "deeplabv3-resnet101",
        "deeplabv3-mobilenetv2_100",
        full_size(),
        "cirkd",
        student_options={"head_channels": 128},
    ),
    "deeplabv3-resnet101 to segformer-mit_b0": Case(
        "deeplabv3-resnet101", "segformer-mit_b0", full_size(optimizer="adamw"), "cwd"
    ),
}
"""Three pairs of the presets: a transformer teaches a CNN, a CNN a CNN, and a CNN a transformer."""


def steps_of(case: Case) -> dict[str, Seen]:
    """What the first step of a student does: later steps do the same, with the optimiser's state in memory before."""
    with fake_cuda() as watch:
        return WatchedTraining(case, watch).step()


def measured(case: Case) -> dict[str, float]:
    """A budget: bytes, kernels and FLOPs of the teacher's pass and of the student's step."""
    found = steps_of(case)
    return {
        f"{part}_{name}": float(value)
        for part in ("teacher", "student")
        for name, value in (
            ("peak_bytes", found[part].peak),
            ("largest_bytes", found[part].largest[0].size),
            ("kernels", found[part].kernels),
            ("flops", found[part].total_flops),
        )
    }


def read_budgets() -> Mapping[str, dict[str, float]]:
    """The budgets of the file."""
    found: dict[str, dict[str, float]] = json.loads(FILE.read_text(encoding="utf-8"))
    return found


def table(methods: list[str], case: Case) -> str:
    """A Markdown table of a pair's step with each method."""
    lines = [
        "| method | TFLOP in bf16 | TFLOP in fp32 | peak (GiB) | largest tensor (GiB) | kernels |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for method in methods:
        seen = steps_of(Case(**{**vars(case), "method": method, "config": {}}))["student"]
        low, high = (seen.flops[kind] / 1e12 for kind in ("bfloat16", "float32"))
        sizes = f"{seen.peak / GIB:.1f} | {seen.largest[0].size / GIB:.2f}"
        lines.append(f"| {method} | {low:.2f} | {high:.2f} | {sizes} | {seen.kernels} |")
    return "\n".join(lines)


def main() -> None:
    """Write the budgets, or print the table."""
    parser = argparse.ArgumentParser(prog="python -m distill.testing.step_budget", description=__doc__)
    parser.add_argument(
        "--table", nargs="*", metavar="METHOD", help="print a table of these methods, or of all"
    )
    parser.add_argument("--teacher", default="deeplabv3-resnet101")
    parser.add_argument("--student", default="deeplabv3-resnet18")
    parser.add_argument("--precision", default="bf16")
    chosen = parser.parse_args()
    if chosen.table is not None:
        case = Case(chosen.teacher, chosen.student, full_size(precision=chosen.precision))
        print(table(chosen.table or list_methods(), case))
        return
    budgets = {name: measured(case) for name, case in BUDGETS.items()}
    FILE.write_text(json.dumps(budgets, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
