"""What one student that runs out of memory, or meets a fault of the device, does to the others: on a device that is played on the CPU.

    PYTHONPATH=. python benchmarks/gpu/memory_shortage.py            # this checkout
    git archive 0fb6dce | tar -x -C FOLDER                           # the last commit before device errors were told apart
    PYTHONPATH=FOLDER python benchmarks/gpu/memory_shortage.py

It prints a line per question. It takes a few seconds and needs neither Ray nor a GPU.
"""

from __future__ import annotations

import gc
import os
import tempfile
import weakref
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from distill.models import SegmentationModel, build_model
from distill.recipe import Recipe
from distill.training import Batch, Student, StudentSpec
from orchestrator.worker.data_parallel import Workers

LIMIT = 3 * 2**20
COHORTS = 40
FAULTS = (
    "cuDNN error: CUDNN_STATUS_EXECUTION_FAILED",
    "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    "CUDA error: out of memory",
)


class LimitedDevice:
    """Maps of forward passes count for as long as they are held; beyond the limit a pass runs out of memory."""

    def __init__(self) -> None:
        self._storages: dict[int, tuple[weakref.ref[torch.UntypedStorage], int]] = {}

    def held(self) -> int:
        """Bytes of the maps that are still held."""
        return sum(size for reference, size in self._storages.values() if reference() is not None)

    def forward(self, model: SegmentationModel, images: torch.Tensor) -> Any:
        """A forward pass on this device."""
        output = _FORWARD(model, images)
        for maps in (*output.stages, output.fused, output.logits):
            storage = maps.untyped_storage()
            self._storages[id(storage)] = (weakref.ref(storage), storage.nbytes())
        if self.held() > LIMIT:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return output


_FORWARD = SegmentationModel.forward


def neighbours_that_train() -> str:
    """One large student and three small ones, one after the other, as in a step of a wave."""
    device = LimitedDevice()
    recipe = Recipe.model_validate(
        {"steps": 10, "batch_size": 4, "augmentation": {"crop": [64, 64]}, "lr": 0.01}
    )
    batch = Batch(
        torch.randn(4, 3, 128, 128), torch.zeros(4, 128, 128, dtype=torch.int64), torch.arange(4), None
    )
    with patch.object(SegmentationModel, "forward", lambda model, images: device.forward(model, images)):
        trained, held, wave = [], [], []
        for width in (512, 32, 32, 32):
            spec = StudentSpec("deeplabv3-test_resnet", {"head_channels": width}, "student", {}, recipe, 0, 5)
            student = Student(spec, None, device=torch.device("cpu"))
            student.train_step(batch)
            trained.append(student._failure is None)
            gc.collect()
            held.append(device.held())
            wave.append(student)
    return f"{sum(trained[1:])} of 3 neighbours trained; {held[0] / 2**20:.1f} MiB of the failed step were still held"


def answers_to_faults() -> str:
    """What a model answers to errors of the device at a side that is no multiple of 32."""
    model = build_model("deeplabv3-test_resnet", 5).eval()
    kinds = []
    for message in FAULTS:

        def fails(images: torch.Tensor, message: str = message) -> None:
            raise RuntimeError(message)

        with patch.object(model.backbone.network, "forward", fails):
            try:
                model(torch.zeros(1, 3, 64, 75))
            except Exception as error:
                kinds.append(type(error).__name__)
    return ", ".join(kinds)


def left_of_cohorts() -> str:
    """Threads and files of a worker after so many cohorts of two workers."""
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(_cohorts, args=(folder,), nprocs=2)  # type: ignore[attr-defined]
        return (Path(folder) / "0").read_text()


def _cohorts(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    before = _threads_and_files()
    for _ in range(COHORTS):
        workers = Workers.__new__(Workers)
        workers._objects = dist.new_group(backend="gloo")
        if hasattr(workers, "close"):
            workers.close()
        del workers
    threads, files = (now - then for now, then in zip(_threads_and_files(), before, strict=True))
    (Path(folder) / f"{rank}").write_text(f"{threads} more threads, {files} more open files")
    dist.destroy_process_group()


def _threads_and_files() -> tuple[int, int]:
    return len(os.listdir("/proc/self/task")), len(os.listdir("/proc/self/fd"))


def main() -> None:
    """Print the answers."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    print("a student out of memory:", neighbours_that_train())
    print("errors of the device at a side of 75 pixels:", answers_to_faults())
    print(f"after {COHORTS} cohorts:", left_of_cohorts())


if __name__ == "__main__":
    main()
