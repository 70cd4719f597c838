"""A cohort in its workers: one teacher pass, many students. Waves, rungs, reports, checkpoints, resume.

Every worker runs `train_cohort`. Rank 0 talks to the desk and tells the others; all decide alike, since all see the
same reduced losses. A trial's numbers depend on its configuration and the stream alone: not on who sits beside it,
nor on when the run was cut.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import ray
import torch
from torch import Tensor

from distill.data import Role
from distill.data.stream import HostBatch, normalise, stream
from distill.models import Output
from distill.random_state import RandomState
from distill.recipe import digest
from distill.training import Batch, Student, StudentSpec
from orchestrator.attention import Attention
from orchestrator.checkpoints import CohortCheckpoints, load_weights
from orchestrator.cohort_job import SKIPPED_PICTURES, CohortJob
from orchestrator.desk import Beginning, Progress, WaveOrder
from orchestrator.ledger import Ledger
from orchestrator.plan import trial_weights
from orchestrator.report import Costs, Report
from orchestrator.reporting import Reporter
from orchestrator.scoring import LoadedTeacher, Scorer
from orchestrator.seat import BlamedError, Seat
from orchestrator.seating import Seating
from orchestrator.stopwatch import Stopwatch
from orchestrator.teaching import Teaching
from orchestrator.workers import Workers


class LeaveOffError(Exception):
    """The sweep asked the cohort to leave off; its checkpoint is written."""


def train_cohort(job: CohortJob, beginning: Beginning | None) -> None:
    """A worker's part in a cohort: wave after wave until the desk is closed or asks to leave off.

    Args:
        job: the cohort's work.
        beginning: what the desk told rank 0.
    """
    workers = Workers(job.compute)
    known = workers.told(lambda: beginning)
    if known is None or known.given_up:
        return
    floor = TrainingFloor(job, workers, known)
    try:
        for wave in floor.waves():
            floor.run_wave(wave)
    except LeaveOffError:
        return
    finally:
        floor.close()
        workers.free_memory()


class TrainingFloor:
    """A worker's side of a cohort: the teacher and the data, loaded once, and the seats of the wave at hand."""

    def __init__(self, job: CohortJob, workers: Workers, beginning: Beginning) -> None:
        self.job = job
        self.blamed = beginning.blamed
        self.attention = Attention(
            job.desk,
            leads=workers.leads,
            limit_seconds=job.operation.hang_seconds,
            careful=beginning.careful,
        )
        self.cohort = job.cohort
        self.workers = workers
        self.ledger = Ledger(job.run)
        role: Role = "teacher" if job.cohort.teacher is None else "student"
        self.train = job.dataset("train", role)
        self.scorer = Scorer(job, workers, self.ledger, self.attention.still_there)
        self.teacher: Teaching | None = None
        if job.cohort.teacher is not None:
            self.teacher = Teaching(job, job.cohort.teacher, self.ledger, workers.device)
        self.checkpoints = CohortCheckpoints(
            self.ledger,
            job.cohort.cohort_id,
            workers,
            job.operation.checkpoints_kept,
            job.operation.checkpoint_seconds,
        )
        self.reporter = Reporter(job.desk, workers, self.ledger)
        self.seating = Seating(workers, job.operation.seats, self._fill, self.reporter.fail)
        self._prepared: dict[str, tuple[dict[str, Tensor], float]] = {}

    def close(self) -> None:
        """Nothing more is to be trained."""
        self.attention.leave()
        if self.teacher is not None:
            self.teacher.close()

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
            while group := self.seating.next_group(stop):
                if present := self.seating.enter(group):
                    self._advance(present, stop)
                    self._score_all(present, stop)
            self._score_all(self.seating.training(), stop)  # who came here before the run was cut
            if stop in self.wave.rungs:
                self._prune(stop)
            self._checkpoint()

    def _seat(self, order: WaveOrder) -> None:
        """Seats the wave's trials, each where the newest sound checkpoint has it, else at step 0."""
        saved = self.checkpoints.turn_to(order.index)
        self.seating.seats = []
        for trial in order.trials:
            entry = saved.get(trial.trial_id)
            seat = Seat(trial) if entry is None else Seat.restored(trial, entry)
            if seat.ended and trial.trial_id in order.retried:
                seat = Seat(trial)
            if not seat.ended and trial.trial_id in self.blamed:
                self.reporter.fail(seat, BlamedError(self.blamed[trial.trial_id]))
            self.seating.seats.append(seat)
        self.reporter.post([report for seat in self.seating.seats for report in seat.reports])

    def _fill(self, seat: Seat) -> None:
        """Builds the seat's student: fresh, from where it waits, or a teacher that is only to be scored."""
        self.attention.turn_to(seat.trial.trial_id, seat.step)
        state = seat.waiting
        weights = trial_weights(seat.trial)
        if state is None and seat.trial.phase == "teacher" and self.ledger.exists(weights):
            program = self.wave.brackets[0].study.teacher.sha256  # a teacher's own cohort holds it alone
            content = self.ledger.read_bytes(weights)
            seat.student = LoadedTeacher(load_weights(content, program, self.workers.device))
            seat.step = self.wave.steps
            return
        student = self._build(seat)
        if state is not None:
            student.load_state_dict(state)
        elif student.method.preparation is not None:
            self._prepare(seat, student, student.method.preparation)
        seat.student, seat.waiting = student, None

    def _prepare(self, seat: Seat, student: Student, name: str) -> None:
        """What a method trains on the frozen teacher beforehand: once for all seats, the same whoever asks first."""
        if name not in self._prepared:
            begun = time.perf_counter()
            with RandomState(0, self.workers.device):
                state = student.method.prepare(self._teacher_batches())
            self._prepared[name] = (state, time.perf_counter() - begun)
            seat.costs = replace(
                seat.costs, shared_seconds=seat.costs.shared_seconds + self._prepared[name][1]
            )
        state, seconds = self._prepared[name]
        student.method.use_prepared(state)
        seat.costs = replace(seat.costs, teacher_seconds=seat.costs.teacher_seconds + seconds)

    def _teacher_batches(self) -> Iterator[tuple[Output, Tensor]]:
        """Whole batches and the teacher's output for them, alike on every worker and in every wave."""
        assert self.teacher is not None  # only methods with a teacher prepare anything
        recipe = self.cohort.recipe
        for host in stream(
            self.train, recipe.augmentation, batch_size=recipe.batch_size, seed=0, on_skipped=self._skip
        ):
            self.attention.still_there()
            images, labels = self._on_device(host)
            yield self.teacher.computed(images), labels

    def _on_device(self, host: HostBatch) -> tuple[Tensor, Tensor]:
        images = normalise(self.workers.sent(host.images_b3hw))
        if self.cohort.recipe.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        return images, self.workers.sent(host.labels_bhw).long()

    def _build(self, seat: Seat) -> Student:
        trial = seat.trial
        accumulate = trial.recipe.accumulate * seat.accumulate
        spec = StudentSpec(
            model=trial.student.name,
            options=trial.student.options,
            method=trial.method,
            method_config=trial.method_config,
            recipe=trial.recipe.model_copy(update={"accumulate": accumulate}),
            seed=trial.seed,
            num_classes=self.train.num_classes,
        )
        info = None if self.teacher is None else self.teacher.info
        return Student(
            spec, info, device=self.workers.device, rank=self.workers.rank, reduce=self.workers.reduce
        )

    def _advance(self, group: Sequence[Seat], stop: int) -> None:
        """Trains these seats together up to step `stop`; one batch and one teacher pass serve them all."""
        start = group[0].step
        batches = self._batches(start)
        watch = Stopwatch(self.workers.device)
        rounds = self.job.operation.round_steps
        needs_teacher = self.teacher is not None and any(seat.needs_teacher for seat in group)
        for step in range(start, stop):
            if all(seat.ended or seat.step != step for seat in group):
                break
            self.attention.turn_to(None, step)
            with watch.measure("data"):
                host = next(batches)
                images, labels = self._on_device(host)
            output = None
            if needs_teacher and self.teacher is not None:
                needs = {need for seat in group if not seat.ended for need in seat.needs}
                with watch.measure("teacher"):
                    output = self.teacher.output(host, images, needs)
            batch = Batch.shared(images, labels, host.index, output, self.workers.reduce)
            self._step([seat for seat in group if not seat.ended and seat.step == step], batch, watch)
            if (step + 1 - start) % rounds == 0 or step + 1 == stop:
                self._end_round(group, watch, step + 1)

    def _step(self, seats: Sequence[Seat], batch: Batch, watch: Stopwatch) -> None:
        """One step of each student. While its gradients travel between workers, the next one computes its own."""
        travelling: list[tuple[Seat, Student]] = []
        for seat in seats:
            if isinstance(seat.student, Student):
                with self._at(seat, watch):
                    seat.student.begin_step(batch)
                travelling.append((seat, seat.student))
            if len(travelling) > (0 if self.workers.alone else 1):
                self._arrive(*travelling.pop(0), watch)
        for seat, student in travelling:
            self._arrive(seat, student, watch)

    def _arrive(self, seat: Seat, student: Student, watch: Stopwatch) -> None:
        with self._at(seat, watch):
            student.end_step()
        seat.step = student.step

    @contextmanager
    def _at(self, seat: Seat, watch: Stopwatch) -> Iterator[None]:
        """What happens inside is this seat's: its time, and its fault."""
        self.attention.turn_to(seat.trial.trial_id, seat.step)
        with watch.measure(seat.trial.trial_id):
            yield

    def _batches(self, start: int) -> Iterator[HostBatch]:
        recipe = self.cohort.recipe
        return stream(
            self.train,
            recipe.augmentation,
            batch_size=recipe.batch_size,
            seed=self.wave.stream_seed,
            start_step=start,
            rank=self.workers.rank,
            world_size=self.workers.world_size,
            loader_workers=self.job.operation.loader_workers,
            on_skipped=self._skip,
        )

    def _skip(self, message: str) -> None:
        """Notes a picture that cannot be read where the sweep finds it when it ends."""
        self.ledger.write_bytes(f"{SKIPPED_PICTURES}/{digest(message)}.txt", message.encode())

    def _end_round(self, group: Sequence[Seat], watch: Stopwatch, step: int) -> None:
        """Settles costs, drops students that failed, tells the desk, and writes a checkpoint when one is due."""
        seconds = watch.read()
        seated = [seat for seat in group if not seat.ended and seat.step == step]
        teacher, data = seconds.pop("teacher", 0.0), seconds.pop("data", 0.0)
        saved = 0.0 if self.teacher is None else self.teacher.take_saved()
        beside = self.seating.present - 1  # whoever ran out of memory did so in this company
        for seat in seated:
            own = seconds.get(seat.trial.trial_id, 0.0)
            needs = seat.needs_teacher
            share = data / len(seated) + (teacher / self._teacher_users(seated) if needs else 0.0)
            seat.costs = Costs(
                student_seconds=seat.costs.student_seconds + own,
                shared_seconds=seat.costs.shared_seconds + share,
                teacher_seconds=seat.costs.teacher_seconds + (teacher + saved if needs else 0.0),
                wall_seconds=time.time() - seat.started_at,
                peak_memory_bytes=max(seat.costs.peak_memory_bytes, self.workers.peak_memory()),
            )
            try:
                if isinstance(seat.student, Student):
                    seat.student.check()
            except Exception as error:
                self.reporter.fail_or_begin_anew(seat, error, beside)
        seats = self.seating.training()
        spent = self.workers.world_size * sum(s.costs.student_seconds + s.costs.shared_seconds for s in seats)
        self._exchange(Progress(self.wave.index, step, self.wave.steps, len(seats), "training", spent))

    @staticmethod
    def _teacher_users(seated: Sequence[Seat]) -> int:
        return sum(seat.needs_teacher for seat in seated)

    def _exchange(self, progress: Progress) -> None:
        """One word with the desk; every worker gets the same answer.

        Raises:
            LeaveOffError: the sweep wants the cohort to stop.
        """

        def ask() -> tuple[bool, bool]:
            return ray.get(self.job.desk.pulse.remote(progress)), self.checkpoints.due()

        leave_off, due = self.workers.told(ask)
        if leave_off or due:
            self._checkpoint()
        if leave_off:
            raise LeaveOffError

    def _score_all(self, seats: Sequence[Seat], stop: int) -> None:
        """Scores those that stand at `stop` and have not been scored there."""
        for seat in seats:
            scorable = not seat.ended and seat.step == stop and not seat.reported_at(stop)
            if scorable and self.seating.enter([seat]):
                self._score(seat, stop)

    def _score(self, seat: Seat, stop: int) -> None:
        """Evaluates a student that reached `stop` and reports; at the last step also on test, keeping its weights."""
        assert seat.student is not None  # a seat that trains has a student
        student = seat.student
        last = stop == self.wave.steps
        self._exchange(
            Progress(self.wave.index, stop, self.wave.steps, len(self.seating.training()), "scoring")
        )
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
        names = [seat.trial.trial_id for seat in seats]
        self.attention.rest()
        kept: list[str] | None = None
        while kept is None and names:
            kept = self.workers.told(lambda: ray.get(self.job.desk.kept.remote(rung, names)))
            if kept is None:
                self._exchange(Progress(self.wave.index, rung, self.wave.steps, len(seats), "at a rung"))
        for seat in seats:
            if kept is not None and seat.trial.trial_id not in kept:
                seat.reports.append(replace(seat.reports[-1], status="pruned"))
                seat.leave()

    def _checkpoint(self) -> None:
        self.attention.rest()
        self.checkpoints.save({seat.trial.trial_id: seat.entry() for seat in self.seating.seats})
        self.attention.got_on((self.wave.index, sum(seat.step for seat in self.seating.seats)))
