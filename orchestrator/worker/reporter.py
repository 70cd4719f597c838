"""Sends the reports of a cohort's trials, and ends or restarts a trial that failed."""

from __future__ import annotations

import time
import traceback
from collections.abc import Sequence

from distill.redaction import redacted
from orchestrator.ledger.tables import Ledger
from orchestrator.protocol import CohortChannelClient, Report
from orchestrator.worker.data_parallel import Workers
from orchestrator.worker.student_slot import StudentSlot, explain_error, is_out_of_memory


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

    def fail_or_restart(self, slot: StudentSlot, error: Exception, neighbours: int) -> None:
        """End a trial. After running out of memory restart it instead: first alone, then in halved batches if allowed.

        Args:
            slot: the trial's.
            error: what ended it, on this worker or another.
            neighbours: number of other students on the device.
        """
        recipe = slot.trial.recipe
        share = recipe.batch_size // (self._workers.world_size * recipe.accumulate)
        can_halve = recipe.accumulate_if_out_of_memory and slot.accumulate == 1 and share % 2 == 0
        if not any(self._workers.gather(is_out_of_memory(error))):
            self.fail(slot, error)
        elif neighbours:
            slot.alone = True
            slot.restart(
                f"ran out of memory by step {slot.step} beside {neighbours} others; trained anew by itself"
            )
        elif can_halve:
            slot.accumulate = 2
            slot.restart(
                f"ran out of memory by step {slot.step}; trained anew with accumulate {2 * recipe.accumulate}"
            )
        else:
            self.fail(slot, error)

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
