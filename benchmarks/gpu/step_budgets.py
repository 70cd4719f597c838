"""Memory, kernels and FLOPs of a full-size step on a fake GPU, and the teacher's maps that each method asks for.

    PYTHONPATH=. python benchmarks/gpu/step_budgets.py now           # this checkout
    git archive 0fb6dce | tar -x -C FOLDER                           # the code before methods named the maps that they read
    cp distill/testing/{autograd_walk,device_watch,fake_cuda}.py FOLDER/distill/testing/
    PYTHONPATH=FOLDER python benchmarks/gpu/step_budgets.py before

Each writes its column of `benchmarks/gpu_budgets.json`, from which `python benchmarks/performance.py` makes the page. Three pairs of
the presets, 16 crops of 512×1024, 19 classes, bf16, channels last. It takes minutes and needs no GPU.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

from distill.methods import build_method, list_methods
from distill.models import Output
from distill.recipe import Recipe
from distill.testing.fake_cuda import CUDA, build_on_device, fake_cuda
from distill.training import Batch, Student, StudentSpec, teacher_output

REPORT = Path(__file__).parents[1] / "gpu_budgets.json"
BATCH, SIZE, CLASSES = 16, (512, 1024), 19
PAIRS: tuple[tuple[str, str, dict[str, Any], str, str], ...] = (
    ("segformer-mit_b4", "deeplabv3-resnet18", {}, "heteroakd", "sgd"),
    ("deeplabv3-resnet101", "deeplabv3-mobilenetv2_100", {"head_channels": 128}, "cirkd", "sgd"),
    ("deeplabv3-resnet101", "segformer-mit_b0", {}, "cwd", "adamw"),
)


def step(teacher: str, student: str, options: dict[str, Any], method: str, optimizer: str) -> dict[str, Any]:
    """Figures of one training step of a pair."""
    recipe = Recipe.model_validate(
        {"steps": 100, "batch_size": BATCH, "augmentation": {"crop": SIZE}, "lr": 0.01, "precision": "bf16",
         "channels_last": True, "optimizer": optimizer}
    )  # fmt: skip
    with fake_cuda() as watch:
        model = build_on_device(teacher, CLASSES).eval().requires_grad_(False)
        spec = StudentSpec(student, options, method, {}, recipe, 0, CLASSES)
        trained = Student(spec, model.info, device=CUDA)
        images = torch.zeros(BATCH, 3, *SIZE, device=CUDA).contiguous(memory_format=torch.channels_last)
        labels = torch.zeros(BATCH, *SIZE, dtype=torch.int64, device=CUDA)
        watch.mark()
        everything = teacher_output(model, images, recipe.precision)
        passed = watch.mark()
        asked = {name: _bytes(everything, name, model.info, trained.model.info) for name in list_methods()}
        maps = everything.maps(_needs(trained.method))
        del everything
        output = Output.from_maps(maps)
        del maps
        watch.mark()
        trained.train_step(Batch(images, labels, torch.zeros(BATCH, dtype=torch.int64), output))
        if trained._failure is not None:
            raise trained._failure
        seen = watch.mark()
        return {
            "method": method,
            "asked_bytes": asked,
            "teacher_peak_bytes": passed.peak,
            "student_peak_bytes": seen.peak,
            "largest_bytes": seen.largest[0].size,
            "largest_at": seen.largest[0].where,
            "kernels": seen.kernels,
            "tflop": {kind: count / 1e12 for kind, count in seen.flops.items()},
        }


def _needs(method: Any) -> Any:
    """The maps that a method asks for; of a class of maps in earlier versions."""
    return getattr(method, "needs", method.card.needs)


def _bytes(output: Output, name: str, teacher: Any, student: Any) -> int:
    method = build_method(name, student=student, teacher=teacher, num_classes=CLASSES)
    if not getattr(method, "needs", "teacher" in method.card.needs):
        return 0
    parts = [
        each
        for part in output.maps(_needs(method)).values()
        for each in (part if isinstance(part, list) else [part])
    ]
    return sum(each.untyped_storage().nbytes() for each in parts)


def main() -> None:
    """Measure this code, and write its column."""
    report = json.loads(REPORT.read_text(encoding="utf-8")) if REPORT.exists() else {}
    report[sys.argv[1]] = {f"{pair[0]} → {pair[1]}": step(*pair) for pair in PAIRS}
    REPORT.write_text(json.dumps(report, indent=1, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
