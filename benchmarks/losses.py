"""Time and memory of every loss formula, forward and backward: `python benchmarks/losses.py`.

Writes `benchmarks/losses.json`, from which `python -m distill.methods docs` takes its table. Time is the median of
`--repeats` runs after a warm-up (on a CPU the process's own time); memory the highest above what the inputs take; passes
the kernels that read or write a tensor at least as large as the student's map. The fewest passes that a formula needs
are counted by hand (`FEWEST`), for PyTorch's own kernels without fusion.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # read when torch is imported

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from distill.methods import (
    attention_transfer,
    channel_kl,
    cross_entropy,
    cross_image_relation,
    feature_mse,
    hetero_akd,
    intra_class_variation,
    masked_generation,
    omni_contrast,
    pairwise_similarity,
    pearson_relation,
    pixel_kl,
    target_enhanced,
)
from distill.methods.bpkd import body_kl, boundary_kl, class_edges

BATCH = 2
CHANNELS = 256
GRIDS = ((64, 128), (128, 128))
CLASSES = (19, 150)

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


def bpkd(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    """Both terms, as the method computes them: edges are found once."""
    edges = class_edges(labels)
    return boundary_kl(student, teacher, labels, edges=edges) + body_kl(student, teacher, labels, edges=edges)


LOGITS: dict[str, Loss] = {
    "cross_entropy": lambda s, t, y: cross_entropy(s, y),
    "kd": lambda s, t, y: pixel_kl(s, t, 1.0, y != 255),
    "heteroakd": lambda s, t, y: hetero_akd(s, t, y),
    "heteroakd, stable": lambda s, t, y: hetero_akd(s, t, y, scale_by_classes=True, weight_per="pixel"),
    "heteroakd, space": lambda s, t, y: hetero_akd(s, t, y, kem_axis="space"),
    "cwd": lambda s, t, y: channel_kl(s, t, 4.0, y != 255),
    "dist": lambda s, t, y: pearson_relation(s, t, valid=y != 255),
    "ofa, one place": lambda s, t, y: target_enhanced(s, t, y),
    "bpkd": bpkd,
}
FEATURES: dict[str, Loss] = {
    "yardstick: softmax-KL": lambda s, t, y: pixel_kl(s, t, 1.0, y != 255),
    "skd": lambda s, t, y: pairwise_similarity(s, t, 2, y != 255),
    "ifvd": lambda s, t, y: intra_class_variation(s, t, y, 19),
    "at": lambda s, t, y: attention_transfer(s, t, y != 255),
    "fitnet, without its convolution": lambda s, t, y: feature_mse(s, t, y != 255),
    "cirkd, pool 4": lambda s, t, y: cross_image_relation(
        torch.nn.functional.max_pool2d(s, 4), torch.nn.functional.max_pool2d(t, 4)
    ),
    "mgd, without its block": lambda s, t, y: masked_generation(s, t, y != 255),
    "af_dcd, without its block": lambda s, t, y: omni_contrast(s, t, valid=y != 255),
}


FEWEST = {
    # Every formula masks both maps and the student's gradient: 3. A softmax of both and the way back: 3. The divergence
    # p·(log p − log q), summed: exp, minus, times, sum, and times on the way back: 5.
    "cross_entropy": 2 + 2 + 2,  # of one map: mask, softmax and choice of the label, each there and back
    "kd": 3 + 3 + 5,
    "yardstick: softmax-KL": 3 + 3 + 5,
    # Three losses per class (softplus, less the label's place: read and written): 9. Mixing by their ratio: sum, quotient
    # guarded against 0/0, mean by weight: 4. The student's need: difference, not below 0, softmax: 3. Divergence with
    # that weight: softmax of both, one more product: 3 + 4 + ways back 2, masks 3.
    "heteroakd": 9 + 4 + 3 + 3 + 4 + 3,
    "heteroakd, stable": 9 + 4 + 3 + 3 + 4 + 3 + 2,  # the weight of a pixel: one more product and sum
    "heteroakd, space": 9 + 4 + 3 + 3 + 4 + 3 + 1,  # ignored pixels leave the softmax over space
    "cwd": 3 + 3 + 3 + 5,  # and the division by the temperature: both, and back
    # Two correlations of softmaxes, over classes and over pixels. Each: two means, two differences, a product and two
    # squares with their sums: 10; back: two products, their sum, its mean and difference: 5.
    "dist": 3 + 3 + 2 * (10 + 5) + 1,
    "ofa, one place": 3 + 3 + 5 + 2,  # one-hot and power of the enhanced target; product, sum, back
    "bpkd": 3 + 2 * (3 + 5) + 4 + 1,  # two divergences, one of masked maps; the gradients' sum
    # Squared difference: minus, square, sum; back: two.
    "fitnet, without its convolution": 3 + 5,
    "mgd, without its block": 3 + 5,
    "at": 3 + 2 * 2 + 2,  # square and mean over channels, of both; back: two
    # Only the pooling sees the whole map: both, and back. The rest is products of channels with channels.
    "skd": 3 + 3,
    # Of both: the sum over a class (product with its one-hot), norms, unit vectors, cosines to the centre: 6; back
    # through products, norms and unit vectors: 8.
    "ifvd": 3 + 2 * (2 + 2 + 2) + 8,
    "cirkd, pool 4": 3,  # only the pooling sees the whole map
    # Distances of all groups in a window, there and back; sign, temperature, mask and sum of exponentials.
    "af_dcd, without its block": 3 + 3 + 2 + 2 * 4 + 2,
}


class PassCounter(TorchDispatchMode):
    """Counts kernels that touch a tensor of at least `elements`; views touch nothing."""

    def __init__(self, elements: int) -> None:
        super().__init__()
        self.elements = elements
        self.passes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        tensors = [x for x in tree_leaves((args, kwargs, result)) if isinstance(x, Tensor)]
        free = func.is_view or func is torch.ops.aten._unsafe_view.default
        if not free and any(x.numel() >= self.elements for x in tensors):
            self.passes += 1
        return result


def peak_mib(once: Callable[[], None], device: torch.device) -> float:
    """Highest memory above the start of a run, from the allocations themselves."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        start = torch.cuda.memory_allocated()
        once()
        return (torch.cuda.max_memory_allocated() - start) / 2**20
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        once()
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    sizes = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    return max(itertools.accumulate(sizes, initial=0)) / 2**20


def median_ms(cases: dict[str, Callable[[], None]], device: torch.device, repeats: int) -> dict[str, float]:
    """Median durations; on a CPU the process's own time, so that neighbours on the machine count less.

    All cases take turns, so that what is left of the neighbours falls on all of them alike.
    """
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(repeats):
        for name, once in cases.items():
            start = clock()
            once()
            seconds[name].append(clock() - start)
    return {name: statistics.median(values) * 1000 for name, values in seconds.items()}


def measure(
    losses: dict[str, Loss], channels: int, grid: tuple[int, int], device: torch.device, repeats: int
) -> list[dict[str, Any]]:
    """Median milliseconds, peak MiB and passes of each formula on maps of one shape."""
    torch.manual_seed(0)
    shape = (BATCH, channels, *grid)
    student = torch.randn(shape, device=device, requires_grad=True)
    teacher = torch.randn(shape, device=device)
    labels = torch.randint(0, min(channels, 19), (BATCH, *grid), device=device)
    labels[:, :4] = 255

    def once(loss: Loss) -> None:
        student.grad = None
        loss(student, teacher, labels).backward()
        if device.type == "cuda":
            torch.cuda.synchronize()

    cases = {name: functools.partial(once, loss) for name, loss in losses.items()}
    rows = []
    for name, case in cases.items():
        case()
        with PassCounter(student.numel()) as counter:
            case()
        student.grad = None
        memory = peak_mib(case, device)
        rows.append({"loss": name, "channels": channels, "grid": list(grid), "mib": round(memory, 1)})
        rows[-1] |= {"passes": counter.passes, "fewest": FEWEST[name]}
    times = median_ms(cases, device, repeats)
    return [{**row, "ms": round(times[row["loss"]], 2)} for row in rows]


def machine(device: torch.device) -> str:
    """The device in words."""
    if device.type == "cuda":
        return torch.cuda.get_device_name()
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    name = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "")
    return f"{name or platform.machine()}, {torch.get_num_threads()} thread(s)"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--repeats", type=int, default=21)
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("losses.json"))
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    if device.type == "cpu":
        torch.set_num_threads(1)
    rows = []
    for grid in GRIDS:
        for channels, losses in [*((k, LOGITS) for k in CLASSES), (CHANNELS, FEATURES)]:
            for row in measure(losses, channels, grid, device, arguments.repeats):
                print(row, flush=True)
                rows.append(row)
    report = {
        "machine": machine(device),
        "torch": torch.__version__,
        "batch": BATCH,
        "repeats": arguments.repeats,
        "rows": rows,
    }
    arguments.output.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
