"""Worker groups: the workers of one Ray Train run train one cohort after the other. An idle one draws the gallery at the end.

Starting workers takes long compared with a small cohort: Ray's processes, torch, the device. So a group that has
trained its cohort is kept while another one waits.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait

from orchestrator.cluster.session import worker_resources
from orchestrator.controller.coordinator import CoordinatorClient
from orchestrator.controller.run_state import Run
from orchestrator.protocol import CohortJob, CoordinatorLostError, GalleryJob
from orchestrator.worker.main import run_jobs


class WorkerGroupPool:
    """The worker groups of a sweep.

    Args:
        run: the sweep's state.
        capacity: number of worker groups that the cluster has room for now.
    """

    def __init__(self, run: Run, capacity: Callable[[], int]) -> None:
        self.capacity = capacity
        self.start_seconds: list[float] = []
        """Seconds that groups took from their start to their first training step."""
        self._started_for: set[str] = set()
        self._run = run
        self._coordinator: CoordinatorClient | None = None
        self._idle: list[str] = []
        self._runs: dict[str, Future[None]] = {}
        self._lock = threading.Lock()

    @property
    def coordinator(self) -> CoordinatorClient:
        """The coordinator. The actor is started on first use, because a sweep with nothing to train starts no Ray."""
        with self._lock:
            self._coordinator = self._coordinator or CoordinatorClient()
            return self._coordinator

    def train(self, job: CohortJob, jobs_left: Callable[[], int]) -> None:
        """Have an idle group, or a new one, train this cohort; returns when it is over.

        Args:
            job: the cohort.
            jobs_left: number of jobs that follow; a group without one ends.

        Raises:
            Exception: what ended the Ray Train run for good.
        """
        assignments = self.coordinator.assignments
        with self._lock:
            group = self._idle.pop() if self._idle else f"group-{uuid.uuid4().hex[:8]}"
            assignments.assign(group, job)
            if group not in self._runs:
                self._started_for.add(job.name)
                self._runs[group] = in_a_thread(group, lambda: self._run_group(group))
        self._wait(group)
        with self._lock:
            self._idle.append(group)
        self.keep(jobs_left())

    def note_first_training(self, channel: str, seconds: float) -> None:
        """The group of this channel was first seen to train so long after the channel was opened."""
        if channel in self._started_for:
            self.start_seconds.append(seconds)

    def draw_gallery(self, job: GalleryJob) -> list[str] | None:
        """Have an idle group draw the gallery; returns what it leaves out, or None if no group is idle.

        Raises:
            Exception: what ended the Ray Train run for good.
        """
        with self._lock:
            if not self._idle:
                return None
            group = self._idle.pop()
        assignments = self.coordinator.assignments
        assignments.assign(group, job)
        self._wait(group)
        return assignments.notes(group)

    def _wait(self, group: str) -> None:
        while not self.coordinator.assignments.is_idle(group):
            if self._runs[group].done():
                self._runs.pop(group).result()
                raise RuntimeError(f"the Ray Train run of {group} ended before its work was done")

    def keep(self, most: int) -> None:
        """End idle groups until at most so many are left."""
        with self._lock:
            while self._coordinator is not None and len(self._idle) > most:
                self._coordinator.assignments.close(self._idle.pop())

    def close(self) -> None:
        """End all groups and wait until they have ended."""
        if self._coordinator is None:
            return
        if self.is_coordinator_lost():
            return  # workers are restarted for ever without it; they end with Ray
        try:
            for group in self._runs:
                self._coordinator.assignments.close(group)
        finally:
            wait(self._runs.values())
            self._coordinator.close()
        for ended in self._runs.values():
            ended.result()

    def is_coordinator_lost(self) -> bool:
        """Whether the coordinator was started and its process has died since."""
        if self._coordinator is None:
            return False
        try:
            self._coordinator.assignments.claim_once("alive")
        except CoordinatorLostError:
            return True
        return False

    def _run_group(self, group: str) -> None:
        """The Ray Train run of a group. Dead workers are restarted; the cohort channel knows when to give up."""
        from ray.train import FailureConfig, RunConfig, ScalingConfig

        from orchestrator.cluster.ray_private import WorkerGroupTrainer
        from orchestrator.controller.torch_backend import TorchBackendConfig

        compute = self._run.config.compute
        on_gpu = compute.device == "cuda"
        WorkerGroupTrainer(
            run_jobs,
            train_loop_config={"group": group, "assignments": self.coordinator.assignments},
            backend_config=TorchBackendConfig("nccl" if on_gpu else "gloo"),
            scaling_config=ScalingConfig(
                num_workers=compute.workers,
                use_gpu=on_gpu,
                resources_per_worker=worker_resources(compute, self._run.config.operation),
            ),
            run_config=RunConfig(
                name=group,
                storage_path=self._run.ledger.below("ray").root,
                failure_config=FailureConfig(  # type: ignore[call-arg]  # the V2 class is what is imported
                    max_failures=-1, controller_failure_limit=10
                ),
            ),
        ).fit()


def in_a_thread(name: str, work: Callable[[], None]) -> Future[None]:
    """Run `work` in a thread of its own; returns the future, which has its exception."""
    pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)
    future = pool.submit(work)
    pool.shutdown(wait=False)
    return future
