"""Shared memory and sockets of loader processes: what they need, and what the machine has.

Docker gives a container 64 MiB of shared memory by default.

Loader processes hand over batches in `/dev/shm`. When it is full, torch's processes wait without an error, so it is compared
with the need beforehand.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.util
import os
import shutil
import tempfile
from pathlib import Path

from distill.data.config import AugmentationConfig

SHARED_MEMORY = Path("/dev/shm")
PREFETCHED = 2
"""Batches that each loader process has ready; torch's default."""
_BYTES_OF_A_PIXEL = 4  # red, green, blue, label
_LONGEST_FOLDER = 107 - len("/pymp-12345678/listener-12345678")


def bytes_needed(augmentation: AugmentationConfig, pictures: int, loader_workers: int) -> int:
    """Bytes of the batches that loader processes have ready, with the one in use and one in transit of each process.

    Args:
        augmentation: has the size of a view.
        pictures: in a batch of one worker.
        loader_workers: loader processes of one worker.
    """
    height, width = augmentation.crop
    batches = (PREFETCHED + 1) * loader_workers + 1
    return batches * pictures * height * width * _BYTES_OF_A_PIXEL


def free_bytes(folder: Path = SHARED_MEMORY) -> int | None:
    """Free bytes of the shared memory; None where the system has no such folder."""
    try:
        found = os.statvfs(folder)
    except OSError:
        return None
    return found.f_bavail * found.f_frsize


def shortage(needed: int) -> str | None:
    """A sentence if the shared memory is too small; None if it suffices, or where none is known."""
    free = free_bytes()
    if free is None or needed <= free:
        return None
    return (
        f"the loader processes need {needed / 2**20:.0f} MiB of shared memory and {SHARED_MEMORY} has {free / 2**20:.0f} MiB "
        "free: batches are sent through pipes, which is slower; start the container with a larger --shm-size, or lower "
        "operation.loader_workers"
    )


def use_short_socket_folder() -> None:
    """Let this process's sockets for its children be in a folder with a short path, where TMPDIR is too long for them."""
    config = multiprocessing.current_process()._config  # type: ignore[attr-defined]
    if config.get("tempdir") or len(os.fsencode(tempfile.gettempdir())) <= _LONGEST_FOLDER:
        return
    config["tempdir"] = tempfile.mkdtemp(prefix="pymp-", dir="/tmp")
    multiprocessing.util.Finalize(None, shutil.rmtree, args=(config["tempdir"], True), exitpriority=-100)
