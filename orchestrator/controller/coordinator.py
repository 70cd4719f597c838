"""Where the sweep, its crews and Tune's process meet: one asyncio actor beside the driver for the whole sweep.

A desk for each crew, the crews' assignments and the mail are plain classes of their own; the actor only holds them.
"""

from __future__ import annotations

import uuid
from typing import Any

import ray

from orchestrator.controller.assignments import Assignments
from orchestrator.controller.cohort_channel import CohortChannel
from orchestrator.controller.report_queue import PolledReport, ReportQueue

# What computes nothing takes no CPU from a cohort. Beside the driver, whose end is the sweep's: a node that is taken
# away must not take it along.
BESIDE_THE_DRIVER = {"node:__internal_head__": 0.0001}
_ASSIGNMENTS = "assignments"


class ChannelClosedError(Exception):
    """The phase of this desk is over."""


class Coordinator:
    """The actor's class; `CoordinatorClient` starts it."""

    def __init__(self) -> None:
        self._mail = ReportQueue()
        self._parts: dict[str, Any] = {_ASSIGNMENTS: Assignments()}

    async def open(self, desk: str, max_failures: int) -> None:
        """The sweep: a desk of this name, see `CohortChannel`."""
        self._parts[desk] = CohortChannel(max_failures, self._mail)

    async def close(self, desk: str) -> None:
        """The sweep: nobody needs this desk any more."""
        self._parts.pop(desk, None)

    async def at(self, part: str, method: str, arguments: tuple[Any, ...]) -> Any:
        """Everyone: what a method of a desk, or of the assignments, answers."""
        if part not in self._parts:
            raise ChannelClosedError(part)
        return await getattr(self._parts[part], method)(*arguments)

    async def visit(self, trial_id: str, seen: int) -> PolledReport:
        """Tune's process: see `ReportQueue.visit`."""
        return await self._mail.visit(trial_id, seen)


class CoordinatorClient:
    """The office as the sweep sees it; to make one starts the actor, whose name is `name`."""

    def __init__(self) -> None:
        self.name = f"office-{uuid.uuid4().hex[:8]}"
        office: Any = ray.remote(Coordinator)
        self._actor = office.options(
            name=self.name, num_cpus=0, max_restarts=0, resources=BESIDE_THE_DRIVER
        ).remote()
        self.assignments = PartHandle(self._actor, _ASSIGNMENTS)

    def open_desk(self, name: str, max_failures: int) -> PartHandle:
        """A new desk."""
        ray.get(self._actor.open.remote(name, max_failures))
        return PartHandle(self._actor, name)

    def close_desk(self, name: str) -> None:
        """Nobody needs this desk any more."""
        ray.get(self._actor.close.remote(name))

    def close(self) -> None:
        """Ends the actor. A worker may still hold a handle, which would keep its process alive."""
        ray.kill(self._actor)


class PartHandle:
    """A part of the office as those elsewhere see it: `handle.post.remote(…)`, as if it were an actor of its own.

    Args:
        office: the handle of the `Coordinator`.
        part: a desk's name, or that of the assignments.
    """

    def __init__(self, office: Any, part: str) -> None:
        self.office = office
        self.part = part

    def __getattr__(self, method: str) -> _Method:
        if method.startswith("_"):  # what pickle asks for before there is an office
            raise AttributeError(method)
        return _Method(self.office, self.part, method)


class _Method:
    def __init__(self, office: Any, part: str, method: str) -> None:
        self._office, self._part, self._method = office, part, method

    def remote(self, *arguments: Any) -> Any:
        return self._office.at.remote(self._part, self._method, arguments)
