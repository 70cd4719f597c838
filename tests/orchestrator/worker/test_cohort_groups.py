"""What a cohort leaves behind in its workers."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch.distributed as dist
import torch.multiprocessing as mp

from tests.orchestrator.worker.alone import alone_worker


def _held() -> tuple[int, int]:
    return len(os.listdir("/proc/self/task")), len(os.listdir("/proc/self/fd"))


def _cohorts(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    held = []
    for _ in range(4):
        workers = alone_worker()
        workers.rank, workers.world_size, workers.is_alone = rank, 2, False
        workers._objects = dist.new_group(backend="gloo")
        assert workers.gather(rank) == [0, 1]
        workers.close()
        held.append(_held())
    assert held[1] == held[-1], held
    dist.destroy_process_group()


def test_a_cohort_leaves_no_threads_and_no_open_files_in_its_workers(tmp_path: Path) -> None:
    run: Callable[..., Any] = mp.start_processes  # type: ignore[attr-defined]
    run(_cohorts, (str(tmp_path),), nprocs=2, start_method="fork")  # a new Python would import torch again
