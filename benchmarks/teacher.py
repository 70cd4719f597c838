"""A frozen teacher's forward pass, written in several ways: `python benchmarks/teacher.py [--device cuda]`.

Beside the plain pass (float32, contiguous): channels last in memory, bfloat16 autocast (`recipe.precision: bf16`), both, and
`torch.compile`, by turns in one process. Tells how much faster each is, how far its logits are from the plain ones, and how
long the first compiled pass takes. Writes `benchmarks/teacher.json` and the page `docs/performance.md`.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

import measured
import performance
import torch
from torch import Tensor, nn

from distill.models import Output, build_model
from distill.training import teacher_output

CLASSES = 19
MODELS = ("segformer-mit_b2", "segformer-mit_b4", "deeplabv3-resnet101")
WARM_UP = 2


def main() -> None:
    """Measures each model."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=measured.cpus())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, default=Path(__file__).with_suffix(".json"))
    parser.add_argument("--page", type=Path, default=performance.PAGE)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    load = os.getloadavg()[0]
    rows = []
    for name in options.models:
        rows.append({"model": name, **measured.rounded(compare(name, options))})
        print(rows[-1], flush=True)
    report = {
        "machine": measured.machine(load),
        "device": torch.cuda.get_device_name() if options.device == "cuda" else "CPU",
        "torch": torch.__version__, "size": options.size, "batch": options.batch, "threads": options.threads,
        "repeats": options.repeats, "rows": rows,
    }  # fmt: skip
    options.json.write_text(json.dumps(report, indent=1) + "\n")
    performance.write(options.page, teacher=options.json)


def compare(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Milliseconds of each way, in the order of the repeats."""
    torch.manual_seed(0)
    device = torch.device(options.device)
    plain = build_model(name, CLASSES).to(device).eval().requires_grad_(False)
    images = torch.randn(options.batch, 3, options.size, options.size, device=device)
    last = copy.deepcopy(plain).to(memory_format=torch.channels_last)
    images_last = images.contiguous(memory_format=torch.channels_last)
    compiled: nn.Module = torch.compile(copy.deepcopy(plain))
    ways: dict[str, Callable[[], Output]] = {
        "plain": lambda: teacher_output(plain, images, "fp32"),
        "channels last": lambda: teacher_output(last, images_last, "fp32"),
        "bf16": lambda: teacher_output(plain, images, "bf16"),
        "bf16, channels last": lambda: teacher_output(last, images_last, "bf16"),
        "compiled": lambda: teacher_output(compiled, images, "fp32"),
    }
    first = {way: _timed(forward, device) for way, forward in ways.items()}
    logits = {way: output.logits.float() for way, (output, _) in first.items()}
    took: dict[str, list[float]] = {way: [] for way in ways}
    for number in range(WARM_UP + options.repeats):
        for way, forward in ways.items():
            _, seconds = _timed(forward, device)
            if number >= WARM_UP:
                took[way].append(float(f"{1000 * seconds:.4g}"))
    return {
        "ms": took,
        "apart": {way: _apart(found, logits["plain"]) for way, found in logits.items()},
        "compile_seconds": first["compiled"][1],
    }


def _apart(found: Tensor, plain: Tensor) -> float:
    """The largest difference, relative to the largest value."""
    return float((found - plain).abs().max() / plain.abs().max())


def _timed(forward: Callable[[], Output], device: torch.device) -> tuple[Output, float]:
    began = time.perf_counter()
    output = forward()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return output, time.perf_counter() - began


if __name__ == "__main__":
    main()
