"""Where trials and a crew meet: a desk for each crew, all in one actor (`Coordinator`). Waves, reports, decisions.

The desk computes nothing. It may forget everything: the cohort posts its reports again, and a report is known by
(trial, step), so that telling twice is telling once. Reports lie in the office's `ReportQueue` until Tune's process fetches
them; no student waits for that, but at a rung.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from orchestrator.controller.report_queue import ReportQueue
from orchestrator.planning.plan import Trial, Wave
from orchestrator.protocol import Report, Status

STARTING, READY = "starting", "ready"
DEATHS = 2  # seen at one step of one trial before it is that trial's fault


@dataclass(frozen=True)
class WaveOrder:
    """The trials of a wave that are to be trained."""

    wave: Wave
    trials: tuple[Trial, ...]
    retried: frozenset[str] = frozenset()
    """Those that failed in an earlier command: what a checkpoint knows of that failure no longer counts."""

    @property
    def index(self) -> int:
        """The wave's number in its cohort."""
        return self.wave.index


@dataclass(frozen=True)
class Progress:
    """Where a cohort stands, for the person who watches."""

    wave: int = -1
    step: int = 0
    steps: int = 0
    seats: int = 0
    activity: str = STARTING
    worker_seconds: float = 0.0  # what the students that still train have cost so far


@dataclass(frozen=True)
class WorkerPosition:
    """Where a worker is: with a trial at a step, or (None) at what all trials share."""

    trial_id: str | None
    step: int


class GivenUpError(Exception):
    """A cohort's workers died again and again without getting further."""


@dataclass(frozen=True)
class CrashVerdict:
    """Why a trial is held to end its workers, at which step, and in which lines of code where that is known."""

    reason: str
    step: int
    stack: str


@dataclass(frozen=True)
class WorkerStart:
    """What workers are told when they start, first or again."""

    careful: bool
    """An earlier attempt died: tell beforehand where you are."""
    blamed: Mapping[str, CrashVerdict]
    """Trials that ended earlier attempts."""
    given_up: bool


@dataclass
class FailurePolicy:
    """How often the workers started, and how that ended. Deaths without a further checkpoint in between are counted.

    Whoever kills a worker is not known at first. From the first death on the workers tell each step beforehand, so
    that two more deaths at the same step of the same trial convict it. Machines that are taken away hit any step.
    """

    limit: int
    started: int = 0
    in_a_row: int = 0
    careful: bool = False
    position: tuple[int, int] = (-1, -1)
    at: WorkerPosition | None = None
    last_error: str = "killed, or its machine is gone"
    seen: Counter[WorkerPosition] = field(default_factory=Counter)
    blamed: dict[str, CrashVerdict] = field(default_factory=dict)
    fatal: Exception | None = None

    def begin(self) -> WorkerStart:
        """The workers start; if they did before, they died."""
        if self.started:
            self.in_a_row += 1
            self.careful = True
            if self.at is not None:
                self.count(
                    self.at, f"its worker died {DEATHS} times at this step; out of memory, or a fault in it"
                )
        self.started += 1
        self.at = None
        if self.in_a_row > self.limit and self.fatal is None:
            self.fatal = GivenUpError(
                f"its workers died {self.in_a_row} times in a row without getting further "
                f"(operation.max_failures is {self.limit}); the last one: {self.last_error}"
            )
        return WorkerStart(self.careful, dict(self.blamed), self.fatal is not None)

    def count(self, place: WorkerPosition, reason: str, stack: str = "") -> None:
        """An end at this place; the second one is its trial's fault."""
        self.seen[place] += 1
        if place.trial_id is not None and self.seen[place] >= DEATHS:
            self.blamed.setdefault(place.trial_id, CrashVerdict(reason, place.step, stack))
            self.in_a_row = 0

    def got_on(self, position: tuple[int, int]) -> bool:
        """A checkpoint; returns whether care is still needed."""
        if position > self.position:
            self.position, self.in_a_row, self.careful = position, 0, False
        return self.careful


class CohortChannel:
    """A crew's desk, in the `Coordinator`.

    Args:
        max_failures: starts of the workers in a row without a checkpoint in between before the cohort is given up.
        mail: the office's.
    """

    def __init__(self, max_failures: int, mail: ReportQueue) -> None:
        self._attempts = FailurePolicy(max_failures)
        self._mail = mail
        self._news = mail.news
        self._wave: WaveOrder | None = None
        self._kept: dict[int, set[str]] = {}
        self._closed = False
        self._stopping = False
        self._progress = Progress()

    async def open_wave(self, wave: WaveOrder) -> None:
        """The sweep: these trials make up the next wave."""
        async with self._news.told():
            self._wave = wave
            self._kept = {}

    async def close(self) -> None:
        """The sweep: no wave follows."""
        async with self._news.told():
            self._closed = True

    async def stop(self) -> None:
        """The sweep: leave off at the next exchange, with a checkpoint."""
        async with self._news.told():
            self._stopping = True

    async def decide(self, rung: int, keep: Sequence[str], drop: Sequence[str]) -> None:
        """The scheduler: who goes on beyond a rung; those dropped end here."""
        async with self._news.told():
            self._kept.setdefault(rung, set()).update(keep)
            for trial_id in drop:
                self._end(trial_id, rung)

    def _end(self, trial_id: str, rung: int) -> None:
        at_rung = [report for report in self._mail.of(trial_id) if report.step == rung]
        if at_rung:
            last = at_rung[-1]
            self._mail.put(Report(trial_id, rung, status="pruned", tune_miou=last.tune_miou, costs=last.costs,
                                  remark=last.remark, started_at=last.started_at, finished_at=last.finished_at))  # fmt: skip

    async def end_all(self, status: Status, error: str | None) -> None:
        """The sweep: the cohort is gone; every trial that still waits for it ends."""
        async with self._news.told():
            for trial in self._wave.trials if self._wave else ():
                told = self._mail.of(trial.trial_id)
                step = told[-1].step if told else 0
                self._mail.put(Report(trial.trial_id, step, status=status, error=error))

    async def next_wave(self, finished: int) -> WaveOrder | Literal["closed"] | None:
        """The cohort: the wave to train, `closed` when none follows, None when there is no news yet."""

        def ready() -> WaveOrder | Literal["closed"] | None:
            if self._stopping:
                return "closed"
            wave = self._wave
            if wave is not None and wave.index != finished:
                return wave
            return "closed" if self._closed else None

        return await self._news.when(ready)

    async def post(self, reports: Sequence[Report]) -> None:
        """The cohort: reports, in order; those already told are passed over."""
        async with self._news.told():
            for report in reports:
                self._mail.put(report)

    async def kept(self, rung: int, trial_ids: Sequence[str]) -> list[str] | None:
        """The cohort: which of these go on beyond a rung; None while that is not decided."""
        wanted = set(trial_ids)

        def decided() -> list[str] | None:
            ended = {t for t in wanted if self._mail.has_ended(t)}
            kept = self._kept.get(rung, set())
            return [t for t in trial_ids if t in kept - ended] if wanted <= kept | ended else None

        return await self._news.when(decided)

    async def begin(self) -> WorkerStart:
        """The cohort: its workers start, first or again."""
        if self._progress.activity == STARTING:
            self._progress = replace(self._progress, activity=READY)
        return self._attempts.begin()

    async def about_to(self, place: WorkerPosition | None) -> None:
        """The cohort, where care is needed: what it is about to do."""
        self._attempts.at = place

    async def got_on(self, position: tuple[int, int]) -> bool:
        """The cohort: a checkpoint stands at this (wave, steps); returns whether care is still needed."""
        return self._attempts.got_on(position)

    async def hung(self, place: WorkerPosition, seconds: float, stack: str) -> None:
        """The cohort: nothing moved for so long; its workers end now and are started again."""
        where = " ".join(line.strip() for line in stack.strip().splitlines()[-2:])
        reason = f"no progress within {seconds:g} s (operation.hang_seconds) in {where}"
        self._attempts.last_error = reason
        self._attempts.count(place, f"{reason}, {DEATHS} times at this step", stack)
        self._attempts.at = None

    async def note_error(self, text: str) -> None:
        """The cohort: what a worker dies of."""
        self._attempts.last_error = text

    async def give_up(self, error: Exception) -> None:
        """The cohort: something that no new start mends."""
        self._attempts.fatal = self._attempts.fatal or error

    async def fatal(self) -> Exception | None:
        """Everyone: what no new start mends, or None."""
        return self._attempts.fatal

    async def pulse(self, progress: Progress) -> bool:
        """The cohort: where it stands. Returns whether it must leave off."""
        self._progress = progress
        return self._stopping

    async def progress(self) -> Progress:
        """The sweep: where the cohort stands."""
        return self._progress
