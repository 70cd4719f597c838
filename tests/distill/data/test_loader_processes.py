"""Loader processes: a small shared memory does not stop them, a silent one ends with its cause, none outlives its reader."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import pytest
import torch

from distill.data import build_dataset
from distill.data import loader_memory as memory
from distill.data import stream as streams
from distill.data.config import AugmentationConfig, ScenesConfig
from distill.data.sample import Sample, SegmentationDataset
from distill.data.stream import HostBatch, LoaderError, stream
from distill.errors import UsageError

VIEW = AugmentationConfig(crop=32, scale=(1.0, 1.5))


def batches(count: int, **options: int) -> list[HostBatch]:
    scenes = ScenesConfig(size=32, classes=4, train=12)
    return list(islice(stream(build_dataset(scenes, "train"), VIEW, batch_size=4, seed=3, **options), count))


@pytest.mark.slow
def test_batches_through_pipes_are_those_of_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free_bytes", lambda: 64)
    packed = []
    unpacked = streams._unpacked
    monkeypatch.setattr(streams, "_unpacked", lambda share: packed.append(type(share)) or unpacked(share))
    loaded, plain = batches(5, loader_workers=1), batches(5)
    assert set(packed) == {streams._Packed}
    for one, other in zip(loaded, plain, strict=True):
        assert torch.equal(one.images_b3hw, other.images_b3hw)
        assert torch.equal(one.labels_bhw, other.labels_bhw)
        assert torch.equal(one.index, other.index)
        assert one.images_b3hw.stride() == other.images_b3hw.stride()


def test_a_shared_memory_that_is_too_small_is_said_with_both_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    view = AugmentationConfig(crop=(512, 1024))
    needed = memory.bytes_needed(view, 16, 4)
    assert needed == 13 * 16 * 512 * 1024 * 4
    monkeypatch.setattr(memory, "free_bytes", lambda: 64 * 2**20)
    said = memory.shortage(needed)
    assert said is not None
    assert "need 416 MiB of shared memory and /dev/shm has 64 MiB free" in said
    assert "--shm-size" in said
    monkeypatch.setattr(memory, "free_bytes", lambda: needed)
    assert memory.shortage(needed) is None


@dataclass
class Silent(SegmentationDataset):
    """A data set that never gives a picture; a file says that one has been asked for."""

    asked: Path
    name, classes, palette, broken_share = "silent", ("a", "b"), ((0, 0, 0), (1, 1, 1)), 0.0

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Sample:
        self.asked.touch()
        threading.Event().wait()
        raise AssertionError


@pytest.mark.parametrize(("free", "kind", "said"), [
    (0, UsageError, "/dev/shm has 0 MiB free, and they need .*; start the container with a larger --shm-size"),
    (2**30, LoaderError, "gave no batch for"),
])  # fmt: skip
def test_a_loader_that_gives_nothing_ends_with_its_cause_at_the_first_step(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, free: int, kind: type[Exception], said: str
) -> None:
    monkeypatch.setattr(streams, "_LOOK_SECONDS", 0.1)
    monkeypatch.setattr(streams, "free_bytes", lambda: free)
    waiting = stream(
        Silent(tmp_path / "asked"), VIEW, batch_size=2, seed=0, loader_workers=1, timeout_seconds=0.3
    )
    with pytest.raises(kind, match=said):
        next(waiting)


PROGRAM = """
import sys
from pathlib import Path
from tests.distill.data.test_loader_processes import Silent, VIEW
from distill.data.stream import stream
if __name__ == "__main__":
    next(stream(Silent(Path(sys.argv[1])), VIEW, batch_size=2, seed=0, loader_workers=1))
"""


def loaders_of(pid: int) -> Iterator[int]:
    """Processes that a process's fork server started."""
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, path.read_text().split()):
            for below in Path(f"/proc/{child}/task").glob("*/children"):
                yield from map(int, below.read_text().split())


def is_running(pid: int) -> bool:
    """Whether a process exists and has not ended: an ended one may wait for its parent to ask for its exit code."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_no_loader_process_outlives_the_process_that_reads_its_batches(tmp_path: Path) -> None:
    file, asked = tmp_path / "program.py", tmp_path / "asked"
    file.write_text(PROGRAM)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[3])])}
    reader = subprocess.Popen(
        [sys.executable, str(file), str(asked)], env=environment, start_new_session=True
    )
    found: list[int] = []
    try:
        while not asked.exists():
            assert reader.poll() is None
            time.sleep(0.05)
        found = list(loaders_of(reader.pid))
        assert found
        reader.kill()
        reader.wait()
        while any(map(is_running, found)):
            time.sleep(0.05)
    finally:
        for pid in (reader.pid, *found):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
