"""The wave loop of a worker: train, score, prune, checkpoint, for all students of a cohort with one teacher pass a batch.

Every worker runs `train_cohort`. Rank 0 talks to the coordinator and broadcasts the answers. With `compute.parallelism: batches`
all workers have every student and decide alike, because all see the same reduced losses; with `students` each worker decides
about its own, and the workers run collectives for every batch and at rungs. A trial's numbers depend on its configuration and its stream
alone: not on the other students, nor on when the run was interrupted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial

from distill.device_errors import is_out_of_memory
from distill.training import Batch, Student
from orchestrator.ledger.tables import Ledger
from orchestrator.protocol import CohortJob, CohortProgress, WaveOrder, WorkerStart
from orchestrator.worker.batch_feed import BatchFeed, student_batches
from orchestrator.worker.carried_teacher import CarriedTeacher
from orchestrator.worker.checkpoint_manager import CheckpointManager
from orchestrator.worker.cost_account import CostAccount
from orchestrator.worker.data_parallel import Workers
from orchestrator.worker.device_slots import DeviceSlots
from orchestrator.worker.preemption import PreemptionNotices
from orchestrator.worker.reporter import Reporter
from orchestrator.worker.round_length import RoundLength
from orchestrator.worker.student_builder import StudentBuilder
from orchestrator.worker.student_memory import StudentMemory, device_allocator
from orchestrator.worker.student_placement import place_students, workers_of_a_student
from orchestrator.worker.student_scorer import StudentScorer
from orchestrator.worker.student_slot import CrashVerdictError, StudentSlot
from orchestrator.worker.timer import Timer
from orchestrator.worker.watchdog import Watchdog


class StopRequestedError(Exception):
    """The sweep asked the cohort to stop; its checkpoint is written."""


def train_cohort(job: CohortJob, start: WorkerStart | None, carried: CarriedTeacher) -> None:
    """A worker's part in a cohort: wave after wave until the channel is closed or asks to stop.

    Args:
        job: the cohort.
        start: the coordinator's answer to rank 0; None on other ranks.
        carried: the teacher from the cohort before; the next cohort gets this one's.
    """
    workers = Workers(job.compute)
    known = workers.from_rank_0(lambda: start)
    if known is not None and not known.given_up:
        trainer = CohortTrainer(job, workers, known, carried)
        try:
            with suppress(StopRequestedError):
                for wave in trainer.waves():
                    trainer.run_wave(wave)
        finally:
            trainer.close()
        del trainer
    workers.close()
    workers.free_memory()


class CohortTrainer:
    """One worker's side of a cohort: teacher and data, loaded once, and the students of the current wave."""

    def __init__(self, job: CohortJob, workers: Workers, start: WorkerStart, carried: CarriedTeacher) -> None:
        self.job = job
        self.verdicts = start.verdicts
        self.workers = workers
        self.student_workers = together = workers_of_a_student(workers, job.compute, job.cohort)
        self.watchdog = Watchdog(
            job.channel,
            speaks=together.is_rank_0,
            limit_seconds=job.operation.step_timeout_seconds,
            careful=start.careful,
            settle=self._settle,
            runs_ahead=workers.device.type == "cuda",
        )
        self.placement = place_students(workers, together, self.watchdog)
        self.ledger = Ledger(job.run)
        self.feed = BatchFeed(job, workers, self.placement, self.ledger, self.watchdog, carried)
        self.checkpoints = CheckpointManager(
            self.ledger, job.cohort.cohort_id, workers, job.operation.checkpoints_kept, job.operation.checkpoint_seconds
        )  # fmt: skip
        self.reporter = Reporter(job.channel, together, self.ledger)
        self.builder = StudentBuilder(
            job, workers, together, self.placement, self.feed, self.ledger, self.watchdog, carried
        )
        self.slots = DeviceSlots(
            together, job.operation.students_on_device, self.builder.build, self.reporter.fail
        )
        self.preemption = PreemptionNotices()
        self.round = RoundLength(job.operation.round_seconds)
        self.memory = StudentMemory(device_allocator(workers.device))
        self.costs = CostAccount(self.placement, self.feed, self.slots, self.memory)
        self.scorer = StudentScorer(
            job, workers, together, self.placement, self.slots, self.ledger, self.watchdog, self.reporter, self.costs, self._exchange
        )  # fmt: skip

    def close(self) -> None:
        """The cohort is over."""
        self.watchdog.stop()
        self.checkpoints.close()
        self.feed.close()

    def _settle(self) -> None:
        """Wait for the device, then for the other workers of the same students."""
        self.workers.synchronise()
        self.student_workers.gather(None)

    def waves(self) -> Iterator[WaveOrder]:
        """The waves of the channel, until it is closed."""
        finished = -1
        self.watchdog.rest()
        while (wave := self.workers.from_rank_0(partial(self._next_wave, finished))) is not None:
            yield wave
            finished = wave.index
            self.watchdog.rest()

    def _next_wave(self, finished: int) -> WaveOrder | None:
        while True:
            answer = self.job.channel.next_wave(finished)
            if isinstance(answer, WaveOrder):
                return answer
            if answer == "closed":
                return None

    def run_wave(self, order: WaveOrder) -> None:
        """Train the trials of a wave, from rung to rung."""
        self.wave = self.builder.wave = order.wave
        self.round.reset()
        self._restore_slots(order)
        self.costs.open_wave()
        for stop in sorted({*self.wave.rungs, *self.wave.evaluations, self.wave.steps}):
            while (start := self.placement.earliest(_steps(loaded := self._load_group(stop)))) is not None:
                group = [slot for slot in loaded if slot.step == start]
                # Students that are ahead, because the cohort was stopped inside a step, are caught up with first.
                ahead = [slot for slot in self.slots.training() if start < slot.step < stop]
                self._advance(group, start, self.placement.earliest(_steps(ahead)) or stop)
                self.scorer.score(group, stop, last=stop == self.wave.steps)
            self.scorer.score(
                self.slots.training(), stop, last=stop == self.wave.steps
            )  # those that were here before an interruption
            if stop in self.wave.rungs:
                self._prune(stop)
                self.placement.rebalance(self.slots)
            self._checkpoint()

    def _restore_slots(self, order: WaveOrder) -> None:
        """A slot for each trial of the wave: as in the newest sound checkpoint, otherwise at step 0."""
        self._note_checkpoint(self.checkpoints.finish())
        saved = self.checkpoints.open_wave(order.index, all_workers=self.placement.is_partitioned)
        slots: list[StudentSlot] = []
        for trial in order.trials:
            entry = saved.get(trial.trial_id)
            slot = StudentSlot(trial) if entry is None else StudentSlot.restored(trial, entry)
            if slot.ended and trial.trial_id in order.retried:
                slot = StudentSlot(trial)
            slots.append(slot)
        self.slots.slots = self.placement.own(slots)
        for slot in self.slots.training():
            if slot.trial.trial_id in self.verdicts:
                self.reporter.fail(slot, CrashVerdictError(self.verdicts[slot.trial.trial_id]))
        self.reporter.post([report for slot in self.slots.slots for report in slot.reports])

    def _load_group(self, stop: int) -> list[StudentSlot]:
        """Students of this worker at one step before `stop`, put on the device; none if none is left."""
        with self.placement.in_turn():
            while group := self.slots.next_group(stop):
                if loaded := self.slots.load(group):
                    return loaded
        return []

    def _advance(self, group: Sequence[StudentSlot], start: int, stop: int) -> None:
        """Train these students together up to step `stop`, with one batch and one teacher pass a step for all.

        A round has as many whole steps as fit, or else a part of the students of one step.
        """
        batches = student_batches(self.feed, self.wave.stream_seed, start, stop)
        timer = Timer(self.workers.device)
        step = start
        while step < stop and (needs := self.placement.needs(_at(step, group))) is not None:
            most = self.placement.most(len(_at(step, group)))
            end = min(step + max(1, self.round.units // most), stop)
            self.round.begin()
            for number in range(step, end):
                self.watchdog.move_to(None, number)
                self.feed.divide_teacher_passes(self.placement.is_partitioned or self.slots.on_device == 1)
                batch = batches.next(needs, timer)
                done = self._step_in_parts(group, number, most, batch, timer)
            units, step = done + (end - step - 1) * most, end
            self._end_round(_at(step, group), timer, step, units)

    def _step_in_parts(
        self, group: Sequence[StudentSlot], number: int, most: int, batch: Batch | Exception, timer: Timer
    ) -> int:
        """Step `number` of each student, with an exchange after as many of them as a round has, but not after the last.

        Args:
            group: this worker's students that train together.
            number: the step.
            most: largest number of students at this step on any worker, so that all workers exchange equally often.
            batch: the batch, or why there is none.
            timer: measures the round.

        Returns:
            How many students were trained since the last exchange.
        """
        slots, done = _rotated(_at(number, group), number), 0
        # Without room for the batch on some worker all students fail together, and share the device anew.
        whole = self.round.units >= most or any(self.workers.gather(isinstance(batch, Exception)))
        while True:
            size = most if whole else min(self.round.units, most - done)
            with self.placement.in_turn():
                self._step(_at(number, slots[done : done + size]), batch, timer)
            done += size
            if done >= most:
                return size
            self._end_round([slot for slot in slots if not slot.ended], timer, number, size)
            self.round.begin()

    def _step(self, slots: Sequence[StudentSlot], batch: Batch | Exception, timer: Timer) -> None:
        """One step of each student. While a student's gradients are reduced, the next one computes its own.

        Without room for the batch all of them fail, and fewer go on together from their last checkpoint.
        """
        at_a_time = 0 if self.student_workers.is_alone or self.watchdog.careful else 1
        reducing: list[tuple[StudentSlot, Student]] = []
        for slot in slots:
            if isinstance(slot.student, Student):
                with self._accounted(slot, timer):
                    if isinstance(batch, Exception):
                        slot.student.fail(batch)
                    slot.student.begin_step(None if isinstance(batch, Exception) else batch)
                reducing.append((slot, slot.student))
            if len(reducing) > at_a_time:
                self._finish_step(*reducing.pop(0), timer)
        for slot, student in reducing:
            self._finish_step(slot, student, timer)

    def _finish_step(self, slot: StudentSlot, student: Student, timer: Timer) -> None:
        with self._accounted(slot, timer):
            student.end_step()
        slot.step = student.step

    @contextmanager
    def _accounted(self, slot: StudentSlot, timer: Timer) -> Iterator[None]:
        """The time and memory of the block, and a crash in it, are this slot's."""
        self.watchdog.move_to(slot.trial.trial_id, slot.step)
        with timer.measure(slot.trial.trial_id), self.memory.measure(slot.trial.trial_id):
            yield

    def _end_round(self, slots: Sequence[StudentSlot], timer: Timer, step: int, units: int) -> None:
        """Account for costs, drop students that failed, send progress, and write a checkpoint if one is due."""
        self.costs.add_round(slots, timer)
        self._end_failed(slots)
        self._exchange(step, "training", self.round, units)

    def _end_failed(self, slots: Sequence[StudentSlot]) -> None:
        """End the trials of students that failed on any worker; those without memory are tried with less first."""
        failures = [_failure(slot) for slot in slots]
        short = [failure is not None and is_out_of_memory(failure) for failure in failures]
        anywhere = self.student_workers.gather(
            [(f is not None, s) for f, s in zip(failures, short, strict=True)]
        )
        neighbours = self.slots.on_device - 1
        again: list[StudentSlot] = []
        for number, (slot, failure) in enumerate(zip(slots, failures, strict=True)):
            if any(is_short for _, is_short in (found[number] for found in anywhere)):
                if self.slots.can_retry(slot, neighbours):
                    again.append(slot)
                    continue
            elif not any(failed for failed, _ in (found[number] for found in anywhere)):
                continue
            self.reporter.fail(slot, failure or RuntimeError("the student failed on another worker"))
        if self.placement.most(len(again)):
            saved = self.checkpoints.newest(all_workers=self.placement.is_partitioned)
            for slot in again:
                self.slots.retry(slot, neighbours, saved.get(slot.trial.trial_id))

    def _exchange(self, step: int, activity: str, length: RoundLength | None = None, units: int = 0) -> None:
        """Send progress to the coordinator; every worker gets the same answer.

        Args:
            step: where the students are.
            activity: what they do, for the progress display.
            length: length of the rounds of this activity; None for an exchange between rounds.
            units: length of the round that ends here.

        Raises:
            StopRequestedError: the sweep wants the cohort to stop.
        """
        slots = self.slots.training()
        seconds = sum(slot.costs.student_seconds + slot.costs.shared_seconds for slot in slots)
        world_size = self.student_workers.world_size
        count, spent = (self.placement.total(n) for n in (len(slots), world_size * seconds))
        progress = CohortProgress(self.wave.index, step, self.wave.steps, int(count), activity, spent)

        def ask() -> tuple[bool, bool, int, bool]:
            stop = self.job.channel.heartbeat(progress)
            following = 1 if length is None else length.next_units(units)
            return stop, self.checkpoints.due(), following, self.preemption.are_due()

        self._note_checkpoint(self.checkpoints.poll())
        stop, due, following, look = self.workers.from_rank_0(ask)
        if length is not None:
            length.units = following
        taken = look and self.preemption.is_new()
        if stop or due or taken:
            self._checkpoint()
        if stop or taken:  # the process may be gone within seconds
            self._note_checkpoint(self.checkpoints.finish())
        if stop:
            raise StopRequestedError

    def _prune(self, rung: int) -> None:
        """Wait for the decision at a rung and release the students that do not continue."""
        slots = self.slots.training()
        by_worker = self.placement.trials_by_worker([slot.trial.trial_id for slot in slots])
        names = [trial_id for trial_ids in by_worker for trial_id in trial_ids]
        self.watchdog.rest()
        kept: list[str] | None = None
        while kept is None and names:
            kept = self.workers.from_rank_0(partial(self.job.channel.survivors, rung, names))
            if kept is None:
                self._exchange(rung, "at a rung")
        for slot in slots:
            if kept is not None and slot.trial.trial_id not in kept:
                slot.reports.append(replace(slot.reports[-1], status="pruned"))
                slot.release()

    def _checkpoint(self) -> None:
        """Begin to write a checkpoint, after the one before is written."""
        self.watchdog.rest()
        self._note_checkpoint(self.checkpoints.finish())
        steps = self.placement.total(sum(slot.step for slot in self.slots.slots))
        entries = {slot.trial.trial_id: slot.entry() for slot in self.slots.slots}
        self.checkpoints.begin(entries, (self.wave.index, int(steps)))

    def _note_checkpoint(self, position: tuple[int, int] | None) -> None:
        """Tell the coordinator of a checkpoint that is written."""
        if position is not None:
            self.watchdog.careful = self.workers.from_rank_0(partial(self.watchdog.checkpointed, position))


def _at(step: int, slots: Sequence[StudentSlot]) -> list[StudentSlot]:
    """The slots that are training and at this step."""
    return [slot for slot in slots if not slot.ended and slot.step == step]


def _rotated(slots: list[StudentSlot], step: int) -> list[StudentSlot]:
    """The slots, with another one first at each step: the first after the teacher's pass takes longer, by up to a fifth on a CPU."""
    first = step % len(slots) if slots else 0
    return slots[first:] + slots[:first]


def _steps(slots: Sequence[StudentSlot]) -> int | None:
    """The smallest step of these slots."""
    return min((slot.step for slot in slots), default=None)


def _failure(slot: StudentSlot) -> Exception | None:
    """What ended a student's training on this worker; synchronises with the device."""
    try:
        if isinstance(slot.student, Student):
            slot.student.check()
    except Exception as error:
        return error.with_traceback(None)  # which holds the student
    return None
