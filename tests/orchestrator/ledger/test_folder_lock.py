"""One command at a time has a run's folder: simultaneous starts, a paused holder, clocks that differ."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest

from distill.errors import UsageError
from orchestrator.ledger import folder_lock
from orchestrator.ledger.folder_lock import FolderLock, hold_run_folder, holder_of, refuse_if_held
from orchestrator.ledger.tables import Ledger
from tests.distill.data.buckets import at


def start(root: str, begin: Barrier, decided: Barrier, holders: multiprocessing.Queue[int]) -> None:
    ledger = Ledger(root)
    ledger.exists("lock.json")  # the file system is opened
    begin.wait()
    try:
        with hold_run_folder(ledger):
            holders.put(os.getpid())
            decided.wait()
    except UsageError:
        decided.wait()


def holders_of_simultaneous_starts(root: str, count: int) -> int:
    context = multiprocessing.get_context("fork")
    begin, decided, holders = context.Barrier(count), context.Barrier(count), context.Queue()
    commands = [
        context.Process(target=start, args=(root, begin, decided, holders), daemon=True) for _ in range(count)
    ]
    for command in commands:
        command.start()
    for command in commands:
        command.join(60)
        assert command.exitcode == 0
    found = 0
    while not holders.empty():
        holders.get()
        found += 1
    return found


def test_of_100_commands_that_start_at_once_one_has_the_folder(tmp_path: Path) -> None:
    assert holders_of_simultaneous_starts(str(tmp_path / "run"), 100) == 1
    assert not (tmp_path / "run" / "lock.json").exists()


def test_in_an_object_store_contenders_decide_one_after_the_other(s3_server: str) -> None:
    inside, overlaps, entered = threading.Lock(), [], []

    def contend(begin: threading.Barrier) -> None:
        lock = FolderLock(Ledger(at(s3_server, "runs/contended")), lambda message: None)
        begin.wait()
        with lock._critical_section():
            overlaps.append(not inside.acquire(blocking=False))
            time.sleep(0.05)
            inside.release()
            entered.append(lock)

    for _ in range(3):
        begin = threading.Barrier(3)
        threads = [threading.Thread(target=contend, args=(begin,)) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(entered) == 9
    assert not any(overlaps)


HOLDS = """
import sys
from orchestrator.ledger import folder_lock
from orchestrator.ledger.tables import Ledger
folder_lock.LOCK_SECONDS = 1.0
ledger = Ledger(sys.argv[1])
with folder_lock.hold_run_folder(ledger):
    print("held", flush=True)
    sys.stdin.readline()
    ledger.write_bytes("logs/late.txt", b"written after the pause")
    print("written", flush=True)
"""


def test_a_holder_that_was_paused_for_too_long_ends_and_writes_nothing_more(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as first:
        assert first.stdin is not None
        assert first.stdout is not None
        assert first.stderr is not None
        assert first.stdout.readline() == "held\n"
        os.kill(first.pid, signal.SIGSTOP)
        time.sleep(1.2)  # the pause is longer than the lock lasts
        lock = json.loads((tmp_path / "lock.json").read_text())
        (tmp_path / "lock.json").write_text(json.dumps({**lock, "host": "another", "token": "another's"}))
        os.kill(first.pid, signal.SIGCONT)
        first.stdin.write("\n")
        first.stdin.flush()
        said, printed = first.stderr.read(), first.stdout.read()
    assert "is no longer held by this command but by process" in said
    assert first.returncode == 2
    assert printed == ""
    assert not (tmp_path / "logs").exists()
    assert json.loads((tmp_path / "lock.json").read_text())["token"] == "another's"


@pytest.mark.parametrize("hours", [-1, 1])
def test_a_lock_of_a_machine_whose_clock_is_an_hour_off_counts(tmp_path: Path, hours: int) -> None:
    ledger = Ledger(tmp_path)
    other = {"host": "another", "pid": 1, "token": "t", "renewed": time.time() + 3600 * hours}
    ledger.write_bytes("lock.json", json.dumps(other).encode())
    with pytest.raises(UsageError, match="is held by process 1 on another"):
        refuse_if_held(ledger)


def test_a_lock_that_nobody_renews_is_taken_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Ledger(tmp_path)
    other = {"host": "another", "pid": 1, "token": "t", "renewed": 0}
    ledger.write_bytes("lock.json", json.dumps(other).encode())
    old = time.time() - folder_lock.LOCK_SECONDS - 5
    os.utime(tmp_path / "lock.json", (old, old))
    with hold_run_folder(ledger):
        assert holder_of(ledger)["pid"] == os.getpid()


def test_nothing_is_written_between_the_loss_of_the_lock_and_the_end_of_the_process(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    lost: list[str] = []
    with hold_run_folder(ledger, lost.append) as lock:
        # the thread that finds the loss has not ended the process yet
        other = {"host": "another", "pid": 1, "token": "t", "renewed": 0}
        (tmp_path / "lock.json").write_text(json.dumps(other))
        lock.renew()
        with pytest.raises(UsageError, match="no longer held by this command but by process 1 on another"):
            ledger.write_bytes("logs/late.txt", b"written by the other thread")
    assert len(lost) == 1
    assert not (tmp_path / "logs").exists()


def test_release_leaves_the_lock_of_another(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    lost: list[str] = []
    with hold_run_folder(ledger, lost.append) as lock:
        other = {"host": "another", "pid": 1, "token": "t", "renewed": 0}
        (tmp_path / "lock.json").write_text(json.dumps(other))
        lock.renew()
    assert len(lost) == 1
    assert json.loads((tmp_path / "lock.json").read_text()) == other
