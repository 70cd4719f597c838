"""What each crew does now, and what its workers say of it. Logic of the `Coordinator`, without Ray."""

from __future__ import annotations

from typing import Literal

from orchestrator.controller.condition import Condition
from orchestrator.worker.main import CohortJob, GalleryJob


class Assignments:
    """Which cohort each crew trains, or that it draws the gallery."""

    def __init__(self) -> None:
        self._news = Condition()
        self._jobs: dict[str, CohortJob | GalleryJob] = {}
        self._taken_up: set[str] = set()
        self._notes: dict[str, list[str] | None] = {}
        self._closed: set[str] = set()

    async def assign(self, crew: str, job: CohortJob | GalleryJob) -> None:
        """The sweep: what this crew does now."""
        async with self._news.told():
            self._jobs[crew] = job

    async def close(self, crew: str) -> None:
        """The sweep: nothing follows for this crew."""
        async with self._news.told():
            self._closed.add(crew)

    async def current(self, crew: str, done: str | None) -> CohortJob | GalleryJob | Literal["closed"] | None:
        """A worker, who is done with a job of this name: what its crew does now; None while there is no news."""

        def given() -> CohortJob | GalleryJob | Literal["closed"] | None:
            job = self._jobs.get(crew)
            if job is not None and job.name != done:
                return job
            return "closed" if crew in self._closed else None

        return await self._news.when(given)

    async def takes_up(self, crew: str) -> bool:
        """A worker: whether it is the first to begin with what must be begun only once."""
        is_first = crew not in self._taken_up
        self._taken_up.add(crew)
        return is_first

    async def finish(self, crew: str, notes: list[str] | None = None) -> None:
        """The crew: its job is done, or there is no sense in going on with it; and what is to be said of it."""
        async with self._news.told():
            self._notes[crew] = notes
            self._jobs.pop(crew, None)

    async def notes(self, crew: str) -> list[str] | None:
        """The sweep: what the crew said of its last job."""
        return self._notes[crew]

    async def is_over(self, crew: str) -> bool:
        """The sweep: whether the crew has nothing to do; waits a while for it."""
        return bool(await self._news.when(lambda: crew not in self._jobs or None))
