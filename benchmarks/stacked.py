"""Students of one architecture stepped together: `python benchmarks/stacked.py`.

A cohort steps its students one after the other. Their weights could be stacked instead and stepped by one pass
(`torch.func.functional_call` under `vmap`, which makes grouped convolutions and batched products of them). This compares
forward and backward of cross-entropy and KD on one batch, both ways by turns in one process: time (the process's own on a
CPU), and how far the gradients are apart. Two stacks are not the same arithmetic, so a difference of rounding is enough to
lose that a student's result does not depend on its company. Writes `benchmarks/stacked.json` and the page
`docs/performance.md`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

import measured
import performance
import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from distill.methods import cross_entropy, pixel_kl
from distill.models import build_model

CLASSES = 9
MODELS = ("deeplabv3-test_resnet", "segformer-test_vit", "deeplabv3-resnet18")
WARM_UP = 2


def main() -> None:
    """Measures each model with more and more students."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--students", type=int, nargs="+", default=[2, 4, 8])
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, default=Path(__file__).with_suffix(".json"))
    parser.add_argument("--page", type=Path, default=performance.PAGE)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    load = os.getloadavg()[0]
    rows = []
    for name in options.models:
        for count in options.students:
            rows.append({"model": name, "students": count, **measured.rounded(compare(name, count, options))})
            print(rows[-1], flush=True)
    report = {
        "machine": measured.machine(load),
        "device": torch.cuda.get_device_name() if options.device == "cuda" else "cpu",
        "torch": torch.__version__, "size": options.size, "batch": options.batch, "threads": options.threads,
        "repeats": options.repeats, "rows": rows,
    }  # fmt: skip
    options.json.write_text(json.dumps(report, indent=1) + "\n")
    performance.write(options.page, stacked=options.json)


def compare(name: str, count: int, options: argparse.Namespace) -> dict[str, Any]:
    """Milliseconds of all students' forward and backward, one after the other and stacked."""
    torch.manual_seed(0)
    device = torch.device(options.device)
    students: list[nn.Module] = [
        _without_dropout(build_model(name, CLASSES)).to(device).train() for _ in range(count)
    ]
    images = torch.randn(options.batch, 3, options.size, options.size, device=device)
    labels = torch.randint(CLASSES, (options.batch, options.size, options.size), device=device)
    teacher = torch.randn(options.batch, CLASSES, options.size // 8, options.size // 8, device=device)

    def loss(logits: Tensor) -> Tensor:
        return cross_entropy(logits, labels) + pixel_kl(logits, teacher)

    parameters, buffers = stack_module_state(students)  # type: ignore[arg-type]
    skeleton = students[0]

    def one(parameters: dict[str, Tensor], buffers: dict[str, Tensor]) -> Tensor:
        return loss(functional_call(skeleton, (parameters, buffers), (images,)).logits)

    together = vmap(one, randomness="different")

    def in_turn() -> None:
        for student in students:
            student.zero_grad()
            loss(student(images).logits).backward()  # type: ignore[no-untyped-call]

    def stacked() -> None:
        for parameter in parameters.values():
            parameter.grad = None
        together(parameters, buffers).sum().backward()

    in_turn()
    stacked()
    apart = [
        float((parameter.grad - parameters[key].grad[number]).abs().max() / parameter.grad.abs().max().clamp(min=1e-12))
        for number, student in enumerate(students)
        for key, parameter in student.named_parameters()
        if parameter.grad is not None and parameters[key].grad is not None
    ]  # fmt: skip
    took: dict[str, list[float]] = {"in_turn_ms": [], "stacked_ms": []}
    for number in range(WARM_UP + options.repeats):
        for key, step in (("in_turn_ms", in_turn), ("stacked_ms", stacked)):
            seconds = _seconds(step, device)
            if number >= WARM_UP:
                took[key].append(1000 * seconds)
    ratios = [a / b for a, b in zip(took["in_turn_ms"], took["stacked_ms"], strict=True)]
    return {
        **{key: statistics.median(values) for key, values in took.items()},
        "faster": statistics.median(ratios),
        "faster_least": min(ratios),
        "faster_most": max(ratios),
        "same_bits": max(apart) == 0,
        "gradients_apart": statistics.median(apart),
    }


def _without_dropout(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if isinstance(module, (nn.Dropout, nn.Dropout2d)):
            module.p = 0.0
    return model


def _seconds(step: Callable[[], None], device: torch.device) -> float:
    if device.type == "cpu":
        began = time.process_time()
        step()
        return time.process_time() - began
    torch.cuda.synchronize()
    began = time.perf_counter()
    step()
    torch.cuda.synchronize()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
