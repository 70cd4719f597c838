"""The coordinator's side of one worker group: waves, reports, decisions. Logic of the coordinator, without Ray.

A channel may lose everything: workers send the reports of their checkpoint again, and the wave scheduler ignores reports
that it knows. Reports wait in the coordinator's `ReportQueue` until Tune polls them; only a rung waits for Tune.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from orchestrator.controller.failure_policy import FailurePolicy
from orchestrator.controller.report_queue import ReportQueue
from orchestrator.protocol import (
    READY,
    STARTING,
    CohortProgress,
    Report,
    Status,
    WaveOrder,
    WorkerPosition,
    WorkerStart,
)


class CohortChannel:
    """State of one worker group in one cohort. Messages of workers are described at `CohortChannelClient`.

    Args:
        max_failures: starts of the workers in a row without a checkpoint in between before the cohort is given up.
        reports: the coordinator's queue.
    """

    def __init__(self, max_failures: int, reports: ReportQueue) -> None:
        self._failures = FailurePolicy(max_failures)
        self._reports = reports
        self._condition = reports.condition
        self._wave: WaveOrder | None = None
        self._kept: dict[int, set[str]] = {}
        self._closed = False
        self._stopping = False
        self._progress = CohortProgress()

    async def open_wave(self, wave: WaveOrder) -> None:
        """Driver: the next wave."""
        async with self._condition.change():
            self._wave = wave
            self._kept = {}

    async def close(self) -> None:
        """Driver: no wave follows."""
        async with self._condition.change():
            self._closed = True

    async def stop(self) -> None:
        """Driver: stop at the next heartbeat, with a checkpoint."""
        async with self._condition.change():
            self._stopping = True

    async def decide(self, rung: int, keep: Sequence[str], drop: Sequence[str]) -> None:
        """Driver: which trials continue beyond a rung; the others end there."""
        async with self._condition.change():
            self._kept.setdefault(rung, set()).update(keep)
            for trial_id in drop:
                self._prune(trial_id, rung)

    def _prune(self, trial_id: str, rung: int) -> None:
        at_rung = [report for report in self._reports.reports_of(trial_id) if report.step == rung]
        if at_rung:
            last = at_rung[-1]
            self._reports.put(
                Report(
                    trial_id,
                    rung,
                    status="pruned",
                    tune_miou=last.tune_miou,
                    costs=last.costs,
                    remark=last.remark,
                    started_at=last.started_at,
                    finished_at=last.finished_at,
                )
            )

    async def end_all(self, status: Status, error: str | None) -> None:
        """Driver: the worker group has left the cohort; every trial of its wave that has not ended ends."""
        async with self._condition.change():
            for trial in self._wave.trials if self._wave else ():
                reports = self._reports.reports_of(trial.trial_id)
                step = reports[-1].step if reports else 0
                self._reports.put(Report(trial.trial_id, step, status=status, error=error))

    async def progress(self) -> CohortProgress:
        """Driver: the last progress that was sent."""
        return self._progress

    async def next_wave(self, finished: int) -> WaveOrder | Literal["closed"] | None:
        """Worker."""

        def answer() -> WaveOrder | Literal["closed"] | None:
            if self._stopping:
                return "closed"
            wave = self._wave
            if wave is not None and wave.index != finished:
                return wave
            return "closed" if self._closed else None

        return await self._condition.wait_for(answer)

    async def post(self, reports: Sequence[Report]) -> None:
        """Worker."""
        async with self._condition.change():
            for report in reports:
                self._reports.put(report)

    async def survivors(self, rung: int, trial_ids: Sequence[str]) -> list[str] | None:
        """Worker."""
        wanted = set(trial_ids)

        def answer() -> tuple[list[str] | None] | None:
            ended = {t for t in wanted if self._reports.has_ended(t)}
            kept = self._kept.get(rung, set())
            if wanted <= kept | ended:
                return ([t for t in trial_ids if t in kept - ended],)
            return (None,) if self._stopping else None

        answered = await self._condition.wait_for(answer)
        return None if answered is None else answered[0]

    async def heartbeat(self, progress: CohortProgress) -> bool:
        """Worker."""
        self._progress = progress
        return self._stopping

    async def start(self) -> WorkerStart:
        """Worker."""
        if self._progress.activity == STARTING:
            self._progress = replace(self._progress, activity=READY)
        return self._failures.start()

    async def announce(self, position: WorkerPosition | None) -> None:
        """Worker."""
        self._failures.position = position

    async def checkpointed(self, position: tuple[int, int]) -> bool:
        """Worker."""
        return self._failures.checkpointed(position)

    async def report_hang(self, position: WorkerPosition, seconds: float, stack: str) -> None:
        """Worker."""
        self._failures.count_hang(position, seconds, stack)

    async def note_error(self, text: str) -> None:
        """Worker."""
        self._failures.last_error = text

    async def give_up(self, error: Exception) -> None:
        """Worker."""
        self._failures.fatal_error = self._failures.fatal_error or error

    async def fatal_error(self) -> Exception | None:
        """Driver and worker."""
        return self._failures.fatal_error
