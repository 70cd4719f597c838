"""The coordinator: one asyncio actor through which the driver, worker groups and Tune's poller exchange messages.

The actor only holds plain objects: a `CohortChannel` for each worker group at work, the `Assignments` and the
`ReportQueue`. The clients below have a method for each message, with its types. Every message is answered, so an error in
one reaches its sender.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any, Literal, cast

import ray

from orchestrator.controller.assignments import Assignments
from orchestrator.controller.cohort_channel import CohortChannel
from orchestrator.controller.report_queue import ReportQueue
from orchestrator.protocol import (
    ChannelClosedError,
    CohortProgress,
    CoordinatorLostError,
    Job,
    PolledReport,
    Report,
    Status,
    WaveOrder,
    WorkerPosition,
    WorkerStart,
)

HEAD_NODE = {"node:__internal_head__": 0.0001}
"""Resources of an actor that runs on the head node: it needs no CPU and must not end with a worker node."""
_ASSIGNMENTS = "assignments"


class Coordinator:
    """Class of the actor. `CoordinatorClient` starts it."""

    def __init__(self) -> None:
        self._reports = ReportQueue()
        self._parts: dict[str, Any] = {_ASSIGNMENTS: Assignments()}

    async def open_channel(self, name: str, max_failures: int) -> None:
        """Make a channel; see `CohortChannel`."""
        self._parts[name] = CohortChannel(max_failures, self._reports)

    async def close_channel(self, name: str) -> None:
        """Forget a channel."""
        self._parts.pop(name, None)

    async def call(self, part: str, method: str, arguments: tuple[Any, ...]) -> Any:
        """Call a method of a channel or of the assignments.

        Raises:
            ChannelClosedError: there is no such channel any more.
        """
        if part not in self._parts:
            raise ChannelClosedError(part)
        return await getattr(self._parts[part], method)(*arguments)

    async def poll(self, trial_id: str, seen: int) -> PolledReport:
        """See `ReportQueue.poll`."""
        return await self._reports.poll(trial_id, seen)


def _answer(reply: Any, timeout: float | None = None) -> Any:
    """The answer to a message; raises `CoordinatorLostError` if the actor has died."""
    try:
        return ray.get(reply, timeout=timeout)
    except ray.exceptions.ActorDiedError as error:
        raise CoordinatorLostError from error


class _PartClient:
    """Client of one part of the coordinator. It can be pickled and sent to other processes."""

    def __init__(self, actor: Any, part: str) -> None:
        self._actor = actor
        self._part = part

    def _call(self, method: str, *arguments: Any, timeout: float | None = None) -> Any:
        return _answer(self._actor.call.remote(self._part, method, arguments), timeout)


class ChannelClient(_PartClient):
    """Messages to a cohort channel: those of the driver, and those of workers (`protocol.CohortChannelClient`)."""

    def open_wave(self, wave: WaveOrder) -> None:
        """Driver: the next wave."""
        self._call("open_wave", wave)

    def close(self) -> None:
        """Driver: no wave follows."""
        self._call("close")

    def stop(self) -> None:
        """Driver: stop at the next heartbeat, with a checkpoint."""
        self._call("stop")

    def decide(self, rung: int, keep: Sequence[str], drop: Sequence[str]) -> None:
        """Driver: which trials continue beyond a rung; the others end there."""
        self._call("decide", rung, keep, drop)

    def end_all(self, status: Status, error: str | None) -> None:
        """Driver: the worker group has left; every trial of its wave that has not ended ends."""
        self._call("end_all", status, error)

    def progress(self, *, timeout: float) -> CohortProgress:
        """Driver: the last progress that was sent."""
        return cast(CohortProgress, self._call("progress", timeout=timeout))

    def start(self) -> WorkerStart:
        """Worker: the workers start, for the first time or after a crash."""
        return cast(WorkerStart, self._call("start"))

    def next_wave(self, finished: int) -> WaveOrder | Literal["closed"] | None:
        """Worker: the wave after wave `finished`."""
        return cast("WaveOrder | Literal['closed'] | None", self._call("next_wave", finished))

    def post(self, reports: Sequence[Report]) -> None:
        """Worker: reports, in order."""
        self._call("post", list(reports))

    def survivors(self, rung: int, trial_ids: Sequence[str]) -> list[str] | None:
        """Worker: those of the trials that continue beyond a rung; None while that is undecided."""
        return cast("list[str] | None", self._call("survivors", rung, trial_ids))

    def heartbeat(self, progress: CohortProgress) -> bool:
        """Worker: progress; returns whether the cohort must stop."""
        return bool(self._call("heartbeat", progress))

    def announce(self, position: WorkerPosition | None) -> None:
        """Worker: what it is about to do."""
        self._call("announce", position)

    def checkpointed(self, position: tuple[int, int]) -> bool:
        """Worker: a checkpoint was written; returns whether positions must still be announced."""
        return bool(self._call("checkpointed", position))

    def report_hang(self, position: WorkerPosition, seconds: float, stack: str, *, timeout: float) -> None:
        """Worker: no progress for so many seconds; it exits after this message."""
        self._call("report_hang", position, seconds, stack, timeout=timeout)

    def note_error(self, text: str) -> None:
        """Worker: the error that ends its process."""
        self._call("note_error", text)

    def give_up(self, error: Exception) -> None:
        """Worker: an error that a restart does not fix."""
        self._call("give_up", error)

    def fatal_error(self) -> Exception | None:
        """Driver and worker: the error that a restart does not fix, or None."""
        return cast("Exception | None", self._call("fatal_error"))


class GroupAssignmentsClient(_PartClient):
    """Messages to the assignments: those of the driver, and those of workers (`protocol.AssignmentsClient`)."""

    def assign(self, group: str, job: Job) -> None:
        """Driver: the next job of a group."""
        self._call("assign", group, job)

    def close(self, group: str) -> None:
        """Driver: no further job for this group."""
        self._call("close", group)

    def notes(self, group: str) -> list[str] | None:
        """Driver: notes of the group's last job."""
        return cast("list[str] | None", self._call("notes", group))

    def is_idle(self, group: str) -> bool:
        """Driver: whether the group has no job; waits up to `condition.POLL_SECONDS` for that."""
        return bool(self._call("is_idle", group))

    def current(self, group: str, done: str | None) -> Job | Literal["closed"] | None:
        """Worker: the group's job after job `done`."""
        return cast("Job | Literal['closed'] | None", self._call("current", group, done))

    def claim_once(self, group: str) -> bool:
        """Worker: whether it is the first to begin what must be begun only once."""
        return bool(self._call("claim_once", group))

    def finish(self, group: str, notes: list[str] | None = None) -> None:
        """Worker: the current job of a group is over."""
        self._call("finish", group, notes)


class CoordinatorClient:
    """The driver's client. The constructor starts the actor, under the name `name`."""

    def __init__(self) -> None:
        self.name = f"coordinator-{uuid.uuid4().hex[:8]}"
        coordinator: Any = ray.remote(Coordinator)
        self._actor = coordinator.options(
            name=self.name, num_cpus=0, max_restarts=0, resources=HEAD_NODE
        ).remote()
        self.assignments = GroupAssignmentsClient(self._actor, _ASSIGNMENTS)

    def open_channel(self, name: str, max_failures: int) -> ChannelClient:
        """A new cohort channel."""
        _answer(self._actor.open_channel.remote(name, max_failures))
        return ChannelClient(self._actor, name)

    def close_channel(self, name: str) -> None:
        """Forget a channel; its phase is over."""
        _answer(self._actor.close_channel.remote(name))

    def close(self) -> None:
        """End the actor. A worker may still hold a client, which would keep the actor's process alive."""
        ray.kill(self._actor)
