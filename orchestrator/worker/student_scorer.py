"""Scores the students of a wave: as many at a time as are on the device, with one decode of each picture for all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from distill.device_errors import is_out_of_memory
from orchestrator.ledger.tables import Ledger
from orchestrator.protocol import CohortJob, Report
from orchestrator.worker.cost_account import CostAccount
from orchestrator.worker.data_parallel import Workers
from orchestrator.worker.device_slots import DeviceSlots
from orchestrator.worker.evaluator import Evaluator, Score
from orchestrator.worker.reporter import Reporter
from orchestrator.worker.round_length import RoundLength
from orchestrator.worker.student_placement import Placement
from orchestrator.worker.student_slot import StudentSlot
from orchestrator.worker.watchdog import Watchdog


class StudentScorer:
    """Scores students and reports the scores.

    A student that runs out of memory is scored again: first alone on the device, then in smaller parts of a batch.

    Args:
        job: the cohort.
        workers: all workers of the cohort.
        together: the workers that train one student together.
        placement: of the students.
        slots: of the wave.
        ledger: the run's.
        watchdog: this worker's.
        reporter: this worker's.
        costs: of the wave.
        exchange: sends progress, and ends the cohort if it must stop.
    """

    def __init__(
        self,
        job: CohortJob,
        workers: Workers,
        together: Workers,
        placement: Placement,
        slots: DeviceSlots,
        ledger: Ledger,
        watchdog: Watchdog,
        reporter: Reporter,
        costs: CostAccount,
        exchange: Callable[[int, str, RoundLength | None, int], None],
    ) -> None:
        self._workers = workers
        self._together = together
        self._placement = placement
        self._slots = slots
        self._watchdog = watchdog
        self._reporter = reporter
        self._costs = costs
        self._exchange = exchange
        self._evaluator = Evaluator(job, together, ledger)
        self._round = RoundLength(job.operation.round_seconds)

    def score(self, slots: Sequence[StudentSlot], stop: int, *, last: bool) -> None:
        """Score those that are at `stop` and were not scored there, as many at a time as are on the device."""
        while True:
            waiting = [
                slot for slot in slots if not slot.ended and slot.step == stop and not slot.was_reported(stop)
            ]
            if not self._placement.most(len(waiting)):
                return
            self._exchange(stop, "scoring", None, 0)
            self._score_some(waiting, stop, last=last)

    def _score_some(self, waiting: Sequence[StudentSlot], stop: int, *, last: bool) -> None:
        """Score students that may be on the device together; one alone where care is taken or memory was short."""
        with self._placement.in_turn():
            group = self._slots.fitting([slot for slot in waiting if not slot.scored_in]) or waiting[:1]
            group = group[:1] if self._watchdog.careful else group
            is_alone = bool(group) and group[0].scored_in > 0
            loaded = self._slots.load_alone(group[0]) if is_alone else self._slots.load(group)
            for slot in loaded:
                self._average_buffers(slot, stop)
        self._round.reset()
        scoring = None
        if loaded:
            scoring = self._evaluator.begin(loaded, stop, last=last, move_to=self._watchdog.move_to)
        try:
            left = True
            while left:
                with self._placement.in_turn():
                    if loaded:  # on every worker alike, also on one whose pictures are done
                        self._watchdog.move_to(loaded[0].trial.trial_id, stop)
                    own = scoring is not None and self._evaluator.advance(scoring, self._round.units)
                if left := any(self._workers.gather(own)):
                    self._exchange(stop, "scoring", self._round, self._round.units)
                    self._round.begin()
        finally:
            if scoring is not None:
                scoring.close()
        self._costs.add_wall_seconds()
        with self._placement.in_turn():
            for slot, score in zip(loaded, self._evaluator.scores(scoring) if scoring else (), strict=True):
                self._report_score(slot, score, stop, last=last)

    def _average_buffers(self, slot: StudentSlot, stop: int) -> None:
        """Average the running statistics over the workers, once: after an interruption the checkpoint has the averages."""
        self._watchdog.move_to(slot.trial.trial_id, stop)
        if slot.averaged_at != stop and slot.student is not None:
            slot.student.average_buffers()
            slot.averaged_at = stop

    def _report_score(self, slot: StudentSlot, score: Score | Exception, stop: int, *, last: bool) -> None:
        """Report a student's score, or that it has none. Without memory for it, it is tried with less first."""
        student = slot.student
        assert student is not None  # it was scored
        if isinstance(score, Exception):
            short = any(self._together.gather(is_out_of_memory(score)))
            if short and not slot.scored_in and self._slots.on_device > 1:
                slot.scored_in = 1
            elif short and self._evaluator.can_divide(slot):
                slot.scored_in = 2 * max(1, slot.scored_in)
            else:
                self._reporter.fail(slot, score)
            return
        raw, weighted = student.read_losses()
        report = Report(
            trial_id=slot.trial.trial_id,
            step=stop,
            status="ok" if last else None,
            tune_miou=score.tune_miou,
            test_miou=score.test_miou,
            lr=slot.trial.recipe.lr * slot.trial.recipe.lr_factor(stop - 1),
            terms_raw=raw,
            terms_weighted=weighted,
            costs=slot.costs,
            checkpoint=score.weights,
            remark=slot.remark,
            started_at=slot.started_at,
            finished_at=time.time(),
        )
        self._reporter.report(slot, report)
