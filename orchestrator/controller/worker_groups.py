"""Worker groups: the workers of one Ray Train run train one cohort after the other. An idle one draws the gallery at the end.

Starting workers takes long compared with a small cohort: Ray's processes, torch, the device. So a group that has
trained its cohort is kept while another one waits.
"""

from __future__ import annotations

import itertools
import threading
import uuid
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TypeVar

import ray

from orchestrator.cluster import ray_private
from orchestrator.cluster.session import worker_resources
from orchestrator.controller.coordinator import CoordinatorClient
from orchestrator.controller.run_state import Run
from orchestrator.protocol import CohortJob, CoordinatorLostError, GalleryJob, RayLostError
from orchestrator.worker.main import run_jobs

T = TypeVar("T")
END_SECONDS = 120.0
"""Longest wait until worker groups have ended that have no coordinator any more."""


class WorkerGroupPool:
    """The worker groups of a sweep.

    Args:
        run: the sweep's state.
        capacity: number of worker groups that the cluster has room for now.
        say: prints a line.
    """

    def __init__(
        self, run: Run, capacity: Callable[[], int], say: Callable[[str], None] = lambda line: None
    ) -> None:
        self.capacity = capacity
        self._say = say
        self.start_seconds: list[float] = []
        """Seconds that groups took from their start to their first training step."""
        self._started_for: set[str] = set()
        self._run = run
        self._coordinator: CoordinatorClient | None = None
        self._idle: list[str] = []
        self._runs: dict[str, Future[bool]] = {}
        self._closed: set[str] = set()
        self._ended_controllers: set[str] = set()
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
        """Have an idle group draw the gallery; returns what it leaves out, or None if no group is idle or Ray has lost it.

        Raises:
            Exception: what ended the Ray Train run for good.
        """
        with self._lock:
            if not self._idle:
                return None
            group = self._idle.pop()
        assignments = self.coordinator.assignments
        try:
            assignments.assign(group, job)
            self._wait(group)
            return assignments.notes(group)
        except RayLostError:
            return None

    def is_waiting_for_room(self) -> bool:
        """Whether a group waits for room on the cluster while another one is idle."""
        return bool(self._idle) and bool(ray_private.waiting_controllers())

    def end_waiting(self) -> None:
        """End the groups that wait for room on the cluster: the run stops, or has no more work for them."""
        for controller, waits_for in ray_private.waiting_controllers().items():
            self._ended_controllers.add(controller)
            ray_private.end_waiting_controller(controller, waits_for)

    def _wait(self, group: str) -> None:
        """Wait until the group has done its job, or has ended while it waited for room."""
        while not self.coordinator.assignments.is_idle(group):
            if self._runs[group].done():
                if not self._runs.pop(group).result():
                    return
                raise RuntimeError(f"the Ray Train run of {group} ended before its work was done")

    def keep(self, most: int) -> None:
        """End idle groups until at most so many are left."""
        with self._lock:
            while self._coordinator is not None and len(self._idle) > most:
                group = self._idle.pop()
                self._closed.add(group)
                self._coordinator.assignments.close(group)

    def close(self) -> None:
        """End all groups and wait until they have ended."""
        if self._coordinator is None:
            return
        self._closed |= self._runs.keys()
        try:
            for group in self._runs:
                self._coordinator.assignments.close(group)
        except CoordinatorLostError:
            wait(self._runs.values(), END_SECONDS)  # they end by themselves
            return
        wait(self._runs.values())
        self._coordinator.close()
        for ended in self._runs.values():
            ended.result()

    def check_coordinator(self) -> None:
        """Raise `CoordinatorLostError` if the coordinator was started and its process has died since."""
        if self._coordinator is not None:
            self._coordinator.assignments.claim_once("alive")

    def replace_coordinator(self) -> None:
        """After the coordinator's death: wait until its worker groups have ended. Its next use starts another one.

        Raises:
            CoordinatorLostError: it dies again and again, or a worker group does not end.
        """
        is_allowed = self._run.ray_restarts.take()
        self._closed |= self._runs.keys()
        _, late = wait(self._runs.values(), END_SECONDS)
        if late or not is_allowed:
            raise CoordinatorLostError
        with self._lock:
            self._coordinator = None
            self._runs.clear()
            self._idle.clear()
        self._say_restart("the coordinator of this sweep")

    def _run_group(self, group: str) -> bool:
        """The Ray Train runs of a group: one, and another one each time that Ray loses the run's controller.

        Returns:
            Whether it ended by itself: `end_waiting` may have ended it.

        Raises:
            RayLostError: the controller dies again and again.
        """
        for number in itertools.count():
            try:
                self._train_run(group, f"{group}-{number}" if number else group)
                break
            except ray.exceptions.ActorDiedError as error:
                if error.actor_id in self._ended_controllers:
                    return False
                ray_private.remove_ownerless_placement_groups()
                if group in self._closed:
                    break
                if not self._run.ray_restarts.take():
                    raise RayLostError(
                        "Ray lost the Ray Train controller of a worker group again and again (its process died; is the head "
                        "node out of memory?)"
                    ) from error
                self._say_restart("the Ray Train controller of a worker group")
        return True

    def _say_restart(self, lost: str) -> None:
        self._say(
            f"Ray lost {lost} (its process died); another one is started, and the trials go on from their checkpoints"
        )

    def _train_run(self, group: str, name: str) -> None:
        """One Ray Train run. Dead workers are restarted; the cohort channel knows when to give up."""
        from ray.train import FailureConfig, RunConfig, ScalingConfig

        from orchestrator.controller.torch_backend import TorchBackendConfig

        compute = self._run.config.compute
        on_gpu = compute.device == "cuda"
        ray_private.WorkerGroupTrainer(
            run_jobs,
            train_loop_config={"group": group, "assignments": self.coordinator.assignments},
            backend_config=TorchBackendConfig("nccl" if on_gpu else "gloo"),
            scaling_config=ScalingConfig(
                num_workers=compute.workers,
                use_gpu=on_gpu,
                resources_per_worker=worker_resources(compute, self._run.config.operation),
            ),
            run_config=RunConfig(
                name=name,
                storage_path=self._run.ledger.below("ray").root,
                failure_config=FailureConfig(  # type: ignore[call-arg]  # the V2 class is what is imported
                    max_failures=-1, controller_failure_limit=10
                ),
            ),
        ).fit()


def in_a_thread(name: str, work: Callable[[], T]) -> Future[T]:
    """Run `work` in a thread of its own; returns the future, which has its exception."""
    pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)
    future = pool.submit(work)
    pool.shutdown(wait=False)
    return future
