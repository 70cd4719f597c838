"""Which job each worker group has. Logic of the coordinator, without Ray."""

from __future__ import annotations

from typing import Literal

from orchestrator.controller.condition import Condition
from orchestrator.protocol import Job


class Assignments:
    """The current job of each worker group, and the notes of its last one."""

    def __init__(self) -> None:
        self._condition = Condition()
        self._jobs: dict[str, Job] = {}
        self._claimed: set[str] = set()
        self._notes: dict[str, list[str] | None] = {}
        self._closed: set[str] = set()

    async def assign(self, group: str, job: Job) -> None:
        """Driver: the next job of a group."""
        async with self._condition.change():
            self._jobs[group] = job

    async def close(self, group: str) -> None:
        """Driver: no further job for this group."""
        async with self._condition.change():
            self._closed.add(group)

    async def current(self, group: str, done: str | None) -> Job | Literal["closed"] | None:
        """Worker: see `AssignmentsClient.current`."""

        def answer() -> Job | Literal["closed"] | None:
            job = self._jobs.get(group)
            if job is not None and job.name != done:
                return job
            return "closed" if group in self._closed else None

        return await self._condition.wait_for(answer)

    async def claim_once(self, group: str) -> bool:
        """Worker: see `AssignmentsClient.claim_once`."""
        is_first = group not in self._claimed
        self._claimed.add(group)
        return is_first

    async def finish(self, group: str, notes: list[str] | None = None) -> None:
        """Worker: see `AssignmentsClient.finish`."""
        async with self._condition.change():
            self._notes[group] = notes
            self._jobs.pop(group, None)

    async def notes(self, group: str) -> list[str] | None:
        """Driver: notes of the group's last job."""
        return self._notes[group]

    async def is_idle(self, group: str) -> bool:
        """Driver: whether the group has no job; waits up to `condition.POLL_SECONDS` for that."""
        return bool(await self._condition.wait_for(lambda: group not in self._jobs or None))
