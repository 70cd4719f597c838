"""What it is worth that gradients travel while the next student computes: `python benchmarks/overlap.py [--repeats 30]`.

Two workers of one thread each, gloo between them, and some students of one architecture, by turns step for step: each
student's mean gradients awaited before the next one begins (`Student.train_step`), and awaited after it (`begin_step`,
`end_step`, as a cohort does). The steps of both are the same to the bit. Writes `benchmarks/overlap.json` and the page
`docs/performance.md`.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import measured
import performance
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from distill.data import AugmentationConfig
from distill.recipe import Recipe
from distill.training import Batch, Student, StudentSpec

MODELS = ("deeplabv3-test_resnet", "segformer-test_vit", "deeplabv3-mobilenetv2_100", "deeplabv3-resnet18")
STUDENTS, WORKERS, CLASSES, SIZE, BATCH, WARM_UP = 4, 2, 9, 64, 8, 3


def begun_mean(tensor: Tensor) -> Callable[[], None]:
    """As `orchestrator.worker.data_parallel` has it."""
    sent = dist.all_reduce(tensor, async_op=True)

    def arrive() -> None:
        sent.wait()
        tensor.div_(WORKERS)

    return arrive


def in_turn(students: list[Student], batch: Batch) -> None:
    for student in students:
        student.train_step(batch)


def overlapped(students: list[Student], batch: Batch) -> None:
    before: Student | None = None
    for student in students:
        student.begin_step(batch)
        if before is not None:
            before.end_step()
        before = student
    if before is not None:
        before.end_step()


def work(rank: int, folder: str, model: str, repeats: int) -> None:
    """A worker: times each way of stepping, in turns, and writes what rank 0 saw."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=WORKERS)
    recipe = Recipe(
        steps=1000, batch_size=BATCH, augmentation=AugmentationConfig(crop=(SIZE, SIZE)), optimizer="adamw", lr=1e-3
    )  # fmt: skip
    sides = {
        way: [
            Student(
                StudentSpec(model, {}, "student", {}, recipe, seed, CLASSES),
                None,
                device=torch.device("cpu"),
                rank=rank,
                reduce=begun_mean,
            )
            for seed in range(STUDENTS)
        ]
        for way in (in_turn, overlapped)
    }
    generator = torch.Generator().manual_seed(rank)
    seconds: dict[str, list[float]] = {"in_turn": [], "overlapped": []}
    for repeat in range(WARM_UP + repeats):
        images = torch.randn(BATCH // WORKERS, 3, SIZE, SIZE, generator=generator)
        labels = torch.randint(0, CLASSES, (BATCH // WORKERS, SIZE, SIZE), generator=generator)
        batch = Batch.shared(images, labels, torch.arange(BATCH // WORKERS), None, begun_mean)
        for way, students in sides.items():
            dist.barrier()
            began = time.perf_counter()
            way(students, batch)
            dist.barrier()
            if repeat >= WARM_UP:
                seconds[way.__name__].append(time.perf_counter() - began)
    for one, other in zip(sides[in_turn], sides[overlapped], strict=True):
        for mine, its in zip(one.model.parameters(), other.model.parameters(), strict=True):
            if not torch.equal(mine, its):
                raise SystemExit(f"{model}: the two ways do not agree")
    if rank == 0:
        size = sum(parameter.numel() for parameter in sides[in_turn][0].model.parameters())
        told = {way: [round(1000 * second, 2) for second in seconds[way]] for way in seconds}
        Path(folder, "found.json").write_text(json.dumps({"params": size, **told}))
    dist.destroy_process_group()


def main() -> None:
    """Measures, prints each result as it comes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--json", type=Path, default=Path(__file__).with_suffix(".json"))
    parser.add_argument("--page", type=Path, default=performance.PAGE)
    options = parser.parse_args()
    load = os.getloadavg()[0]
    rows = []
    for model in MODELS:
        with tempfile.TemporaryDirectory() as folder:
            mp.spawn(work, args=(folder, model, options.repeats), nprocs=WORKERS)
            rows.append({"model": model, **json.loads(Path(folder, "found.json").read_text())})
        faster = [a / b for a, b in zip(rows[-1]["in_turn"], rows[-1]["overlapped"], strict=True)]
        print(model, f"overlapped is faster by {sorted(faster)[len(faster) // 2]:.3f}", flush=True)
    report = {
        "machine": measured.machine(load), "students": STUDENTS, "workers": WORKERS, "batch": BATCH, "size": SIZE,
        "repeats": options.repeats, "rows": rows,
    }  # fmt: skip
    options.json.write_text(json.dumps(report, indent=1) + "\n")
    performance.write(options.page, overlap=options.json)


if __name__ == "__main__":
    main()
