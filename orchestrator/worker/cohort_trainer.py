"""A cohort in its workers: one teacher pass, many students. Waves, rungs, reports, checkpoints, resume.

Every worker runs `train_cohort`. Rank 0 talks to the desk and tells the others. Where the workers divide batches, all
have every student and decide alike, since all see the same reduced losses; where they divide students (`compute.divide`),
each decides about its own, and they meet for every batch, which one of them passes on, and at rungs. A trial's numbers
depend on its configuration and the stream alone: not on who sits beside it, nor on when the run was cut.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import ray
from torch import Tensor

from distill.random_state import RandomState
from distill.training import Batch, Student, StudentSpec
from orchestrator.controller.cohort_channel import Progress, WaveOrder, WorkerStart
from orchestrator.ledger.tables import Ledger
from orchestrator.ledger.weights import load_saved_model, trial_weights
from orchestrator.protocol import Costs, Report
from orchestrator.worker.batch_feed import BatchFeed, StudentBatches
from orchestrator.worker.checkpoint_manager import CheckpointManager
from orchestrator.worker.data_parallel import Workers
from orchestrator.worker.device_slots import DeviceSlots
from orchestrator.worker.evaluator import Evaluator, LoadedTeacher
from orchestrator.worker.main import CarriedTeacher, CohortJob
from orchestrator.worker.reporter import Reporter
from orchestrator.worker.student_placement import StudentPlacement, peers_of
from orchestrator.worker.student_slot import CrashVerdictError, StudentSlot
from orchestrator.worker.timer import Timer
from orchestrator.worker.watchdog import Watchdog


class StopRequestedError(Exception):
    """The sweep asked the cohort to leave off; its checkpoint is written."""


def train_cohort(job: CohortJob, beginning: WorkerStart | None, along: CarriedTeacher) -> None:
    """A worker's part in a cohort: wave after wave until the desk is closed or asks to leave off.

    Args:
        job: the cohort's work.
        beginning: what the desk told rank 0.
        along: what this worker has from the cohort before, and leaves to the next.
    """
    workers = Workers(job.compute)
    known = workers.told(lambda: beginning)
    if known is None or known.given_up:
        return
    floor = CohortTrainer(job, workers, known, along)
    try:
        for wave in floor.waves():
            floor.run_wave(wave)
    except StopRequestedError:
        return
    finally:
        floor.close()
        workers.free_memory()


class CohortTrainer:
    """A worker's side of a cohort: the teacher and the data, loaded once, and the seats of the wave at hand."""

    def __init__(
        self, job: CohortJob, workers: Workers, beginning: WorkerStart, along: CarriedTeacher
    ) -> None:
        self.job = job
        self.along = along
        self.blamed = beginning.blamed
        self.peers = peers = peers_of(workers, job.compute, job.cohort)
        self.attention = Watchdog(
            job.desk,
            leads=peers.leads,
            limit_seconds=job.operation.hang_seconds,
            careful=beginning.careful,
        )
        self.workers = workers
        self.division = StudentPlacement(workers, peers, self.attention)
        self.ledger = Ledger(job.run)
        self.supply = BatchFeed(job, workers, self.division, self.ledger, self.attention, along)
        self.scorer = Evaluator(job, peers, self.ledger, self.attention.still_there)
        self.checkpoints = CheckpointManager(
            self.ledger,
            job.cohort.cohort_id,
            workers,
            job.operation.checkpoints_kept,
            job.operation.checkpoint_seconds,
        )
        self.reporter = Reporter(job.desk, peers, self.ledger)
        self.seating = DeviceSlots(peers, job.operation.seats, self._fill, self.reporter.fail)
        self._prepared: dict[str, tuple[dict[str, Tensor], float]] = {}

    def close(self) -> None:
        """Nothing more is to be trained."""
        self.attention.leave()
        self.supply.close()

    def waves(self) -> Iterator[WaveOrder]:
        """The waves that the desk hands out, until it closes."""
        finished = -1
        self.attention.rest()
        while (wave := self.workers.told(partial(self._next_wave, finished))) is not None:
            yield wave
            finished = wave.index
            self.attention.rest()

    def _next_wave(self, finished: int) -> WaveOrder | None:
        while True:
            answer: WaveOrder | str | None = ray.get(self.job.desk.next_wave.remote(finished))
            if isinstance(answer, WaveOrder):
                return answer
            if answer == "closed":
                return None

    def run_wave(self, order: WaveOrder) -> None:
        """Trains the trials of a wave, from rung to rung."""
        self.wave = order.wave
        self._seat(order)
        for stop in sorted({*self.wave.rungs, *self.wave.evaluations, self.wave.steps}):
            while (start := self.division.earliest(present := self._present(stop))) is not None:
                group = [seat for seat in present if seat.step == start]
                self._advance(group, start, stop)
                self._score_all(group, stop)
            self._score_all(self.seating.training(), stop)  # who came here before the run was cut
            if stop in self.wave.rungs:
                self._prune(stop)
                self.division.even_out(self.seating)
            self._checkpoint()

    def _seat(self, order: WaveOrder) -> None:
        """Seats the wave's trials, each where the newest sound checkpoint has it, else at step 0."""
        saved = self.checkpoints.turn_to(order.index, of_all=self.division.of_students)
        seats: list[StudentSlot] = []
        for trial in order.trials:
            entry = saved.get(trial.trial_id)
            seat = StudentSlot(trial) if entry is None else StudentSlot.restored(trial, entry)
            if seat.ended and trial.trial_id in order.retried:
                seat = StudentSlot(trial)
            seats.append(seat)
        self.seating.seats = self.division.mine(seats)
        for seat in self.seating.training():
            if seat.trial.trial_id in self.blamed:
                self.reporter.fail(seat, CrashVerdictError(self.blamed[seat.trial.trial_id]))
        self.reporter.post([report for seat in self.seating.seats for report in seat.reports])

    def _present(self, stop: int) -> list[StudentSlot]:
        """Students of this worker, now on the device, that stand at one step short of `stop`; none where none is left."""
        with self.division.in_turn():
            while group := self.seating.next_group(stop):
                if present := self.seating.enter(group):
                    return present
        return []

    def _fill(self, seat: StudentSlot) -> None:
        """Builds the seat's student: fresh, from where it waits, or a teacher that is only to be scored."""
        self.attention.turn_to(seat.trial.trial_id, seat.step)
        state = seat.waiting
        weights = trial_weights(seat.trial)
        if state is None and seat.trial.phase == "teacher" and self.ledger.exists(weights):
            program = self.wave.brackets[0].study.teacher.sha256  # a teacher's own cohort holds it alone
            model = load_saved_model(self.ledger, weights, program, self.workers.device)
            seat.student = LoadedTeacher(model)
            if program is None:  # what has run changes how a program runs
                self.along.put(weights, model)
            seat.step = self.wave.steps
            return
        student = self._build(seat)
        if state is not None:
            student.load_state_dict(state)
        elif student.method.preparation is not None:
            self._prepare(seat, student, student.method.preparation)
        seat.student, seat.waiting = student, None

    def _prepare(self, seat: StudentSlot, student: Student, name: str) -> None:
        """What a method trains on the frozen teacher beforehand: once for all seats, the same whoever asks first."""
        if name not in self._prepared:
            begun = time.perf_counter()
            with RandomState(0, self.workers.device):
                state = student.method.prepare(self.supply.teacher_batches())
            self._prepared[name] = (state, time.perf_counter() - begun)
            seat.costs = replace(
                seat.costs, shared_seconds=seat.costs.shared_seconds + self._prepared[name][1]
            )
        state, seconds = self._prepared[name]
        student.method.use_prepared(state)
        seat.costs = replace(seat.costs, teacher_seconds=seat.costs.teacher_seconds + seconds)

    def _build(self, seat: StudentSlot) -> Student:
        trial, peers = seat.trial, self.peers
        recipe = trial.recipe.model_copy(update={"accumulate": trial.recipe.accumulate * seat.accumulate})
        if self.division.of_students and recipe.norm == "sync":  # a whole batch has nobody to wait for
            recipe = recipe.model_copy(update={"norm": "batch"})
        spec = StudentSpec(
            model=trial.student.name,
            options=trial.student.options,
            method=trial.method,
            method_config=trial.method_config,
            recipe=recipe,
            seed=trial.seed,
            num_classes=self.supply.train.num_classes,
        )
        return Student(spec, self.supply.info, device=peers.device, rank=peers.rank, reduce=peers.reduce)

    def _advance(self, group: Sequence[StudentSlot], start: int, stop: int) -> None:
        """Trains these seats together up to step `stop`; one batch and one teacher pass serve them all."""
        batches = StudentBatches(self.supply, self.wave.stream_seed, start, stop)
        watch = Timer(self.workers.device)
        step = start
        while step < stop and (needs := self.division.needs(_at(step, group))) is not None:
            end = min(step + self.job.operation.round_steps, stop)
            for number in range(step, end):
                self.attention.turn_to(None, number)
                batch = batches.next(needs, watch)
                with self.division.in_turn():
                    self._step(_at(number, group), batch, watch)
            step = end
            self._end_round(_at(step, group), watch, step)

    def _step(self, seats: Sequence[StudentSlot], batch: Batch, watch: Timer) -> None:
        """One step of each student. While its gradients travel between workers, the next one computes its own."""
        travelling: list[tuple[StudentSlot, Student]] = []
        for seat in seats:
            if isinstance(seat.student, Student):
                with self._place_of(seat, watch):
                    seat.student.begin_step(batch)
                travelling.append((seat, seat.student))
            if len(travelling) > (0 if self.peers.alone else 1):
                self._arrive(*travelling.pop(0), watch)
        for seat, student in travelling:
            self._arrive(seat, student, watch)

    def _arrive(self, seat: StudentSlot, student: Student, watch: Timer) -> None:
        with self._place_of(seat, watch):
            student.end_step()
        seat.step = student.step

    @contextmanager
    def _place_of(self, seat: StudentSlot, watch: Timer) -> Iterator[None]:
        """What happens inside is this seat's: its time, and its fault."""
        self.attention.turn_to(seat.trial.trial_id, seat.step)
        with watch.measure(seat.trial.trial_id):
            yield

    def _end_round(self, seated: Sequence[StudentSlot], watch: Timer, step: int) -> None:
        """Settles costs, drops students that failed, tells the desk, and writes a checkpoint when one is due."""
        seconds = watch.read()
        sharers, saved = self.division.sharers, self.supply.take_saved()
        teacher, data = (sharers * seconds.pop(name, 0.0) for name in ("teacher", "data"))
        fed = self.division.in_all(len(seated))
        taught = self.division.in_all(sum(seat.needs_teacher for seat in seated))
        beside = self.seating.present - 1  # whoever ran out of memory did so in this company
        for seat in seated:
            own = seconds.get(seat.trial.trial_id, 0.0)
            needs = seat.needs_teacher
            share = data / fed + (teacher / taught if needs else 0.0)
            seat.costs = Costs(
                student_seconds=seat.costs.student_seconds + own,
                shared_seconds=seat.costs.shared_seconds + share,
                teacher_seconds=seat.costs.teacher_seconds + (teacher + sharers * saved if needs else 0.0),
                wall_seconds=time.time() - seat.started_at,
                peak_memory_bytes=max(seat.costs.peak_memory_bytes, self.workers.peak_memory()),
            )
            try:
                if isinstance(seat.student, Student):
                    seat.student.check()
            except Exception as error:
                self.reporter.fail_or_begin_anew(seat, error, beside)
        self._exchange(step, "training")

    def _exchange(self, step: int, activity: str) -> None:
        """One word with the desk; every worker gets the same answer.

        Raises:
            StopRequestedError: the sweep wants the cohort to stop.
        """
        seats = self.seating.training()
        seconds = sum(seat.costs.student_seconds + seat.costs.shared_seconds for seat in seats)
        count, spent = (self.division.in_all(n) for n in (len(seats), self.peers.world_size * seconds))
        progress = Progress(self.wave.index, step, self.wave.steps, int(count), activity, spent)

        def ask() -> tuple[bool, bool]:
            return ray.get(self.job.desk.pulse.remote(progress)), self.checkpoints.due()

        leave_off, due = self.workers.told(ask)
        if leave_off or due:
            self._checkpoint()
        if leave_off:
            raise StopRequestedError

    def _score_all(self, seats: Sequence[StudentSlot], stop: int) -> None:
        """Scores those that stand at `stop` and have not been scored there."""
        waiting = [seat for seat in _at(stop, seats) if not seat.reported_at(stop)]
        for number in range(self.division.most(len(waiting))):
            self._exchange(stop, "scoring")
            with self.division.in_turn():
                if number < len(waiting) and self.seating.enter([waiting[number]]):
                    self._score(waiting[number], stop)

    def _score(self, seat: StudentSlot, stop: int) -> None:
        """Evaluates a student that reached `stop` and reports; at the last step also on test, keeping its weights."""
        assert seat.student is not None  # a seat that trains has a student
        student = seat.student
        last = stop == self.wave.steps
        self.attention.turn_to(seat.trial.trial_id, stop)
        student.average_buffers()
        score = self.scorer.score(seat.trial, student, last=last)
        if isinstance(score, Exception):
            self.reporter.fail(seat, score)
            return
        raw, weighted = student.read_losses()
        report = Report(
            trial_id=seat.trial.trial_id,
            step=stop,
            status="ok" if last else None,
            tune_miou=score.tune_miou,
            test_miou=score.test_miou,
            lr=seat.trial.recipe.lr * seat.trial.recipe.lr_factor(stop - 1),
            terms_raw=raw,
            terms_weighted=weighted,
            costs=replace(seat.costs, wall_seconds=time.time() - seat.started_at),
            checkpoint=score.weights,
            remark=seat.remark,
            started_at=seat.started_at,
            finished_at=time.time(),
        )
        self.reporter.tell(seat, report)

    def _prune(self, rung: int) -> None:
        """Waits for the decision at a rung and drops the students that do not go on."""
        seats = self.seating.training()
        names = [t for held in self.division.of_all([seat.trial.trial_id for seat in seats]) for t in held]
        self.attention.rest()
        kept: list[str] | None = None
        while kept is None and names:
            kept = self.workers.told(partial(self._kept, rung, names))
            if kept is None:
                self._exchange(rung, "at a rung")
        for seat in seats:
            if kept is not None and seat.trial.trial_id not in kept:
                seat.reports.append(replace(seat.reports[-1], status="pruned"))
                seat.leave()

    def _kept(self, rung: int, names: Sequence[str]) -> list[str] | None:
        kept: list[str] | None = ray.get(self.job.desk.kept.remote(rung, names))
        return kept

    def _checkpoint(self) -> None:
        self.attention.rest()
        self.checkpoints.save({seat.trial.trial_id: seat.entry() for seat in self.seating.seats})
        steps = self.division.in_all(sum(seat.step for seat in self.seating.seats))
        position = (self.wave.index, int(steps))
        self.attention.careful = self.workers.told(partial(self.attention.got_on, position))


def _at(step: int, seats: Sequence[StudentSlot]) -> list[StudentSlot]:
    """Those that train and stand at this step."""
    return [seat for seat in seats if not seat.ended and seat.step == step]
