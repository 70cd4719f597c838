"""What a cohort's workers tell of its trials: how they do, and how they end."""

from __future__ import annotations

import time
import traceback
from collections.abc import Sequence
from typing import Any

import ray

from distill.redaction import redacted
from orchestrator.ledger.tables import Ledger
from orchestrator.protocol import Report
from orchestrator.worker.data_parallel import Workers
from orchestrator.worker.student_slot import StudentSlot, explained, is_out_of_memory


class Reporter:
    """Tells the desk; the trace of what went wrong goes into the run's `logs/`.

    Args:
        desk: the cohort's.
        workers: the cohort's; rank 0 speaks for all.
        ledger: the run's.
    """

    def __init__(self, desk: Any, workers: Workers, ledger: Ledger) -> None:
        self._desk = desk
        self._workers = workers
        self._ledger = ledger

    def fail_or_begin_anew(self, seat: StudentSlot, error: Exception, beside: int) -> None:
        """Ends one trial. Where memory ran out it is begun anew instead: by itself, then in halved batches if it may.

        Args:
            seat: the trial's. error: what ended it here, on this worker or another.
            beside: how many other students were on the device.
        """
        recipe = seat.trial.recipe
        share = recipe.batch_size // (self._workers.world_size * recipe.accumulate)
        divides = recipe.accumulate_if_out_of_memory and seat.accumulate == 1 and share % 2 == 0
        if not any(self._workers.gathered(is_out_of_memory(error))):
            self.fail(seat, error)
        elif beside:
            seat.alone = True
            seat.begin_anew(
                f"ran out of memory by step {seat.step} beside {beside} others; trained anew by itself"
            )
        elif divides:
            seat.accumulate = 2
            seat.begin_anew(
                f"ran out of memory by step {seat.step}; trained anew with accumulate {2 * recipe.accumulate}"
            )
        else:
            self.fail(seat, error)

    def fail(self, seat: StudentSlot, error: Exception) -> None:
        """Ends one trial; the others do not notice."""
        trace = redacted("".join(traceback.format_exception(error)))
        suffix = "" if self._workers.leads else f"-rank{self._workers.rank}"
        self._ledger.write_bytes(f"logs/{seat.trial.trial_id}{suffix}.txt", trace.encode())
        report = Report(
            trial_id=seat.trial.trial_id,
            step=seat.step_of(error),
            remark=seat.remark,
            status="failed",
            costs=seat.costs,
            error=explained(error),
            started_at=seat.started_at,
            finished_at=time.time(),
        )
        self.tell(seat, report)

    def tell(self, seat: StudentSlot, report: Report) -> None:
        """One report; where it ends the trial, the student leaves the device."""
        seat.reports.append(report)
        if report.status is not None:
            seat.leave()
            self._workers.free_memory()
        self.post([report])

    def post(self, reports: Sequence[Report]) -> None:
        """Reports as they are; the desk knows those that it has had before."""
        if self._workers.leads and reports:
            ray.get(self._desk.post.remote(list(reports)))
