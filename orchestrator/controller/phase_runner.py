"""A phase: its cohorts, each trained by a crew, beside one Tune run whose trials hold the seats."""

from __future__ import annotations

import math
import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass

import ray

from orchestrator.controller.cohort_channel import GivenUpError, Progress
from orchestrator.controller.run_state import Run
from orchestrator.controller.trackers import followers
from orchestrator.controller.tune_adapter import ActiveChannel, WaveDispatcher, run_tune
from orchestrator.controller.wave_scheduler import WaveScheduler
from orchestrator.controller.worker_groups import WorkerGroupPool, in_a_thread
from orchestrator.planning.plan import Cohort
from orchestrator.protocol import Report
from orchestrator.worker.main import CohortJob

WATCH_SECONDS = 1.0


@dataclass
class PhaseView:
    """What can be seen of a phase while it runs."""

    name: str
    book: WaveScheduler
    planned: int
    progress: Mapping[str, Progress]


def run_phase(
    run: Run,
    name: str,
    cohorts: Sequence[Cohort],
    *,
    crews: WorkerGroupPool,
    watch: Callable[[PhaseView], None],
    later: int = 0,
) -> None:
    """Trains whatever of these cohorts is not recorded; returns when all is recorded or the run must stop.

    Args:
        crews: who trains them.
        later: what follows this phase (cohorts, the gallery), for which crews are kept.
        watch: called about once a second, from a thread of its own.

    Raises:
        Exception: what ended a cohort for good; every other cohort was finished first.
    """
    recorded = run.recorded()
    book = WaveScheduler(run.config, cohorts, recorded, run.retried)
    ahead = WaveScheduler(run.config, cohorts, recorded)
    todo = ahead.open_first()
    planned = sum(cohort.trials for cohort in cohorts)
    if not todo:
        watch(PhaseView(name, ahead, planned, {}))
        return
    view = PhaseView(name, book, planned, {})
    desks = WaveDispatcher(book, office=crews.office.name)
    over = threading.Event()
    crowd = CohortExecutor(run, desks, todo, crews, later)
    crews.keep(len(todo) + later)
    crowd.fill({})
    watcher = in_a_thread("watch", lambda: _watch(run, desks, crowd, view, watch, over))
    recorder = Recorder(run, book)
    try:
        run_tune(
            desks,
            recorder.record,
            run_name=run.config.name,
            followers=followers(run.config.operation.trackers, run.ledger, run.config.name),
        )
    finally:
        crowd.leave_off()
        crowd.wait()
        over.set()
        wait([watcher])
        crowd.close()
    watcher.result()
    watch(view)
    if recorder.failure is not None:
        raise recorder.failure
    crowd.raise_first()


class CohortExecutor:
    """The cohorts of a phase: as many at work as there is room for, each in a thread of the driver.

    Room may grow and shrink while they work. A cohort whose node is taken away waits for another, which a cohort that
    ends leaves behind; none holds part of what it needs, so none waits for ever. Where there is room for more crews
    than there are cohorts, those at work get a second one, a third, as long as that ends the phase sooner.
    """

    def __init__(
        self, run: Run, desks: WaveDispatcher, cohorts: Sequence[Cohort], crews: WorkerGroupPool, later: int
    ) -> None:
        self._run = run
        self._desks = desks
        self._waiting = [(cohort, 1) for cohort in cohorts]
        self._crews = crews
        self._later = later
        most = sum(len(cohort.waves) for cohort in cohorts)
        self._pool = ThreadPoolExecutor(max_workers=most, thread_name_prefix="cohort")
        self._started: list[Future[None]] = []
        self._crews_of: Counter[str] = Counter()
        self._given_up: set[str] = set()
        self._lock = threading.Lock()
        for cohort, number in self._waiting:
            desks.expect(_desk_name(cohort.cohort_id, number))

    def fill(self, seen: Mapping[str, Progress]) -> None:
        """Starts crews for which there is room and work; all that still wait where the run stops, as they then end at once.

        Args:
            seen: where the desks at work stand, by name.
        """
        with self._lock:
            stops = self._desks.stopping or self._run.stopped.is_set()
            at_work = sum(not future.done() for future in self._started)
            room = self._crews.room()
            free = len(self._waiting) if stops else max(room - at_work, 0)
            for name, seconds in self._desks.look(seen).items():
                self._crews.trains(name, seconds)
            if free and not stops and not self._waiting:
                self._waiting += self._further()
            for cohort, number in self._waiting[:free]:
                self._started.append(self._pool.submit(self._carry_out, cohort, number))
                self._crews_of[cohort.cohort_id] += 1
            del self._waiting[:free]
            # A crew that waits for work must not hold the machine that one at work has lost.
            self._crews.keep(max(room - at_work, 0))

    def _further(self) -> list[tuple[Cohort, int]]:
        """One more crew for the cohort that has most left to do, where it is then done sooner."""
        if not self._crews.start_seconds:
            return []
        outlooks = {c: self._desks.outlook(c) for c in self._desks.book.cohorts if c not in self._given_up}
        start = statistics.median(self._crews.start_seconds)
        gains = [(o.seconds(), c) for c, o in outlooks.items() if o is not None and o.ends_sooner(start)]
        if not gains:
            return []
        cohort = self._desks.book.cohorts[max(gains)[1]]
        number = 1 + self._crews_of[cohort.cohort_id]
        return [(cohort, number)] if self._desks.expect(_desk_name(cohort.cohort_id, number)) else []

    def _wanted(self) -> int:
        """WorkerGroupPool for which there will be work."""
        book = self._desks.book
        unopened = sum(book.unopened(cohort_id) for cohort_id in book.cohorts)
        return max(len(self._waiting), unopened) + self._later

    def _carry_out(self, cohort: Cohort, number: int) -> None:
        """A crew's part in a cohort, wave after wave, in a thread of the driver."""
        run, desks, name = self._run, self._desks, _desk_name(cohort.cohort_id, number)
        if run.stopped.is_set():
            desks.came(name, None)
            return
        desk = self._crews.office.open_desk(name, run.config.operation.max_failures)
        at_work = ActiveChannel(name, cohort.cohort_id, desk, number)
        desks.came(name, at_work)
        # Since the look above: whoever told the desks did not see this one.
        if run.stopped.is_set() or desks.stopping:
            desk.stop.remote()
        error: str | None = None
        try:
            job = CohortJob(run.ledger.root, run.config, cohort, desk, name)
            self._crews.train(job, self._wanted)
            if not at_work.trains:  # it was over before anybody looked
                self._crews.trains(name, time.monotonic() - at_work.came_at)
            fatal = ray.get(desk.fatal.remote())
            if isinstance(fatal, GivenUpError):
                self._given_up.add(cohort.cohort_id)
                error = f"cohort {cohort.cohort_id} was given up: {fatal}"
                run.given_up.append(error)
            elif fatal is not None:
                raise fatal
            elif desks.book.is_done(cohort.cohort_id):  # nothing is left to go on with
                run.ledger.delete(f"checkpoints/{cohort.cohort_id}")
        except BaseException as failure:
            error = str(failure)
            raise
        finally:
            desks.left(name)
            ray.get(desk.end_all.remote("stopped", error))

    def leave_off(self) -> None:
        """Asks whoever still is at work to leave off; no wave is opened any more."""
        self._desks.stopping = True
        for desk in list(self._desks.at_work.values()):
            desk.handle.stop.remote()

    def wait(self) -> None:
        """Until all that were started have ended."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def close(self) -> None:
        """Nobody asks the desks any more."""
        for cohort_id, crews in self._crews_of.items():
            for number in range(1, crews + 1):
                self._crews.office.close_desk(_desk_name(cohort_id, number))

    def raise_first(self) -> None:
        """The first exception that ended a cohort."""
        for future in self._started:
            if not future.cancelled():
                future.result()


def _desk_name(cohort_id: str, number: int) -> str:
    return f"{cohort_id}-{number}"


class Recorder:
    """Writes ended trials into the ledger. Where that fails the run stops: no trial may count that is not written."""

    def __init__(self, run: Run, book: WaveScheduler) -> None:
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


def _record(run: Run, book: WaveScheduler, report: Report) -> None:
    trial = book.trials[report.trial_id].trial
    cohort = next(c for c in book.cohorts.values() if c.holds(trial.study_id))
    run.record(book, cohort, report)


def _watch(
    run: Run,
    desks: WaveDispatcher,
    crowd: CohortExecutor,
    view: PhaseView,
    watch: Callable[[PhaseView], None],
    over: threading.Event,
) -> None:
    """Looks at the desks once in a while, shows what it sees, passes a stop on to them, and has new room used.

    Where it fails the phase leaves off: nobody would stop it any more.
    """
    try:
        while not over.wait(WATCH_SECONDS):
            _look(run, desks, crowd, view)
            watch(view)
    except BaseException:
        crowd.leave_off()
        raise


def _look(run: Run, desks: WaveDispatcher, crowd: CohortExecutor, view: PhaseView) -> None:
    run.heed_budget()
    at_work = list(desks.at_work.values())
    if run.stopped.is_set() and not desks.stopping:
        crowd.leave_off()
    seen: dict[str, Progress] = {}
    try:
        for desk in at_work:
            seen[desk.name] = ray.get(desk.handle.progress.remote(), timeout=5)
    except ray.exceptions.RayError:
        seen = {}  # a cohort has just ended
    view.progress = {desk.label: seen[desk.name] for desk in at_work if desk.name in seen}
    crowd.fill(seen)
    run.running_seconds = math.fsum(progress.worker_seconds for progress in seen.values())
