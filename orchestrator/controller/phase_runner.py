"""Runs one phase: its cohorts on worker groups, beside one Tune run that reads their reports and decides at rungs."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import wait
from dataclasses import dataclass

import ray

from orchestrator.controller.cohort_executor import CohortExecutor
from orchestrator.controller.run_state import Run
from orchestrator.controller.trackers import start_trackers
from orchestrator.controller.tune_adapter import run_tune
from orchestrator.controller.wave_dispatcher import WaveDispatcher
from orchestrator.controller.wave_scheduler import WaveScheduler
from orchestrator.controller.worker_groups import WorkerGroupPool, in_a_thread
from orchestrator.planning.plan import Cohort
from orchestrator.protocol import CohortProgress, CoordinatorLostError, Report

WATCH_SECONDS = 1.0
ANSWER_SECONDS = 5.0  # for a channel's progress


@dataclass
class PhaseView:
    """State of a running phase, for the progress display; `progress` has the cohort's id for each worker group."""

    name: str
    scheduler: WaveScheduler
    planned: int
    progress: Sequence[tuple[str, CohortProgress]] = ()


def run_phase(
    run: Run,
    name: str,
    cohorts: Sequence[Cohort],
    *,
    groups: WorkerGroupPool,
    watch: Callable[[PhaseView], None],
    later: int = 0,
) -> None:
    """Train the trials of these cohorts that are not recorded; returns when all are recorded or the run must stop.

    Args:
        groups: the worker groups that train them.
        later: number of jobs after this phase (cohorts, the gallery), for which worker groups are kept.
        watch: called about once a second, from a thread of its own.

    Raises:
        Exception: what ended a cohort for good; every other cohort was finished first.
        CoordinatorLostError: the coordinator died again and again without a trial recorded in between.
    """
    while True:
        try:
            return _attempt_phase(run, name, cohorts, groups, watch, later)
        except CoordinatorLostError:
            groups.replace_coordinator()
            if run.stopped.is_set():
                return None


def _attempt_phase(
    run: Run,
    name: str,
    cohorts: Sequence[Cohort],
    groups: WorkerGroupPool,
    watch: Callable[[PhaseView], None],
    later: int,
) -> None:
    """`run_phase` with one coordinator; raises `CoordinatorLostError` if it dies."""
    recorded = run.recorded()
    scheduler = WaveScheduler(run.config, cohorts, recorded, run.retried)
    preview = WaveScheduler(run.config, cohorts, recorded)
    todo = preview.open_first()
    planned = sum(cohort.trials for cohort in cohorts)
    if not todo:
        watch(PhaseView(name, preview, planned))
        return
    view = PhaseView(name, scheduler, planned)
    dispatcher = WaveDispatcher(scheduler, coordinator=groups.coordinator.name)
    over = threading.Event()
    executor = CohortExecutor(run, dispatcher, todo, groups, later)
    groups.keep(len(todo) + later)
    executor.fill({})
    watcher = in_a_thread("watch", lambda: _watch(run, dispatcher, executor, view, watch, over))
    recorder = Recorder(run, scheduler)
    try:
        run_tune(
            dispatcher,
            recorder.record,
            groups.check_coordinator,
            run_name=run.config.name,
            trackers=start_trackers(run.config.operation.trackers, run.ledger, run.config.name),
        )
    except Exception:
        groups.check_coordinator()  # in Tune's words its death is something else
        raise
    finally:
        try:
            executor.stop()
        finally:
            executor.wait()
            over.set()
            wait([watcher])
        executor.close()
    watcher.result()
    watch(view)
    if recorder.failure is not None:
        raise recorder.failure
    executor.raise_first()


class Recorder:
    """Writes ended trials into the ledger. If that fails the run stops: no trial counts that is not written."""

    def __init__(self, run: Run, scheduler: WaveScheduler) -> None:
        self._run = run
        self._scheduler = scheduler
        self.failure: Exception | None = None

    def record(self, report: Report) -> None:
        """Called from within Tune, which would replace an exception by one of its own."""
        try:
            if self.failure is None:
                cohort = self._scheduler.cohort_of(self._scheduler.trials[report.trial_id].trial)
                self._run.record(self._scheduler, cohort, report)
        except Exception as error:
            self.failure = error
            self._run.stop("the ledger cannot be written")


def _watch(
    run: Run,
    dispatcher: WaveDispatcher,
    executor: CohortExecutor,
    view: PhaseView,
    watch: Callable[[PhaseView], None],
    over: threading.Event,
) -> None:
    """About once a second: check the budget, collect and show progress, pass on a stop, use new capacity.

    If this fails the phase stops: otherwise nothing would watch the budget or Ctrl-C any more.
    """
    try:
        while not over.wait(WATCH_SECONDS):
            _update(run, dispatcher, executor, view)
            watch(view)
    except BaseException:
        executor.stop()
        raise


def _update(run: Run, dispatcher: WaveDispatcher, executor: CohortExecutor, view: PhaseView) -> None:
    run.check_budget()
    active = list(dispatcher.active.values())
    if run.stopped.is_set() and not dispatcher.stopping:
        executor.stop()
    progress: dict[str, CohortProgress] = {}
    try:
        for channel in active:
            progress[channel.name] = channel.client.progress(timeout=ANSWER_SECONDS)
    except ray.exceptions.RayError:
        progress = {}  # a cohort has just ended
    view.progress = [(each.cohort_id, progress[each.name]) for each in active if each.name in progress]
    executor.fill(progress)
    run.running_seconds = math.fsum(each.worker_seconds for each in progress.values())
