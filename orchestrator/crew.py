"""Crews: the workers of one Ray Train run train one cohort after the other, teachers first; the last draws the gallery.

To start workers takes long beside what a small cohort costs: Ray's processes, torch, the device. So a crew that has
trained its cohort is not sent home while another waits.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Literal

import ray

from orchestrator.cluster import worker_resources
from orchestrator.cohort_job import CohortJob, GalleryJob, work
from orchestrator.news import News
from orchestrator.run import Run
from orchestrator.search import BESIDE_THE_DRIVER


class Assignments:
    """Which cohort each crew trains: one small asyncio actor per sweep; `ray.remote` is made below."""

    def __init__(self) -> None:
        self._news = News()
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


class Crews:
    """The crews of a sweep.

    Args:
        run: the sweep's.
        room: how many crews the cluster holds now beside each other.
    """

    def __init__(self, run: Run, room: Callable[[], int]) -> None:
        self.room = room
        self._run = run
        self._assignments: Any = None
        self._idle: list[str] = []
        self._runs: dict[str, Future[None]] = {}
        self._lock = threading.Lock()

    def train(self, job: CohortJob, wanted: Callable[[], int]) -> None:
        """Has a crew train this cohort, one that waits or a new one; returns when it is over.

        Args:
            job: the cohort's work.
            wanted: how many cohorts are still to come; a crew for which there is none goes home.

        Raises:
            Exception: what ended Ray's run for good.
        """
        with self._lock:
            if self._assignments is None:
                actor: Any = ray.remote(Assignments)
                # Beside the driver, whose end is the sweep's, as the desks are.
                self._assignments = actor.options(num_cpus=0, resources=BESIDE_THE_DRIVER).remote()
            crew = self._idle.pop() if self._idle else f"crew-{uuid.uuid4().hex[:8]}"
            ray.get(self._assignments.assign.remote(crew, job))
            if crew not in self._runs:
                self._runs[crew] = in_a_thread(crew, lambda: self._start(crew))
        self._wait(crew)
        with self._lock:
            self._idle.append(crew)
        self.keep(wanted())

    def draw(self, job: GalleryJob) -> list[str] | None:
        """Has a crew that waits draw the gallery; returns what it leaves out, or None where no crew waits.

        Raises:
            Exception: what ended Ray's run for good.
        """
        with self._lock:
            if not self._idle:
                return None
            crew = self._idle.pop()
            ray.get(self._assignments.assign.remote(crew, job))
        self._wait(crew)
        notes: list[str] | None = ray.get(self._assignments.notes.remote(crew))
        return notes

    def _wait(self, crew: str) -> None:
        while not ray.get(self._assignments.is_over.remote(crew)):
            if self._runs[crew].done():
                self._runs.pop(crew).result()
                raise RuntimeError(f"the Ray Train run of {crew} ended before its work was done")

    def keep(self, most: int) -> None:
        """Sends home those that wait, but for so many."""
        with self._lock:
            while len(self._idle) > most:
                self._assignments.close.remote(self._idle.pop())

    def close(self) -> None:
        """Sends all home and waits until they are gone."""
        for crew in self._runs:
            self._assignments.close.remote(crew)
        for ended in self._runs.values():
            ended.result()

    def _start(self, crew: str) -> None:
        """The crew's Ray Train run. Workers that died are started again; the desk says when that has no sense."""
        from ray.train import FailureConfig, RunConfig, ScalingConfig

        from orchestrator.process_group import ProcessGroup
        from orchestrator.trainer import CohortTrainer

        compute = self._run.config.compute
        on_gpu = compute.device == "cuda"
        each = worker_resources(compute, self._run.config.operation)
        CohortTrainer(
            work,
            train_loop_config={"crew": crew, "assignments": self._assignments},
            backend_config=ProcessGroup("nccl" if on_gpu else "gloo"),
            scaling_config=ScalingConfig(
                num_workers=compute.workers, use_gpu=on_gpu, resources_per_worker=each
            ),
            run_config=RunConfig(
                name=crew,
                storage_path=self._run.ledger.below("ray").root,
                failure_config=FailureConfig(  # type: ignore[call-arg]  # the V2 class is what is imported
                    max_failures=-1, controller_failure_limit=10
                ),
            ),
        ).fit()


def in_a_thread(name: str, work: Callable[[], None]) -> Future[None]:
    """Does work in a thread of its own; what it raises waits in the future."""
    pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)
    future = pool.submit(work)
    pool.shutdown(wait=False)
    return future
