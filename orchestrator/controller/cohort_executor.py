"""Runs the cohorts of a phase on worker groups: as many at a time as the cluster has capacity for."""

from __future__ import annotations

import statistics
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from orchestrator.controller.run_state import Run
from orchestrator.controller.wave_dispatcher import ActiveChannel, WaveDispatcher
from orchestrator.controller.worker_groups import WorkerGroupPool
from orchestrator.planning.plan import Cohort
from orchestrator.protocol import CohortJob, CohortProgress, GivenUpError


class CohortExecutor:
    """The cohorts of a phase, each in a thread of the driver while a worker group trains it.

    Capacity may grow and shrink meanwhile. A cohort that loses its node waits until another cohort frees one. A
    placement group is reserved as a whole, so no two cohorts wait for each other. When there is capacity for more worker groups than there are
    cohorts, a cohort gets a second group, a third, as long as that ends the phase sooner.

    Args:
        run: the sweep's state.
        dispatcher: the phase's.
        cohorts: those with a trial to train.
        groups: the sweep's worker groups.
        later: number of jobs after this phase.
    """

    def __init__(
        self,
        run: Run,
        dispatcher: WaveDispatcher,
        cohorts: Sequence[Cohort],
        groups: WorkerGroupPool,
        later: int,
    ) -> None:
        self._run = run
        self._dispatcher = dispatcher
        self._waiting = [(cohort, 1) for cohort in cohorts]
        self._groups = groups
        self._later = later
        most = sum(len(cohort.waves) for cohort in cohorts)
        self._pool = ThreadPoolExecutor(max_workers=most, thread_name_prefix="cohort")
        self._started: list[Future[None]] = []
        self._groups_of: Counter[str] = Counter()
        self._given_up: set[str] = set()
        self._lock = threading.Lock()
        for cohort, number in self._waiting:
            dispatcher.expect(_channel_name(cohort.cohort_id, number))

    def fill(self, progress: Mapping[str, CohortProgress]) -> None:
        """Start cohorts for which there is capacity. If the run stops, start all that wait: they then end at once.

        Args:
            progress: of the active channels, by name.
        """
        with self._lock:
            stops = self._dispatcher.stopping or self._run.stopped.is_set()
            running = sum(not future.done() for future in self._started)
            capacity = self._groups.capacity()
            free = len(self._waiting) if stops else max(capacity - running, 0)
            for name, seconds in self._dispatcher.update(progress).items():
                self._groups.note_first_training(name, seconds)
            if free and not stops and not self._waiting:
                self._waiting += self._further_group()
            for cohort, number in self._waiting[:free]:
                self._started.append(self._pool.submit(self._train, cohort, number))
                self._groups_of[cohort.cohort_id] += 1
            del self._waiting[:free]
            # An idle group must not hold the machine that a cohort at work has lost, or waits for on a shared cluster.
            self._groups.keep(0 if self._groups.is_waiting_for_room() else max(capacity - running, 0))
            if stops:
                self._groups.end_waiting()

    def _further_group(self) -> list[tuple[Cohort, int]]:
        """One more worker group for the cohort with most work left, if it is then done sooner."""
        if not self._groups.start_seconds:
            return []
        scheduler = self._dispatcher.scheduler
        estimates = {c: self._dispatcher.makespan(c) for c in scheduler.cohorts if c not in self._given_up}
        start = statistics.median(self._groups.start_seconds)
        gains = [
            (e.seconds(), c) for c, e in estimates.items() if e is not None and e.ends_sooner_with(start)
        ]
        if not gains:
            return []
        cohort = scheduler.cohorts[max(gains)[1]]
        number = 1 + self._groups_of[cohort.cohort_id]
        return [(cohort, number)] if self._dispatcher.expect(_channel_name(cohort.cohort_id, number)) else []

    def _jobs_left(self) -> int:
        """Number of jobs for which worker groups are still needed."""
        scheduler = self._dispatcher.scheduler
        unopened = sum(scheduler.unopened(cohort_id) for cohort_id in scheduler.cohorts)
        return max(len(self._waiting), unopened) + self._later

    def _train(self, cohort: Cohort, number: int) -> None:
        """One worker group's part in a cohort, wave after wave. Runs in a thread of the driver."""
        run, dispatcher, name = self._run, self._dispatcher, _channel_name(cohort.cohort_id, number)
        if run.stopped.is_set():
            dispatcher.add(name, None)
            return
        try:
            client = self._groups.coordinator.open_channel(name, run.config.operation.max_failures)
        except BaseException:
            dispatcher.add(name, None)
            raise
        channel = ActiveChannel(name, cohort.cohort_id, client, number)
        dispatcher.add(name, channel)
        error: str | None = None
        try:
            # The stop may have come after the check above, before this channel was known.
            if run.stopped.is_set() or dispatcher.stopping:
                client.stop()
            self._groups.train(CohortJob(run.ledger.root, run.config, cohort, client, name), self._jobs_left)
            if not channel.has_trained:  # it was over before the first look at its progress
                self._groups.note_first_training(name, time.monotonic() - channel.opened_channel_at)
            fatal = client.fatal_error()
            if isinstance(fatal, GivenUpError):
                self._given_up.add(cohort.cohort_id)
                error = f"cohort {cohort.cohort_id} was given up: {fatal}"
                run.given_up.append(error)
            elif fatal is not None:
                raise fatal
            elif dispatcher.scheduler.is_done(cohort.cohort_id):  # nothing is left to resume
                run.ledger.delete(f"checkpoints/{cohort.cohort_id}")
        except BaseException as failure:
            error = str(failure)
            raise
        finally:
            dispatcher.remove(name)
            client.end_all("stopped", error)

    def stop(self) -> None:
        """Ask all worker groups to stop; no further wave is opened."""
        self._dispatcher.stopping = True
        for channel in list(self._dispatcher.active.values()):
            channel.client.stop()

    def wait(self) -> None:
        """Wait until all cohorts that were started have ended."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def close(self) -> None:
        """Close the channels of this phase."""
        for cohort_id, groups in self._groups_of.items():
            for number in range(1, groups + 1):
                self._groups.coordinator.close_channel(_channel_name(cohort_id, number))

    def raise_first(self) -> None:
        """Raise the first exception that ended a cohort."""
        for future in self._started:
            if not future.cancelled():
                future.result()


def _channel_name(cohort_id: str, number: int) -> str:
    return f"{cohort_id}-{number}"
