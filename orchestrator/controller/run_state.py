"""One run: its folder, who holds it, what is recorded, when it must stop."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from distill.errors import UsageError, reading
from distill.redaction import redacted
from orchestrator.controller.wave_scheduler import RecordedTrial, WaveScheduler
from orchestrator.ledger.row_builders import curve_rows, trial_row
from orchestrator.ledger.tables import Ledger
from orchestrator.planning.config import SweepConfig
from orchestrator.planning.method_settings import method_family
from orchestrator.planning.plan import Cohort, Plan
from orchestrator.planning.prices import price_of
from orchestrator.protocol import Report

_PLAN = "plan.json"
_LOCK = "lock.json"
_TRACKERS = ("mlflow.db", "wandb", "tensorboard")
_OURS = ("tables", "checkpoints", "models", "teachers", "logs", "leaderboard", "ray", *_TRACKERS, _PLAN)
CALIBRATION = "calibration"
# What may be there before a run: a calibration's, and what trackers make when they are tried.
_BEFORE = (f"{CALIBRATION}/", "teachers/", *_TRACKERS)
_COMPACTED = ("curves", "trials")  # two files a trial; other tables have a few large ones
_COMPACTED_AFTER = 500  # trials
LOCK_SECONDS = 60.0  # a lock that was not renewed for so long belongs to nobody


@dataclass
class Run:
    """What the phases of a sweep share."""

    ledger: Ledger
    plan: Plan
    provenance_id: str = ""
    retry_failed: bool = False
    fail_fast: bool = False
    stop_reason: str | None = None
    started: float = field(default_factory=time.monotonic)
    worker_seconds: float = 0.0  # of recorded trials
    running_seconds: float = 0.0  # of those that train now
    stopped: threading.Event = field(default_factory=threading.Event)
    given_up: list[str] = field(default_factory=list)
    retried: set[str] = field(default_factory=set)
    _attempts: Counter[str] = field(default_factory=Counter)
    _since_compaction: int = 0
    _compaction: threading.Thread | None = None

    @property
    def config(self) -> SweepConfig:
        """The sweep file."""
        return self.plan.config

    def stop(self, reason: str) -> None:
        """Asks everything to leave off in order; the first reason counts."""
        self.stop_reason = self.stop_reason or reason
        self.stopped.set()

    def recorded(self) -> dict[str, RecordedTrial]:
        """Trials that need not be trained again, by id, with their scores."""
        trials = self.ledger.read("trials", ["trial_id", "attempt", "status", "gpu_seconds"]).to_pylist()
        last = {row["trial_id"]: row["status"] for row in sorted(trials, key=lambda row: row["attempt"])}
        self._attempts = Counter(row["trial_id"] for row in trials)
        self.worker_seconds = sum(row["gpu_seconds"] or 0.0 for row in trials)
        scores: dict[str, dict[int, float]] = {}
        for row in self.ledger.read("curves", ["trial_id", "step", "tune_miou"]).to_pylist():
            if row["tune_miou"] is not None:
                scores.setdefault(row["trial_id"], {})[row["step"]] = row["tune_miou"]
        self.retried = {t for t, status in last.items() if self.retry_failed and status == "failed"}
        return {
            trial_id: RecordedTrial(status, scores.get(trial_id, {}))
            for trial_id, status in last.items()
            if trial_id not in self.retried
        }

    def record(self, scheduler: WaveScheduler, cohort: Cohort, report: Report) -> None:
        """Writes an ended trial into the ledger: its curve first, then the row that makes it count."""
        if report.status == "stopped":
            return
        state = scheduler.trials[report.trial_id]
        trial = state.trial
        self._attempts[trial.trial_id] += 1
        attempt = self._attempts[trial.trial_id]
        row = trial_row(
            trial, cohort, state.wave, attempt, state.reports,
            run_name=self.config.name,
            protocol=self.config.protocol,
            family="teacher" if trial.phase == "teacher" else method_family(trial.method),
            provenance_id=self.provenance_id,
            world_size=self.config.compute.workers_of_a_student(taught=cohort.teacher is not None),
            device=self.config.compute.device,
        )  # fmt: skip
        name = f"{trial.trial_id}-{attempt}"
        self.ledger.append("curves", curve_rows(trial, state.reports), name)
        self.ledger.append("trials", [row], name)
        self.worker_seconds += row["gpu_seconds"]
        self._since_compaction += 1
        if self._since_compaction >= _COMPACTED_AFTER:
            self._compact_beside()
        if report.status == "failed" and self.fail_fast:
            self.stop("a trial failed")

    def _compact_beside(self) -> None:
        """Has files put together while trials go on, so that a run cut after thousands is soon read again."""
        if self._compaction is not None and self._compaction.is_alive():
            return

        def compact() -> None:
            with contextlib.suppress(OSError, UsageError):  # whoever needs the tables will tell of it
                self._compact()

        self._since_compaction = 0
        self._compaction = threading.Thread(target=compact, name="compaction", daemon=True)
        self._compaction.start()

    def compact(self) -> None:
        """Puts the rows of trials and curves into one file each."""
        if self._compaction is not None:
            self._compaction.join()
        self._compact()

    def _compact(self) -> None:
        for table in _COMPACTED:
            self.ledger.compact(table)

    def over_budget(self) -> str | None:
        """Which budget is used up, or None."""
        budget = self.config.budget
        hours = (time.monotonic() - self.started) / 3600
        worker_hours = (self.worker_seconds + self.running_seconds) / 3600
        price = price_of(budget)
        if budget.hours is not None and hours >= budget.hours:
            return f"budget.hours is {budget.hours:g} and used up"
        if budget.gpu_hours is not None and worker_hours >= budget.gpu_hours:
            return f"budget.gpu_hours is {budget.gpu_hours:g} and used up"
        if budget.cost is not None and price is not None and price.cost(worker_hours) >= budget.cost:
            return f"budget.cost is {budget.cost:g} and used up, at {price.hour:g} a worker hour"
        return None

    def check_budget(self) -> bool:
        """Asks everything to leave off where a budget is used up; says whether one is."""
        reason = self.over_budget()
        if reason is not None:
            self.stop(reason)
        return reason is not None

    def failures(self) -> list[dict[str, Any]]:
        """The planned trials whose last attempt failed, for the closing list."""
        columns = ["trial_id", "attempt", "study_id", "phase", "status", "error"]
        rows = sorted(self.ledger.read("trials", columns).to_pylist(), key=lambda row: row["attempt"])
        last = {row["trial_id"]: row for row in rows}
        return [row for row in last.values() if row["status"] == "failed"]

    def counts(self) -> Counter[tuple[str, str]]:
        """Recorded trials by phase and status."""
        rows = self.ledger.read("trials", ["trial_id", "attempt", "phase", "status"]).to_pylist()
        last = {row["trial_id"]: row for row in sorted(rows, key=lambda row: row["attempt"])}
        return Counter((row["phase"], row["status"]) for row in last.values())


def examine(ledger: Ledger, plan: Plan, *, fresh: bool) -> None:
    """Looks whether the folder is free, this plan's, or (`fresh`) may be emptied; changes nothing.

    Raises:
        UsageError: it holds another plan (says what differs), or something that is no run.
    """
    for path in _OURS:  # refuses a link that leads out of the folder, before Ray or anything else follows it
        ledger.exists(path)
    if not ledger.exists(_PLAN):
        if foreign := [path for path in ledger.list() if path != _LOCK and not path.startswith(_BEFORE)]:
            raise UsageError(
                f"{ledger.place()} is not empty and holds no run (first file: {foreign[0]}); choose another --output"
            )
        return
    theirs = _read_json(ledger, _PLAN, {"plan_hash": str, "config": dict})
    if not fresh and theirs["plan_hash"] != plan.plan_hash:
        found = _differences(theirs["config"], plan.config.decisive())
        lines = [redacted(f"  {key}: there {old!r}, here {new!r}") for key, old, new in found]
        raise UsageError(
            f"{ledger.place()} holds another plan:\n"
            + "\n".join(lines or ["  made by another version of this program"])
            + "\nchoose another --output, or --fresh to delete what is there"
        )


def claim(ledger: Ledger, plan: Plan, *, fresh: bool) -> None:
    """Makes the folder this plan's; `fresh` deletes the results that are there first."""
    examine(ledger, plan, fresh=fresh)
    if fresh and ledger.exists(_PLAN):  # never in a folder that is no run
        for path in _OURS:
            ledger.delete(path)
    if not ledger.exists(_PLAN):
        mine = {"plan_hash": plan.plan_hash, "config": plan.config.decisive()}
        ledger.write_bytes(_PLAN, redacted(json.dumps(mine, indent=1, sort_keys=True)).encode())


@contextlib.contextmanager
def held(ledger: Ledger) -> Iterator[None]:
    """Holds the run's folder against a second command for as long as this one lives.

    Raises:
        UsageError: another command holds it; says which.
    """
    refuse_if_held(ledger)
    me = _me()
    released = threading.Event()

    def renew() -> None:
        while True:
            with contextlib.suppress(OSError, UsageError):  # whoever writes results will tell of it
                ledger.write_bytes(_LOCK, json.dumps({**me, "renewed": time.time()}).encode())
            if released.wait(LOCK_SECONDS / 4):
                return

    ledger.write_bytes(_LOCK, json.dumps({**me, "renewed": time.time()}).encode())
    thread = threading.Thread(target=renew, name="lock", daemon=True)
    thread.start()
    try:
        yield
    finally:
        released.set()
        thread.join()
        ledger.delete(_LOCK)


def refuse_if_held(ledger: Ledger) -> None:
    """Raises UsageError when another command holds the folder; a lock that nobody renews holds nothing."""
    with contextlib.suppress(FileNotFoundError):
        holder = _read_json(ledger, _LOCK, {"host": str, "pid": int, "renewed": int | float})
        if not _is_stale(holder, _me()):
            raise UsageError(
                f"{ledger.place()} is held by process {holder['pid']} on {holder['host']}; wait for it, or stop it"
            )


def _read_json(ledger: Ledger, path: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """A small file of the run, which may have been damaged or written by anybody.

    Raises:
        UsageError: it is no JSON object with these fields. FileNotFoundError: it is not there.
    """
    data = ledger.read_bytes(path)
    with reading(ledger.place(path), "delete it if no command is at work in the folder"):
        found: dict[str, Any] = json.loads(data)
        wrong = [name for name, kind in fields.items() if not isinstance(found[name], kind)]
    if wrong:
        raise UsageError(
            f"{ledger.place(path)} has a wrong {wrong[0]}, must be as a sweep wrote it; delete it"
        )
    return found


def holder_of(ledger: Ledger) -> dict[str, Any]:
    """Host and process that hold the folder. Raises FileNotFoundError when nobody does."""
    holder = _read_json(ledger, _LOCK, {"host": str, "pid": int})
    return {key: holder[key] for key in ("host", "pid")}


def _me() -> dict[str, Any]:
    return {"host": socket.gethostname(), "pid": os.getpid()}


def _is_stale(holder: Mapping[str, Any], me: Mapping[str, Any]) -> bool:
    """Whether nobody renews the lock: its process is gone, or on another machine has been silent for long."""
    if holder["host"] == me["host"]:
        if holder["pid"] == me["pid"]:
            return True
        try:
            os.kill(holder["pid"], 0)
        except (ProcessLookupError, OverflowError):
            return True
        except PermissionError:
            return False
    return bool(time.time() - holder["renewed"] > LOCK_SECONDS)


def _differences(old: Any, new: Any, place: str = "") -> Iterator[tuple[str, Any, Any]]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted({*old, *new}):
            yield from _differences(old.get(key), new.get(key), f"{place}.{key}" if place else key)
    elif old != new:
        yield place, old, new
