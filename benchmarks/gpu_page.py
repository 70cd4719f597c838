"""The part of `docs/performance.md` on GPUs: what is counted without one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import cells

_GIB = 2**30


def gpu_section(report: Mapping[str, Any], aims: cells.Aims) -> list[str]:
    """A step on a fake GPU, before methods named the maps that they read and now."""
    before, now = report["before"], report["now"]
    steps = [row for pair, new in now.items() for row in _step_rows(pair, before[pair], new)]
    asked = []
    for method in next(iter(now.values()))["asked_bytes"]:
        cell = [
            f"{before[pair]['asked_bytes'][method] / 1e6:.0f} → {now[pair]['asked_bytes'][method] / 1e6:.0f}"
            for pair in _one_of_each_teacher(now)
        ]
        asked.append([method, *cell])
    return [
        "## A step at full size, before and now",
        "",
        "16 crops of 512×1024, 19 classes, bf16, channels last, counted on a fake GPU (`distill/testing/fake_cuda.py`): tensors have shapes and "
        "types, but no bytes. Work spaces of cuDNN and cuBLAS, the allocator's rounding and times are not in it. *Before* is commit 0fb6dce, the last "
        "one before methods named the maps that they read, losses were pooled and SegFormer's head fused before it upsampled.",
        "",
        *cells.table(("pair and method", "figure", "before", "now"), steps),
        "",
        "The teacher's maps that a method asks for in a batch, in MB, before → now. They are what is sent to other workers and kept in the "
        "cache of teacher outputs. SegFormer's fused map is in float32 now and was in bf16 before, so methods that read it (`fused`) ask for more.",
        "",
        *cells.table(("method", *(pair.split(" → ")[0] for pair in _one_of_each_teacher(now))), asked),
        "",
        "## Memory shortage and faults of a device, before and now",
        "",
        "`python benchmarks/gpu/memory_shortage.py` on both commits. The device is played on the CPU: a forward pass whose maps exceed a limit raises "
        "`torch.OutOfMemoryError`, as CUDA's allocator would.",
        "",
        *cells.table(("question", "before", "now"), [
            ("One of four students of a wave runs out of memory: how many of the other three train?", "0", "3"),
            ("Memory of its failed step that is still held (MiB)", "3.8", "0.0"),
            ("An error of cuDNN or cuBLAS, or a CUDA memory error, at a side of 75 pixels is raised as", "`UsageError`, which ends the cohort", "itself"),
            ("Threads and open files that a worker has more after 40 cohorts", "120 and 200", "0 and 0"),
        ]),
        "",
        "## On a real GPU",
        "",
        "**No figure of this page was measured on a GPU**: none was at hand. `python benchmarks/gpu/on_gpu.py` measures, on a machine that has one, "
        "the waits of a step, what an out-of-memory error leaves, and the seconds of a step of 1, 4 and 16 students beside the same step written "
        "plainly. `--dry` runs the same commands with small networks on a CPU, to test the script; its figures mean nothing.",
        "",
    ]  # fmt: skip


def _step_rows(pair: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> list[list[str]]:
    title = f"{pair}, {new['method']}"
    rows = []
    for name, key, unit, digits in (
        ("peak of the teacher's pass (GiB)", "teacher_peak_bytes", _GIB, 2),
        ("peak of the student's step (GiB)", "student_peak_bytes", _GIB, 2),
        ("largest tensor of the step (GiB)", "largest_bytes", _GIB, 2),
        ("kernels of the step", "kernels", 1, 0),
    ):
        rows.append([title, name, *(f"{each[key] / unit:.{digits}f}" for each in (old, new))])
    for kind in ("bfloat16", "float32"):
        rows.append(
            [
                title,
                f"TFLOP of the step in {kind}",
                *(f"{each['tflop'].get(kind, 0.0):.2f}" for each in (old, new)),
            ]
        )
    return rows


def _one_of_each_teacher(pairs: Mapping[str, Any]) -> list[str]:
    return list({pair.split(" → ")[0]: pair for pair in pairs}.values())
