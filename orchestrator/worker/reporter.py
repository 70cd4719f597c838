"""Sends the reports of a cohort's trials, and ends a trial that failed."""

from __future__ import annotations

import time
import traceback
from collections.abc import Sequence

from distill.redaction import redacted
from orchestrator.ledger.tables import Ledger
from orchestrator.protocol import CohortChannelClient, Report
from orchestrator.worker.data_parallel import Workers
from orchestrator.worker.student_slot import StudentSlot, explain_error


class Reporter:
    """Sends reports to the cohort channel; the traceback of an error is written to the run's `logs/`.

    Args:
        channel: the cohort's.
        workers: those that train a student together; rank 0 sends for all.
        ledger: the run's.
    """

    def __init__(self, channel: CohortChannelClient, workers: Workers, ledger: Ledger) -> None:
        self._channel = channel
        self._workers = workers
        self._ledger = ledger

    def fail(self, slot: StudentSlot, error: Exception) -> None:
        """End one trial as failed. The others are not affected."""
        trace = redacted("".join(traceback.format_exception(error)))
        suffix = "" if self._workers.is_rank_0 else f"-rank{self._workers.rank}"
        self._ledger.write_bytes(f"logs/{slot.trial.trial_id}{suffix}.txt", trace.encode())
        report = Report(
            trial_id=slot.trial.trial_id,
            step=slot.step_of(error),
            remark=slot.remark,
            status="failed",
            costs=slot.costs,
            error=explain_error(error),
            started_at=slot.started_at,
            finished_at=time.time(),
        )
        self.report(slot, report)

    def report(self, slot: StudentSlot, report: Report) -> None:
        """Send one report. If it ends the trial, its student is released."""
        slot.reports.append(report)
        if report.status is not None:
            slot.release()
            self._workers.free_memory()
        self.post([report])

    def post(self, reports: Sequence[Report]) -> None:
        """Send reports as they are; those that were sent before are ignored."""
        if self._workers.is_rank_0 and reports:
            self._channel.post(reports)
