"""Checkpoints that a thread writes while training goes on."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch

from orchestrator.ledger.tables import Ledger
from orchestrator.worker import checkpoint_manager
from orchestrator.worker.checkpoint_manager import CheckpointManager
from tests.orchestrator.worker.alone import alone_worker


class SlowLedger(Ledger):
    """Waits before every write until it is allowed."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.allowed = threading.Semaphore(0)

    def write_bytes(self, path: str, data: bytes) -> None:
        self.allowed.acquire()
        super().write_bytes(path, data)


def opened(ledger: Ledger, interval: float = 0.0) -> CheckpointManager:
    checkpoints = CheckpointManager(ledger, "cohort", alone_worker(), 2, interval)
    checkpoints.open_wave(0, all_workers=False)
    return checkpoints


def test_a_checkpoint_is_of_one_step_though_training_goes_on_while_it_is_written(tmp_path: Path) -> None:
    ledger = SlowLedger(tmp_path)
    checkpoints = opened(ledger)
    weights = torch.zeros(3)
    checkpoints.begin({"trial": {"step": 0, "weights": weights}}, (0, 0))
    weights += 1  # in place, as an optimiser does
    assert not checkpoints.due()
    assert checkpoints.poll() is None
    ledger.allowed.release(2)
    assert checkpoints.finish() == (0, 0)
    assert torch.equal(checkpoints.newest(all_workers=False)["trial"]["weights"], torch.zeros(3))
    checkpoints.close()


def test_after_a_kill_between_part_and_manifest_the_checkpoint_before_is_used(tmp_path: Path) -> None:
    ledger = SlowLedger(tmp_path)
    checkpoints = opened(ledger)
    ledger.allowed.release(3)
    for step in range(2):
        checkpoints.begin({"trial": {"step": step}}, (0, step))
        if step == 0:
            assert checkpoints.finish() == (0, 0)
    work = checkpoints._pending
    assert work is not None
    work.work.result()  # the second part is written, its manifest is not
    assert len(list(tmp_path.rglob("rank0.pt"))) == 2
    later = CheckpointManager(Ledger(tmp_path), "cohort", alone_worker(), 2, 0.0)
    assert later.open_wave(0, all_workers=False)["trial"]["step"] == 0
    ledger.allowed.release(9)
    checkpoints.finish()
    assert later.newest(all_workers=False)["trial"]["step"] == 1


def test_a_checkpoint_that_cannot_be_written_ends_the_worker(tmp_path: Path) -> None:
    class FullLedger(Ledger):
        def write_bytes(self, path: str, data: bytes) -> None:
            raise OSError("no space left on device")

    checkpoints = opened(FullLedger(tmp_path))
    checkpoints.begin({}, (0, 0))
    with pytest.raises(OSError, match="no space"):
        checkpoints.finish()


def test_checkpoints_that_take_long_are_written_less_often(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(checkpoint_manager.time, "monotonic", lambda: now[0])

    class SlowStore(Ledger):
        def write_bytes(self, path: str, data: bytes) -> None:
            now[0] += 10.0
            super().write_bytes(path, data)

    checkpoints = opened(SlowStore(tmp_path), interval=1.0)
    now[0] = 1.0
    assert checkpoints.due()
    checkpoints.begin({}, (0, 0))
    checkpoints.finish()  # after 20 seconds
    assert not checkpoints.due()
    now[0] = 40.9
    assert not checkpoints.due()
    now[0] = 41.0
    assert checkpoints.due()
