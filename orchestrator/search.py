"""Ray Tune: one run for all studies of a phase. Trials are light: they hold a seat in a cohort and import no torch.

The state is in the wave book; the searcher and the scheduler below are its two doors to Tune.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ray import tune
from ray.tune import Callback, PlacementGroupFactory
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from orchestrator.desk import Progress, WaveOrder
from orchestrator.outlook import Outlook, Sight, outlook
from orchestrator.plan import Trial
from orchestrator.report import Report
from orchestrator.trackers import Follower, tracked
from orchestrator.trial import follow_trial
from orchestrator.wavebook import WaveBook

# A trial computes nothing: it is placed beside the driver and takes no CPU from a cohort.
BESIDE_THE_DRIVER = {"node:__internal_head__": 0.0001}
_PLACE = PlacementGroupFactory([BESIDE_THE_DRIVER])
_PROCESSES_KEPT = 1000  # as many as any wave has


@dataclass
class DeskAtWork:
    """A desk at which a crew trains waves of a cohort; other waves of that cohort may be trained at other desks."""

    name: str
    cohort_id: str
    handle: Any
    number: int = 1  # among the cohort's desks
    came_at: float = field(default_factory=time.monotonic)
    trains: bool = False  # whether it was ever seen to train
    wave: int = -1
    opened_at: float = 0.0
    sight: Sight | None = None  # of the wave at work

    @property
    def label(self) -> str:
        """What a person calls it."""
        return self.cohort_id if self.number == 1 else f"{self.cohort_id} ({self.number})"


class Desks:
    """The desks at work, by name, and how many are yet to come.

    Args:
        book: the phase's waves.
        office: the name of the actor in which they stand.
    """

    def __init__(self, book: WaveBook, office: str = "") -> None:
        self.book = book
        self.office = office
        self.at_work: dict[str, DeskAtWork] = {}
        self._followed: dict[str, str] = {}  # desks by Tune's trials that hold a process
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

    def came(self, name: str, desk: DeskAtWork | None) -> None:
        """The desk that was expected is there, or will not come."""
        with self._lock:
            self._expected.discard(name)
            if desk is not None:
                self.at_work[name] = desk

    def left(self, name: str) -> None:
        """Nobody trains at this desk any more."""
        with self._lock:
            self.at_work.pop(name, None)

    def follow(self, tune_trial: str, desk_name: str) -> None:
        """A trial of Tune's follows a student at this desk."""
        self._followed[tune_trial] = desk_name

    def follow_no_more(self, tune_trial: str) -> None:
        """That trial is over for Tune too: its process is free for another."""
        self._followed.pop(tune_trial, None)

    def finish(self) -> bool:
        """Whether no wave will be opened any more; from then on no further desk is expected."""
        with self._lock:
            self._over = self._over or self.stopping or not (self._expected or self.at_work)
            return self._over

    def open_waves(self) -> list[tuple[DeskAtWork, WaveOrder]]:
        """Opens a wave at every desk that has none running; closes those for which there is none now."""
        with self._lock:
            # Of a wave whose trials are not over for Tune the processes are not free yet: it would start others.
            busy = set(self._followed.values())
            free = [
                desk
                for desk in self.at_work.values()
                if desk.name not in busy and not self.book.running(desk.cohort_id, desk.wave)
            ]
            waves = {} if self.stopping else {desk.name: self._open_wave(desk) for desk in free}
            return [(desk, wave) for desk in free if (wave := waves.get(desk.name)) is not None]

    def _open_wave(self, desk: DeskAtWork) -> WaveOrder | None:
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

    def _has_company(self, desk: DeskAtWork) -> bool:
        others = (other for other in self.at_work.values() if other is not desk)
        return any(other.cohort_id == desk.cohort_id for other in others)

    def look(self, seen: Mapping[str, Progress]) -> list[float]:
        """Takes in where the desks stand, by name; returns how long those took to start that now were first seen to train."""
        with self._lock:
            return [seconds for desk in self.at_work.values() if (seconds := _look(desk, seen)) is not None]

    def outlook(self, cohort_id: str) -> Outlook | None:
        """What a cohort at work still has to train; None while that is unknown, or one of its crews has nothing to do."""
        mine = [desk for desk in list(self.at_work.values()) if desk.cohort_id == cohort_id]
        sights = [desk.sight for desk in mine if desk.sight is not None]
        if not mine or len(sights) < len(mine):
            return None
        return outlook(sights, self._wave_seconds.get(cohort_id, ()), self.book.unopened(cohort_id))


def _look(desk: DeskAtWork, seen: Mapping[str, Progress]) -> float | None:
    progress = seen.get(desk.name)
    if progress is None or progress.wave != desk.wave or not progress.step:
        return None
    now = time.monotonic()
    at = now - desk.opened_at
    first = desk.sight or Sight(at, progress.step, progress.steps, at, progress.step)
    desk.sight = replace(first, seconds=at, step=progress.step)
    started, desk.trains = not desk.trains, True
    return now - desk.came_at if started else None


class WaveSearcher(Searcher):
    """Hands out the trials of the open waves, of every study."""

    def __init__(self, desks: Desks) -> None:
        super().__init__(metric="tune_miou", mode="max")
        self._desks = desks
        self._waiting: list[tuple[str, Trial]] = []

    def suggest(self, trial_id: str) -> Any:
        """The next trial of an open wave; None while there is none, FINISHED when none will follow."""
        for desk, wave in self._desks.open_waves():
            self._waiting += [(desk.name, trial) for trial in wave.trials]
        if self._waiting:
            desk_name, trial = self._waiting.pop(0)
            self._desks.follow(trial_id, desk_name)
            return {
                "office": self._desks.office,
                "desk": desk_name,
                "trial_id": trial.trial_id,
                "study": trial.study_id,
                "params": dict(trial.params),
            }
        return Searcher.FINISHED if self._desks.finish() else None

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Its process is free; what became of the student the book knows."""
        self._desks.follow_no_more(trial_id)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the ledger is what a sweep goes on from."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (_Stateless, ())


class WaveHalving(FIFOScheduler):
    """Synchronous successive halving inside each study: decides once all of a bracket stand at a rung.

    Nobody is paused: the cohort waits at the rung, and the desk ends the trials that are dropped. `record` is called
    with each report that ends a trial.
    """

    def __init__(self, desks: Desks, record: Callable[[Report], None]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._desks = desks
        self._record = record
        self._keeps_processes = False

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """A trial was suggested. From the first on, Tune keeps the processes of ended trials for those to come.

        By itself it keeps as many as trials wait at that moment, and at the end of a wave none does. A process costs
        over a second to start. Where another Ray has no such store, all works as before, only slower.
        """
        if not self._keeps_processes:
            store = getattr(getattr(tune_controller, "_tune_controller", None), "_actor_cache", None)
            if store is not None:
                store.increase_max(_PLACE, by=_PROCESSES_KEPT)
            self._keeps_processes = True
        super().on_trial_add(tune_controller, trial)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Takes in a report and tells the desks what it decides."""
        report = result["report"]
        if self._desks.book.take(report) and report.status is not None:
            self._record(report)
        for decision in self._desks.book.decisions():
            for desk in list(self._desks.at_work.values()):
                if (desk.cohort_id, desk.wave) == (decision.cohort_id, decision.wave):
                    desk.handle.decide.remote(decision.rung, decision.keep, decision.drop)
        return str(TrialScheduler.CONTINUE)

    def __reduce__(self) -> tuple[Any, ...]:
        return (_Stateless, ())


class _Stateless:
    """Stands in Tune's own snapshot for what has its state in the ledger."""


class Tracking(Callback):
    """Passes on to the trackers what becomes of every trial."""

    def __init__(self, book: WaveBook, run_name: str, followers: Sequence[Follower]) -> None:
        self._book = book
        self._run_name = run_name
        self._followers = followers

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial has a process."""
        planned = self._book.trials[trial.config["trial_id"]].trial
        for follower in self._followers:
            follower.start(tracked(planned, self._run_name))

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """A trial passed a report on."""
        for follower in self._followers:
            follower.report(trial.config["trial_id"], result["report"])

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial has ended, one way or another."""
        last = self._book.trials[trial.config["trial_id"]].status
        for follower in self._followers:
            follower.end(trial.config["trial_id"], failed=last == "failed")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial's process died for good."""
        for follower in self._followers:
            follower.end(trial.config["trial_id"], failed=True)

    def __reduce__(self) -> tuple[Any, ...]:
        return (_Stateless, ())


def run_tune(
    desks: Desks,
    record: Callable[[Report], None],
    *,
    run_name: str,
    followers: Sequence[Follower],
) -> None:
    """The Tune run of a phase; returns when every trial has ended, and every tracker knows it."""
    with tempfile.TemporaryDirectory(prefix="tune-") as scratch:
        tuner = tune.Tuner(
            tune.with_resources(follow_trial, _PLACE),
            tune_config=tune.TuneConfig(
                search_alg=WaveSearcher(desks),
                scheduler=WaveHalving(desks, record),
                num_samples=-1,
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(
                name="trials",
                storage_path=scratch,
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=3),
                callbacks=[Tracking(desks.book, run_name, followers)] if followers else None,
            ),
        )
        try:
            tuner.fit()
        finally:
            for follower in followers:
                follower.close()
