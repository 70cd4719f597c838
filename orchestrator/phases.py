"""A phase: its cohorts, each trained by a crew, beside one Tune run whose trials hold the seats."""

from __future__ import annotations

import math
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import ray

from orchestrator.cohort_job import CohortJob
from orchestrator.crew import Crews
from orchestrator.desk import Desk, GivenUpError, Progress
from orchestrator.plan import Cohort
from orchestrator.report import Report
from orchestrator.run import Run
from orchestrator.search import BESIDE_THE_DRIVER, Desks, run_tune
from orchestrator.trackers import followers
from orchestrator.wavebook import WaveBook

WATCH_SECONDS = 1.0


@dataclass
class PhaseView:
    """What can be seen of a phase while it runs."""

    name: str
    book: WaveBook
    planned: int
    progress: Mapping[str, Progress]


def run_phase(
    run: Run,
    name: str,
    cohorts: Sequence[Cohort],
    *,
    crews: Crews,
    watch: Callable[[PhaseView], None],
    later: int = 0,
) -> None:
    """Trains whatever of these cohorts is not recorded; returns when all is recorded or the run must stop.

    Args:
        crews: who trains them.
        later: cohorts of the phases that follow, for which crews are kept.
        watch: called about once a second, from a thread of its own.

    Raises:
        Exception: what ended a cohort for good; every other cohort was finished first.
    """
    recorded = run.recorded()
    book = WaveBook(run.config, cohorts, recorded, run.retried)
    ahead = WaveBook(run.config, cohorts, recorded)
    todo = ahead.open_first()
    planned = sum(cohort.trials for cohort in cohorts)
    if not todo:
        watch(PhaseView(name, ahead, planned, {}))
        return
    view = PhaseView(name, book, planned, {})
    desks = Desks(book, {cohort.cohort_id for cohort in todo})
    session = uuid.uuid4().hex[:8]
    over = threading.Event()
    crowd = Crowd(run, desks, todo, crews, later, lambda cohort_id: f"desk-{session}-{cohort_id}")
    watcher = threading.Thread(
        target=_watch, args=(run, desks, crowd, view, watch, over), name="watch", daemon=True
    )
    crews.keep(len(todo) + later)
    crowd.fill()
    watcher.start()
    recorder = Recorder(run, book)
    try:
        run_tune(
            desks,
            crowd.desk_name,
            recorder.record,
            run_name=run.config.name,
            followers=followers(run.config.operation.trackers, run.ledger, run.config.name),
        )
    finally:
        desks.stopping = True
        crowd.wait()
        over.set()
        watcher.join()
    watch(view)
    if recorder.failure is not None:
        raise recorder.failure
    crowd.raise_first()


class Crowd:
    """The cohorts of a phase: as many at work as there is room for, each in a thread of the driver.

    Room may grow and shrink while they work. A cohort whose node is taken away waits for another, which a cohort that
    ends leaves behind; none holds part of what it needs, so none waits for ever.
    """

    def __init__(
        self,
        run: Run,
        desks: Desks,
        cohorts: Sequence[Cohort],
        crews: Crews,
        later: int,
        desk_name: Callable[[str], str],
    ) -> None:
        self.desk_name = desk_name
        self._run = run
        self._desks = desks
        self._waiting = list(cohorts)
        self._crews = crews
        self._later = later
        self._pool = ThreadPoolExecutor(max_workers=len(cohorts), thread_name_prefix="cohort")
        self._started: list[Future[None]] = []
        self._lock = threading.Lock()

    def fill(self) -> None:
        """Starts cohorts for which there is room; all that still wait where the run stops, as they then end at once."""
        with self._lock:
            stops = self._desks.stopping or self._run.stopped.is_set()
            free = (
                len(self._waiting) if stops else self._crews.room() - sum(not f.done() for f in self._started)
            )
            for cohort in self._waiting[: max(free, 0)]:
                name = self.desk_name(cohort.cohort_id)
                self._started.append(self._pool.submit(self._carry_out, cohort, name))
            del self._waiting[: max(free, 0)]

    def _wanted(self) -> int:
        """Crews for which there will be work."""
        return len(self._waiting) + self._later

    def _carry_out(self, cohort: Cohort, desk_name: str) -> None:
        """One cohort from its first wave to its last, in a thread of the driver."""
        run, desks = self._run, self._desks
        if run.stopped.is_set():
            desks.pending.discard(cohort.cohort_id)
            return
        desk: Any = ray.remote(Desk)
        # Beside the driver, whose end is the sweep's: a node that is taken away must not take the desk along.
        desk = desk.options(name=desk_name, num_cpus=0, max_restarts=0, resources=BESIDE_THE_DRIVER).remote(
            run.config.operation.max_failures
        )
        desks.handles[cohort.cohort_id] = desk
        desks.pending.discard(cohort.cohort_id)
        if run.stopped.is_set():  # since the look above: whoever told the desks did not see this one
            desk.stop.remote()
        error: str | None = None
        try:
            job = CohortJob(run.ledger.root, run.config, cohort, desk)
            self._crews.train(job, self._wanted)
            fatal = ray.get(desk.fatal.remote())
            if isinstance(fatal, GivenUpError):
                error = f"cohort {cohort.cohort_id} was given up: {fatal}"
                run.given_up.append(error)
            elif fatal is not None:
                raise fatal
            elif not run.stopped.is_set():  # every trial is recorded: nothing is left to go on with
                run.ledger.delete(f"checkpoints/{cohort.cohort_id}")
        except BaseException as failure:
            error = str(failure)
            raise
        finally:
            desks.handles.pop(cohort.cohort_id, None)
            ray.get(desk.end_all.remote("stopped", error))

    def wait(self) -> None:
        """Until all that were started have ended."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def raise_first(self) -> None:
        """The first exception that ended a cohort."""
        for future in self._started:
            if not future.cancelled():
                future.result()


class Recorder:
    """Writes ended trials into the ledger. Where that fails the run stops: no trial may count that is not written."""

    def __init__(self, run: Run, book: WaveBook) -> None:
        self._run = run
        self._book = book
        self.failure: Exception | None = None

    def record(self, report: Report) -> None:
        """Called from within Tune, which would turn an exception into one of its own."""
        try:
            if self.failure is None:
                _record(self._run, self._book, report)
        except Exception as error:
            self.failure = error
            self._run.stop("the ledger cannot be written")


def _record(run: Run, book: WaveBook, report: Report) -> None:
    trial = book.trials[report.trial_id].trial
    cohort = next(c for c in book.cohorts.values() if c.holds(trial.study_id))
    run.record(book, cohort, report)


def _watch(
    run: Run,
    desks: Desks,
    crowd: Crowd,
    view: PhaseView,
    watch: Callable[[PhaseView], None],
    over: threading.Event,
) -> None:
    """Looks at the desks once in a while, shows what it sees, passes a stop on to them, and has new room used."""
    told = False
    while not over.wait(WATCH_SECONDS):
        reason = run.over_budget()
        if reason is not None:
            run.stop(reason)
        handles = dict(desks.handles)
        if run.stopped.is_set() and not told:
            desks.stopping = told = True
            for desk in handles.values():
                desk.stop.remote()
        try:
            view.progress = {
                name: ray.get(desk.progress.remote(), timeout=5) for name, desk in handles.items()
            }
        except ray.exceptions.RayError:
            view.progress = {}  # the cohort has just ended
        crowd.fill()
        run.running_seconds = math.fsum(progress.worker_seconds for progress in view.progress.values())
        watch(view)
