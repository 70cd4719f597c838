"""Where trials and a cohort meet: one small asyncio actor per cohort. Applications, reports, decisions.

The desk computes nothing. It may forget everything: trials apply again, the cohort posts its reports again, and a
report is known by (trial, step), so that telling twice is telling once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from orchestrator.plan import Trial, Wave
from orchestrator.report import Report, Status

T = TypeVar("T")
POLL_SECONDS = 10.0  # how long a call waits for news before it comes back with none


@dataclass(frozen=True)
class WaveOrder:
    """The trials of a wave that are to be trained."""

    wave: Wave
    trials: tuple[Trial, ...]

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
    activity: str = "starting"


class Desk:
    """The actor's class; `ray.remote(Desk)` is made in `cluster`."""

    def __init__(self) -> None:
        self._news = asyncio.Condition()
        self._wave: WaveOrder | None = None
        self._applied: set[str] = set()
        self._reports: dict[str, list[Report]] = {}
        self._kept: dict[int, set[str]] = {}
        self._closed = False
        self._stopping = False
        self._progress = Progress()

    async def open_wave(self, wave: WaveOrder) -> None:
        """The sweep: these trials make up the next wave; it starts once all have applied."""
        async with self._news:
            self._wave = wave
            self._applied &= {trial.trial_id for trial in wave.trials}
            self._kept = {}
            self._news.notify_all()

    async def close(self) -> None:
        """The sweep: no wave follows."""
        async with self._news:
            self._closed = True
            self._news.notify_all()

    async def stop(self) -> None:
        """The sweep: leave off at the next exchange, with a checkpoint."""
        async with self._news:
            self._stopping = True
            self._news.notify_all()

    async def decide(self, rung: int, keep: Sequence[str], drop: Sequence[str]) -> None:
        """The scheduler: who goes on beyond a rung; those dropped end here."""
        async with self._news:
            self._kept.setdefault(rung, set()).update(keep)
            for trial_id in drop:
                self._end(trial_id, rung)
            self._news.notify_all()

    def _end(self, trial_id: str, rung: int) -> None:
        at_rung = [report for report in self._reports.get(trial_id, []) if report.step == rung]
        if at_rung:
            last = at_rung[-1]
            self._add(Report(trial_id, rung, status="pruned", tune_miou=last.tune_miou, costs=last.costs,
                             started_at=last.started_at, finished_at=last.finished_at))  # fmt: skip

    async def end_all(self, status: Status, error: str | None) -> None:
        """The sweep: the cohort is gone; every trial that still waits for it ends."""
        async with self._news:
            for trial in self._wave.trials if self._wave else ():
                told = self._reports.get(trial.trial_id, [])
                if not told or told[-1].status is None:
                    self._add(
                        Report(trial.trial_id, told[-1].step if told else 0, status=status, error=error)
                    )
            self._news.notify_all()

    async def apply(self, trial_id: str) -> None:
        """A trial: takes its seat."""
        async with self._news:
            self._applied.add(trial_id)
            self._news.notify_all()

    async def follow(self, trial_id: str, seen: int) -> list[Report]:
        """A trial: the reports after the first `seen`; waits for some, and may come back with none."""
        return await self._when(lambda: self._reports.get(trial_id, [])[seen:] or None) or []

    async def next_wave(self, finished: int) -> WaveOrder | Literal["closed"] | None:
        """The cohort: the wave to train, `closed` when none follows, None when there is no news yet."""

        def ready() -> WaveOrder | Literal["closed"] | None:
            if self._stopping:
                return "closed"
            wave = self._wave
            if wave is not None and wave.index != finished:
                members = {trial.trial_id for trial in wave.trials}
                return wave if members <= self._applied else None
            return "closed" if self._closed else None

        return await self._when(ready)

    async def post(self, reports: Sequence[Report]) -> None:
        """The cohort: reports, in order; those already told are passed over."""
        async with self._news:
            for report in reports:
                self._add(report)
            self._news.notify_all()

    def _add(self, report: Report) -> None:
        told = self._reports.setdefault(report.trial_id, [])
        if all((other.step, other.status) != (report.step, report.status) for other in told):
            told.append(report)

    async def kept(self, rung: int, trial_ids: Sequence[str]) -> list[str] | None:
        """The cohort: which of these go on beyond a rung; None while that is not decided."""
        wanted = set(trial_ids)

        def decided() -> list[str] | None:
            ended = {t for t in wanted if any(r.status for r in self._reports.get(t, []))}
            kept = self._kept.get(rung, set())
            return [t for t in trial_ids if t in kept - ended] if wanted <= kept | ended else None

        return await self._when(decided)

    async def pulse(self, progress: Progress) -> bool:
        """The cohort: where it stands. Returns whether it must leave off."""
        self._progress = progress
        return self._stopping

    async def progress(self) -> Progress:
        """The sweep: where the cohort stands."""
        return self._progress

    async def _when(self, look: Callable[[], T | None]) -> T | None:
        """What `look` finds, as soon as it finds something; None after a while, so that no caller hangs on us."""
        async with self._news:
            try:
                await asyncio.wait_for(self._news.wait_for(lambda: look() is not None), POLL_SECONDS)
            except TimeoutError:
                return None
            return look()
