"""State of one run: what is recorded, what it has cost, and when it must stop."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from distill.errors import UsageError
from orchestrator.controller.failure_policy import RestartBudget
from orchestrator.controller.wave_scheduler import WaveScheduler
from orchestrator.ledger.queries import latest_attempts
from orchestrator.ledger.recorded import recorded_trials
from orchestrator.ledger.repair import incomplete_trials
from orchestrator.ledger.row_builders import curve_rows, trial_row
from orchestrator.ledger.tables import Ledger
from orchestrator.planning.config import SweepConfig
from orchestrator.planning.method_settings import method_family
from orchestrator.planning.plan import Cohort, Plan
from orchestrator.planning.prices import price_of
from orchestrator.planning.replay import RecordedTrial
from orchestrator.protocol import Report

_COMPACTED = ("curves", "trials")  # a file a trial; other tables have fewer or larger files
_COMPACTED_AFTER = 500  # trials


@dataclass
class Run:
    """The state that all phases of a sweep share."""

    ledger: Ledger
    plan: Plan
    provenance_id: str = ""
    retry_failed: bool = False
    fail_fast: bool = False
    stop_reason: str | None = None
    started: float = field(default_factory=time.monotonic)
    worker_seconds: float = 0.0  # of recorded trials
    running_seconds: float = 0.0  # of trials that are training
    stopped: threading.Event = field(default_factory=threading.Event)
    given_up: list[str] = field(default_factory=list)
    ray_restarts: RestartBudget = field(default_factory=RestartBudget)
    incomplete: dict[str, str] = field(default_factory=dict)
    """Recorded trials that lack a part, by id, with the name of that part. They are trained again."""
    retried: set[str] = field(default_factory=set)
    _attempts: Counter[str] = field(default_factory=Counter)
    _since_compaction: int = 0
    _compaction: threading.Thread | None = None

    @property
    def config(self) -> SweepConfig:
        """The sweep file."""
        return self.plan.config

    def stop(self, reason: str) -> None:
        """Ask everything to stop in order. The first reason counts."""
        self.stop_reason = self.stop_reason or reason
        self.stopped.set()

    def recorded(self) -> dict[str, RecordedTrial]:
        """Trials that are not trained again, by id, with their scores."""
        trials = self.ledger.read("trials", ["trial_id", "attempt", "status", "gpu_seconds"]).to_pylist()
        self.incomplete = incomplete_trials(self.ledger)
        self._attempts = Counter(row["trial_id"] for row in trials)
        self.worker_seconds = sum(row["gpu_seconds"] or 0.0 for row in trials)
        found = recorded_trials(self.ledger, trials)
        failed = {t for t, trial in found.items() if self.retry_failed and trial.status == "failed"}
        self.retried = failed | self.incomplete.keys()
        return {trial_id: trial for trial_id, trial in found.items() if trial_id not in self.retried}

    def record(self, scheduler: WaveScheduler, cohort: Cohort, report: Report) -> None:
        """Write an ended trial into the ledger: its curve first, then the row that makes it count."""
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
            world_size=self.config.compute.workers_of_a_student(has_teacher=cohort.teacher is not None),
            device=self.config.compute.device,
        )  # fmt: skip
        name = f"{trial.trial_id}-{attempt}"
        self.ledger.append("curves", curve_rows(trial, state.reports), name)
        self.ledger.append("trials", [row], name)
        self.ray_restarts.refill()
        self.worker_seconds += row["gpu_seconds"]
        self._since_compaction += 1
        if self._since_compaction >= _COMPACTED_AFTER:
            self._compact_in_background()
        if report.status == "failed" and self.fail_fast:
            self.stop("a trial failed")

    def _compact_in_background(self) -> None:
        """Compact tables in a thread while trials are training, so that a long run is read quickly after an interruption."""
        if self._compaction is not None and self._compaction.is_alive():
            return

        def compact() -> None:
            with contextlib.suppress(OSError, UsageError):  # the next reader reports it
                self._compact()

        self._since_compaction = 0
        self._compaction = threading.Thread(target=compact, name="compaction", daemon=True)
        self._compaction.start()

    def compact(self) -> None:
        """Put the rows of trials, curves and counts into one file each, at the end of a run."""
        if self._compaction is not None:
            self._compaction.join()
        self._compact()
        self.ledger.compact("counts")  # not while trials are training: the table may have millions of rows

    def _compact(self) -> None:
        for table in _COMPACTED:
            self.ledger.compact(table)

    def over_budget(self) -> str | None:
        """The budget that is used up, as a sentence, or None."""
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
        """Stop the run if a budget is used up; returns whether one is."""
        reason = self.over_budget()
        if reason is not None:
            self.stop(reason)
        return reason is not None

    def failures(self) -> list[dict[str, Any]]:
        """Trials whose last attempt failed."""
        columns = ["trial_id", "attempt", "study_id", "phase", "status", "error"]
        rows = latest_attempts(self.ledger.read("trials", columns).to_pylist())
        return [row for row in rows if row["status"] == "failed"]

    def counts(self) -> Counter[tuple[str, str]]:
        """Recorded trials by phase and status."""
        rows = self.ledger.read("trials", ["trial_id", "attempt", "phase", "status"]).to_pylist()
        return Counter((row["phase"], row["status"]) for row in latest_attempts(rows))
