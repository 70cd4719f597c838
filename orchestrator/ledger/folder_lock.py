"""The lock of a run's folder: one command at a time, on a local disk, a shared disk or in an object store.

`lock.json` has the holder's host, process and a random token, and is renewed while the command runs. It is created, renewed
and released in a critical section of its own, which checks the token. On a disk that section is a kernel lock (`flock`).
pyarrow offers no lock in object stores. There each contender writes an object of its own, lists those of the others, and
enters only if there is no other: listings of S3 and GCS are consistent, so of two contenders at least one sees the other. Age is measured by the clock
of the store (modification times of two files in it), never by comparing the clocks of two machines.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn

from distill.errors import UsageError, reading
from orchestrator.ledger.tables import Ledger

LOCK_SECONDS = 60.0
"""A lock that was not renewed for this long, by the store's clock, is abandoned."""
LOCK_FILE = "lock.json"
CONTENDERS = ".contenders"
_ENTER_ATTEMPTS = 30
_STALE_CONTENDER_SECONDS = 30.0
_LOST_CODE = 2


class FolderLock:
    """The lock of one folder, as this process sees it.

    Args:
        ledger: the run.
        on_lost: called in any thread, at most once, when another command has taken the lock.
    """

    def __init__(self, ledger: Ledger, on_lost: Callable[[str], None]) -> None:
        self._ledger = ledger
        self._on_lost = on_lost
        self._token = uuid.uuid4().hex
        self._renewed_at = 0.0
        self._lost: str | None = None
        self._mutex = threading.RLock()
        self._thread = threading.local()

    def acquire(self) -> None:
        """Take the lock.

        Raises:
            UsageError: another command has it; names its process and host.
        """
        with self._critical_section():
            refuse_if_held(self._ledger)
            self._write()

    def renew(self) -> None:
        """Renew the lock if it is still ours; otherwise report that it is lost."""
        with self._mutex:
            if self._lost is not None:
                return
            with self._critical_section():
                holder = _read(self._ledger)
                if holder is not None and holder.get("token") == self._token:
                    self._write()
                    return
            self._lost = _describe(self._ledger, holder)
        self._on_lost(self._lost)

    def release(self) -> None:
        """Delete the lock if it is still ours."""
        with self._mutex, self._critical_section():
            holder = _read(self._ledger)
            if holder is not None and holder.get("token") == self._token:
                self._ledger.delete(LOCK_FILE)

    def check(self) -> None:
        """Call before a write. If the lock was not renewed for a while, it is renewed first, or found to be lost.

        Raises:
            UsageError: another command has taken the lock. Another thread may have found this and be about to end the process.
        """
        if getattr(self._thread, "inside", False):  # the lock's own writes
            return
        if _awake_and_asleep() - self._renewed_at > LOCK_SECONDS / 2:
            self.renew()
        if self._lost is not None:
            raise UsageError(self._lost)

    def _write(self) -> None:
        content = {**this_process(), "token": self._token, "renewed": time.time()}
        self._ledger.write_bytes(LOCK_FILE, json.dumps(content).encode())
        self._renewed_at = _awake_and_asleep()

    @contextlib.contextmanager
    def _critical_section(self) -> Iterator[None]:
        self._thread.inside = True
        try:
            with contextlib.ExitStack() as section:
                if not section.enter_context(self._ledger.kernel_lock()):
                    section.enter_context(self._announced())
                yield
        finally:
            self._thread.inside = False

    @contextlib.contextmanager
    def _announced(self) -> Iterator[None]:
        """The critical section in an object store: announce, list, enter if alone, else withdraw and try again."""
        mine = f"{CONTENDERS}/{self._token}-{uuid.uuid4().hex[:8]}"
        for _ in range(_ENTER_ATTEMPTS):
            self._ledger.write_bytes(mine, b"")
            now = self._ledger.modified(mine)
            others = {path for path in self._ledger.list(CONTENDERS) if path != mine}
            written = {path: self._ledger.modified(path) for path in others}
            stale = {
                path
                for path, at in written.items()
                if at is not None and now is not None and now - at > _STALE_CONTENDER_SECONDS
            }
            if others == stale:
                for path in stale:
                    self._ledger.delete(path)
                try:
                    yield
                finally:
                    self._ledger.delete(mine)
                return
            self._ledger.delete(mine)
            time.sleep(random.uniform(0.05, 1.0))
        raise UsageError(
            f"{self._ledger.place()}: other commands try to lock this folder all the time; start one at a time"
        )


@contextlib.contextmanager
def hold_run_folder(ledger: Ledger, on_lost: Callable[[str], None] | None = None) -> Iterator[FolderLock]:
    """Hold the lock of a run's folder inside the block. Every write of `ledger` checks it first.

    Args:
        ledger: the run.
        on_lost: what to do if another command takes the lock, after this process was paused for longer than the lock
            lasts. By default the process exits at once, because the folder now belongs to the other command.

    Raises:
        UsageError: another command holds the folder; names its process and host.
    """
    lock = FolderLock(ledger, on_lost or _exit_at_once)
    lock.acquire()
    released = threading.Event()

    def renew() -> None:
        while not released.wait(LOCK_SECONDS / 4):
            with contextlib.suppress(OSError, UsageError):  # the writes of results report the same error
                lock.renew()

    thread = threading.Thread(target=renew, name="lock", daemon=True)
    thread.start()
    ledger.before_write = lock.check
    try:
        yield lock
    finally:
        ledger.before_write = None
        released.set()
        thread.join(LOCK_SECONDS)
        with contextlib.suppress(
            OSError, UsageError
        ):  # the lock is then abandoned, and must hide no other error
            lock.release()


def refuse_if_held(ledger: Ledger) -> None:
    """Raise `UsageError` if another command holds the folder. An abandoned lock is ignored."""
    holder = _read(ledger)
    if holder is not None and not _is_abandoned(ledger, holder):
        raise UsageError(
            f"{ledger.place()} is held by process {holder['pid']} on {holder['host']}; wait for it, or stop it"
        )


def holder_of(ledger: Ledger) -> dict[str, Any]:
    """`host` and `pid` of the command that has the lock; raises `FileNotFoundError` if there is no lock."""
    holder = _read(ledger)
    if holder is None:
        raise FileNotFoundError(ledger.place(LOCK_FILE))
    return {key: holder[key] for key in ("host", "pid")}


def this_process() -> dict[str, Any]:
    """Host, process id and boot id, which together identify this process."""
    return {"host": socket.gethostname(), "pid": os.getpid(), "boot": _boot()}


def _read(ledger: Ledger) -> dict[str, Any] | None:
    """Content of the lock file; None if there is none.

    Raises:
        UsageError: the file is damaged.
    """
    try:
        data = ledger.read_bytes(LOCK_FILE)
    except FileNotFoundError:
        return None
    with reading(ledger.place(LOCK_FILE), "delete it if no command is at work in the folder"):
        found: dict[str, Any] = json.loads(data)
        fields = {"host": str, "pid": int, "renewed": int | float}
        wrong = [name for name, kind in fields.items() if not isinstance(found[name], kind)]
    if wrong:
        raise UsageError(
            f"{ledger.place(LOCK_FILE)} has a wrong {wrong[0]}, must be as a sweep wrote it; delete it"
        )
    return found


def _is_abandoned(ledger: Ledger, holder: Mapping[str, Any]) -> bool:
    """Whether the holder's process has ended, or has not renewed the lock for `LOCK_SECONDS`."""
    here = this_process()
    if holder["host"] == here["host"] and holder.get("boot", here["boot"]) == here["boot"]:
        if holder["pid"] == here["pid"]:
            return True
        try:
            os.kill(holder["pid"], 0)
        except (ProcessLookupError, OverflowError):
            return True
        except PermissionError:
            return False
    age = _age(ledger)
    return age is not None and age > LOCK_SECONDS


def _age(ledger: Ledger) -> float | None:
    """Seconds since the lock was renewed, by the store's clock; None if the store does not say."""
    probe = f".clock-{uuid.uuid4().hex}.tmp"
    ledger.write_bytes(probe, b"")
    try:
        now, renewed = ledger.modified(probe), ledger.modified(LOCK_FILE)
    finally:
        ledger.delete(probe)
    return None if now is None or renewed is None else now - renewed


def _awake_and_asleep() -> float:
    """Seconds since this machine started, with the time it was suspended where the system counts it."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


def _boot() -> str:
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return f"{file.read().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _describe(ledger: Ledger, holder: Mapping[str, Any] | None) -> str:
    other = "nobody" if holder is None else f"process {holder['pid']} on {holder['host']}"
    return f"{ledger.place()} is no longer held by this command but by {other}"


def _exit_at_once(message: str) -> NoReturn:
    print(f"error: {message}; it was paused for too long and ends without writing anything", file=sys.stderr)
    sys.stderr.flush()
    os._exit(_LOST_CODE)
