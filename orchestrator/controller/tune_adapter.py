"""Ray Tune: one run for all studies of a phase. A trial has a student in a cohort, and a process only while it has news.

One process serves them all: it fetches their reports in turn. What is known is in the wave book, and whose turn it is in
`TrialMultiplexer`; the searcher and the scheduler below are their two doors to Tune.
"""

from __future__ import annotations

import logging
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ray import tune
from ray.tune import PlacementGroupFactory
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from orchestrator.controller.cohort_channel import STARTING, Progress, WaveOrder
from orchestrator.controller.coordinator import BESIDE_THE_DRIVER
from orchestrator.controller.makespan import MakespanEstimate, ProgressSample, outlook
from orchestrator.controller.report_poller import ReportPoller
from orchestrator.controller.trackers import Follower, tracked
from orchestrator.controller.trial_multiplexer import PollerDiedError, TrialMultiplexer
from orchestrator.controller.wave_scheduler import WaveScheduler
from orchestrator.planning.plan import Trial
from orchestrator.protocol import Report


@dataclass
class ActiveChannel:
    """A desk at which a crew trains waves of a cohort; other waves of that cohort may be trained at other desks."""

    name: str
    cohort_id: str
    handle: Any
    number: int = 1  # among the cohort's desks
    came_at: float = field(default_factory=time.monotonic)
    is_there: bool = False  # whether the crew was seen to have begun
    trains: bool = False  # whether it was ever seen to train
    wave: int = -1
    opened_at: float = 0.0
    sight: ProgressSample | None = None  # of the wave at work

    @property
    def label(self) -> str:
        """What a person calls it."""
        return self.cohort_id if self.number == 1 else f"{self.cohort_id} ({self.number})"


class WaveDispatcher:
    """The desks at work, by name, and how many are yet to come.

    Args:
        book: the phase's waves.
        office: the name of the actor in which they stand.
    """

    def __init__(self, book: WaveScheduler, office: str = "") -> None:
        self.book = book
        self.office = office
        self.at_work: dict[str, ActiveChannel] = {}
        self._wave_seconds: dict[str, list[float]] = {}  # of the waves that are over, by cohort
        self.stopping = False
        self._expected: set[str] = set()
        self._over = False
        self._lock = threading.RLock()

    def expect(self, name: str) -> bool:
        """A desk of this name will come; returns False where no wave will be opened any more."""
        with self._lock:
            if not self._over:
                self._expected.add(name)
            return not self._over

    def came(self, name: str, desk: ActiveChannel | None) -> None:
        """The desk that was expected is there, or will not come."""
        with self._lock:
            self._expected.discard(name)
            if desk is not None:
                self.at_work[name] = desk

    def left(self, name: str) -> None:
        """Nobody trains at this desk any more."""
        with self._lock:
            self.at_work.pop(name, None)

    def finish(self) -> bool:
        """Whether no wave will be opened any more; from then on no further desk is expected."""
        with self._lock:
            self._over = self._over or self.stopping or not (self._expected or self.at_work)
            return self._over

    def open_waves(self) -> list[WaveOrder]:
        """Opens a wave at every desk that has none running; closes those for which there is none now."""
        with self._lock:
            free = [d for d in self.at_work.values() if not self.book.running(d.cohort_id, d.wave)]
            waves = [] if self.stopping else [self._open_wave(desk) for desk in free if self._is_served(desk)]
            return [wave for wave in waves if wave is not None]

    def _is_served(self, desk: ActiveChannel) -> bool:
        """Whether a wave at this desk is trained as soon as anywhere: a further crew that still starts leaves it to others."""
        return desk.number == 1 or desk.is_there or not self.book.unopened(desk.cohort_id)

    def _open_wave(self, desk: ActiveChannel) -> WaveOrder | None:
        now = time.monotonic()
        if desk.sight is not None:
            took = now - desk.opened_at - desk.sight.since
            self._wave_seconds.setdefault(desk.cohort_id, []).append(took)
        wave = self.book.open_next(desk.cohort_id)
        desk.wave, desk.opened_at, desk.sight = -1 if wave is None else wave.index, now, None
        if wave is not None:
            desk.handle.open_wave.remote(wave)
        elif not self.book.unopened(desk.cohort_id) or self._has_company(desk):
            # Nobody waits with a machine in hand for a wave that depends on another's: that one may lack the machine.
            desk.handle.close.remote()
            del self.at_work[desk.name]
        return wave

    def _has_company(self, desk: ActiveChannel) -> bool:
        others = (other for other in self.at_work.values() if other is not desk)
        return any(other.cohort_id == desk.cohort_id for other in others)

    def look(self, seen: Mapping[str, Progress]) -> dict[str, float]:
        """Takes in where the desks stand, by name; returns how long those took to start that now were first seen to train."""
        with self._lock:
            took = {desk.name: _look(desk, seen) for desk in self.at_work.values()}
            return {name: seconds for name, seconds in took.items() if seconds is not None}

    def outlook(self, cohort_id: str) -> MakespanEstimate | None:
        """What a cohort at work still has to train; None while that is unknown, or one of its crews has nothing to do."""
        mine = [desk for desk in list(self.at_work.values()) if desk.cohort_id == cohort_id]
        sights = [desk.sight for desk in mine if desk.sight is not None]
        if not mine or len(sights) < len(mine):
            return None
        return outlook(sights, self._wave_seconds.get(cohort_id, ()), self.book.unopened(cohort_id))


def _look(desk: ActiveChannel, seen: Mapping[str, Progress]) -> float | None:
    progress = seen.get(desk.name)
    desk.is_there = desk.is_there or (progress is not None and progress.activity != STARTING)
    if progress is None or progress.wave != desk.wave or not progress.step:
        return None
    now = time.monotonic()
    at = now - desk.opened_at
    first = desk.sight or ProgressSample(at, progress.step, progress.steps, at, progress.step)
    desk.sight = replace(first, seconds=at, step=progress.step)
    started, desk.trains = not desk.trains, True
    return now - desk.came_at if started else None


class Tracking:
    """Passes on to the trackers what becomes of every trial."""

    def __init__(self, run_name: str, followers: Sequence[Follower]) -> None:
        self._run_name = run_name
        self._followers = followers

    def start(self, trials: Sequence[Trial]) -> None:
        """A wave was opened."""
        for follower in self._followers:
            for trial in trials:
                follower.start(tracked(trial, self._run_name))

    def tell(self, report: Report) -> None:
        """A report that is news."""
        for follower in self._followers:
            follower.report(report.trial_id, report)
            if report.status is not None:
                follower.end(report.trial_id, failed=report.status == "failed")

    def close(self) -> None:
        """Waits until the trackers know all."""
        for follower in self._followers:
            follower.close()


class WaveSearcher(Searcher):
    """Opens waves, and hands out their trials one by one, each when it has its turn."""

    def __init__(self, desks: WaveDispatcher, turns: TrialMultiplexer, tracking: Tracking) -> None:
        super().__init__(metric="tune_miou", mode="max")
        self._desks = desks
        self._turns = turns
        self._tracking = tracking

    def suggest(self, trial_id: str) -> Any:
        """A trial of an open wave whose turn it is; None while there is none, FINISHED when none will follow."""
        for wave in self._desks.open_waves():
            self._turns.enter(trial.trial_id for trial in wave.trials)
            self._tracking.start(wave.trials)
        begins = self._turns.begin()
        if begins is not None:
            trial = self._desks.book.trials[begins].trial
            return {
                "office": self._desks.office,
                "trial_id": begins,
                "study": trial.study_id,
                "params": dict(trial.params),
            }
        # Once the search is finished Tune keeps no process for a trial that is paused.
        return Searcher.FINISHED if self._turns.nobody_is_left() and self._desks.finish() else None

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Nothing: what became of the student the book knows."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the ledger is what a sweep goes on from."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (_EmptyState, ())


class WaveHalving(FIFOScheduler):
    """Synchronous successive halving inside each study: decides once all of a bracket stand at a rung.

    The cohort waits at the rung, and the desk ends the trials that are dropped. That Tune pauses a trial only means that
    its process fetches another's reports; the student trains on. `record` is called with each report that ends a trial.
    """

    def __init__(
        self,
        desks: WaveDispatcher,
        turns: TrialMultiplexer,
        tracking: Tracking,
        record: Callable[[Report], None],
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._desks = desks
        self._turns = turns
        self._tracking = tracking
        self._record = record
        self.failure: PollerDiedError | None = None

    def choose_trial_to_run(self, tune_controller: Any) -> Any | None:
        """The paused trial whose turn it is; a new one Tune starts by itself."""
        return self._turns.resume()

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Takes in a report, tells the desks what it decides, and sends the process where there is news."""
        self._turns.visited()
        report: Report | None = result["report"]
        follow: str | None = result["follow"]
        if report is not None:
            self._take(report)
            if report.status is not None:
                self._turns.end(follow)
                return str(TrialScheduler.STOP)
        if follow in (None, trial.config["trial_id"]):
            return str(TrialScheduler.CONTINUE)
        self._turns.pause(trial, follow)
        tune_controller.pause_trial(trial, should_checkpoint=False)
        return str(TrialScheduler.NOOP)

    def _take(self, report: Report) -> None:
        if self._desks.book.take(report):
            self._tracking.tell(report)
            if report.status is not None:
                self._record(report)
        for decision in self._desks.book.decisions():
            for desk in list(self._desks.at_work.values()):
                if (desk.cohort_id, desk.wave) == (decision.cohort_id, decision.wave):
                    desk.handle.decide.remote(decision.rung, decision.keep, decision.drop)

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """The process died, in this trial's name. Its student is handed out anew.

        Tune's own way to try again loses a trial whose process dies between two trials.
        """
        try:
            self._turns.lose()
        except PollerDiedError as error:
            self.failure = error
            raise

    def __reduce__(self) -> tuple[Any, ...]:
        return (_EmptyState, ())


class _EmptyState:
    """Stands in Tune's own snapshot for what has its state in the ledger."""


def run_tune(
    desks: WaveDispatcher,
    record: Callable[[Report], None],
    *,
    run_name: str,
    followers: Sequence[Follower],
) -> None:
    """The Tune run of a phase; returns when every trial has ended, and every tracker knows it.

    Raises:
        PollerDiedError: Tune's process cannot be kept alive.
    """
    # At the end it would say of every trial in whose name the process died that it did not complete.
    logging.getLogger("ray.tune.tune").setLevel(logging.CRITICAL)
    turns, tracking = TrialMultiplexer(), Tracking(run_name, followers)
    scheduler = WaveHalving(desks, turns, tracking, record)
    with tempfile.TemporaryDirectory(prefix="tune-") as scratch:
        tuner = tune.Tuner(
            tune.with_resources(ReportPoller, PlacementGroupFactory([BESIDE_THE_DRIVER])),
            tune_config=tune.TuneConfig(
                search_alg=WaveSearcher(desks, turns, tracking),
                scheduler=scheduler,
                num_samples=-1,
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(
                name="trials",
                storage_path=scratch,
                verbose=0,
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            ),
        )
        try:
            tuner.fit()
        except Exception:
            if scheduler.failure is not None:  # in Tune's words it is two hundred lines
                raise scheduler.failure from None
            raise
        finally:
            tracking.close()
