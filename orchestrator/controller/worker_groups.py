"""WorkerGroupPool: the workers of one Ray Train run train one cohort after the other, teachers first; the last draws the gallery.

To start workers takes long beside what a small cohort costs: Ray's processes, torch, the device. So a crew that has
trained its cohort is not sent home while another waits.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import ray

from orchestrator.cluster.session import worker_resources
from orchestrator.controller.coordinator import CoordinatorClient
from orchestrator.controller.run_state import Run
from orchestrator.worker.main import CohortJob, GalleryJob, work


class WorkerGroupPool:
    """The crews of a sweep.

    Args:
        run: the sweep's.
        room: how many crews the cluster holds now beside each other.
    """

    def __init__(self, run: Run, room: Callable[[], int]) -> None:
        self.room = room
        self.start_seconds: list[float] = []
        """What it took crews that had to be started until they trained."""
        self._started_for: set[str] = set()
        self._run = run
        self._office: CoordinatorClient | None = None
        self._idle: list[str] = []
        self._runs: dict[str, Future[None]] = {}
        self._lock = threading.Lock()

    @property
    def office(self) -> CoordinatorClient:
        """Where the sweep and its crews meet; it opens when it is first needed, as Ray may not be."""
        with self._lock:
            self._office = self._office or CoordinatorClient()
            return self._office

    def train(self, job: CohortJob, wanted: Callable[[], int]) -> None:
        """Has a crew train this cohort, one that waits or a new one; returns when it is over.

        Args:
            job: the cohort's work.
            wanted: how many cohorts are still to come; a crew for which there is none goes home.

        Raises:
            Exception: what ended Ray's run for good.
        """
        assignments = self.office.assignments
        with self._lock:
            crew = self._idle.pop() if self._idle else f"crew-{uuid.uuid4().hex[:8]}"
            ray.get(assignments.assign.remote(crew, job))
            if crew not in self._runs:
                self._started_for.add(job.name)
                self._runs[crew] = in_a_thread(crew, lambda: self._start(crew))
        self._wait(crew)
        with self._lock:
            self._idle.append(crew)
        self.keep(wanted())

    def trains(self, desk: str, seconds: float) -> None:
        """The crew at this desk was first seen to train so long after the desk was opened."""
        if desk in self._started_for:
            self.start_seconds.append(seconds)

    def draw(self, job: GalleryJob) -> list[str] | None:
        """Has a crew that waits draw the gallery; returns what it leaves out, or None where no crew waits.

        Raises:
            Exception: what ended Ray's run for good.
        """
        assignments = self.office.assignments
        with self._lock:
            if not self._idle:
                return None
            crew = self._idle.pop()
            ray.get(assignments.assign.remote(crew, job))
        self._wait(crew)
        notes: list[str] | None = ray.get(assignments.notes.remote(crew))
        return notes

    def _wait(self, crew: str) -> None:
        while not ray.get(self.office.assignments.is_over.remote(crew)):
            if self._runs[crew].done():
                self._runs.pop(crew).result()
                raise RuntimeError(f"the Ray Train run of {crew} ended before its work was done")

    def keep(self, most: int) -> None:
        """Sends home those that wait, but for so many."""
        with self._lock:
            while self._office is not None and len(self._idle) > most:
                self._office.assignments.close.remote(self._idle.pop())

    def close(self) -> None:
        """Sends all home and waits until they are gone."""
        if self._office is None:
            return
        for crew in self._runs:
            self._office.assignments.close.remote(crew)
        for ended in self._runs.values():
            ended.result()
        self._office.close()

    def _start(self, crew: str) -> None:
        """The crew's Ray Train run. Workers that died are started again; the desk says when that has no sense."""
        from ray.train import FailureConfig, RunConfig, ScalingConfig

        from orchestrator.controller.ray_trainer import WorkerGroupTrainer
        from orchestrator.controller.torch_backend import TorchBackendConfig

        compute = self._run.config.compute
        on_gpu = compute.device == "cuda"
        each = worker_resources(compute, self._run.config.operation)
        WorkerGroupTrainer(
            work,
            train_loop_config={"crew": crew, "assignments": self.office.assignments},
            backend_config=TorchBackendConfig("nccl" if on_gpu else "gloo"),
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
