"""Ray Tune: one run for all studies of a phase. Trials are light: they hold a seat in a cohort and import no torch.

The state is in the wave book; the searcher and the scheduler below are its two doors to Tune.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from typing import Any

from ray import tune
from ray.tune import Callback, PlacementGroupFactory
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from orchestrator.desk import WaveOrder
from orchestrator.plan import Trial
from orchestrator.report import Report
from orchestrator.trackers import Follower, tracked
from orchestrator.trial import follow_trial
from orchestrator.wavebook import WaveBook

# A trial computes nothing: it is placed beside the driver and takes no CPU from a cohort.
BESIDE_THE_DRIVER = {"node:__internal_head__": 0.0001}
_PLACE = PlacementGroupFactory([BESIDE_THE_DRIVER])
_PROCESSES_KEPT = 1000  # as many as any wave has


class Desks:
    """The desks of the cohorts that are at work, by cohort; `pending` names the cohorts yet to start."""

    def __init__(self, book: WaveBook, pending: set[str]) -> None:
        self.book = book
        self.handles: dict[str, Any] = {}
        self.pending = pending
        self.stopping = False

    @property
    def finished(self) -> bool:
        """Whether no wave will be opened any more."""
        return self.stopping or not (self.pending or self.handles)

    def open_waves(self) -> list[tuple[str, WaveOrder]]:
        """Opens a wave at every desk that has none running; closes the desks for which none is left."""
        opened = []
        for cohort_id, desk in list(self.handles.items()):
            if self.stopping or self.book.running(cohort_id):
                continue
            wave = self.book.open_next(cohort_id)
            if wave is None:
                desk.close.remote()
                del self.handles[cohort_id]
            else:
                desk.open_wave.remote(wave)
                opened.append((cohort_id, wave))
        return opened


class WaveSearcher(Searcher):
    """Hands out the trials of the open waves, of every study."""

    def __init__(self, desks: Desks, desk_name: Callable[[str], str]) -> None:
        super().__init__(metric="tune_miou", mode="max")
        self._desks = desks
        self._desk_name = desk_name
        self._waiting: list[tuple[str, Trial]] = []

    def suggest(self, trial_id: str) -> Any:
        """The next trial of an open wave; None while there is none, FINISHED when none will follow."""
        for cohort_id, wave in self._desks.open_waves():
            self._waiting += [(cohort_id, trial) for trial in wave.trials]
        if self._waiting:
            cohort_id, trial = self._waiting.pop(0)
            return {
                "desk": self._desk_name(cohort_id),
                "trial_id": trial.trial_id,
                "study": trial.study_id,
                "params": dict(trial.params),
            }
        return Searcher.FINISHED if self._desks.finished else None

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Nothing: the book knows."""

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
        for cohort_id, desk in list(self._desks.handles.items()):
            for decision in self._desks.book.decisions(cohort_id):
                desk.decide.remote(decision.rung, decision.keep, decision.drop)
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
    desk_name: Callable[[str], str],
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
                search_alg=WaveSearcher(desks, desk_name),
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
