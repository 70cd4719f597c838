"""All of Ray Tune: one Tune run for all studies of a phase, with our searcher, scheduler and trainable.

One Tune process polls the reports of all trials; a trial holds it only while it has unread reports. The state is in
`WaveScheduler`, and `TrialMultiplexer` knows which trial has the process; the classes below connect both to Tune.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

from ray import tune
from ray.tune import PlacementGroupFactory
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from orchestrator.cluster import ray_private
from orchestrator.controller.coordinator import HEAD_NODE
from orchestrator.controller.report_poller import ReportPoller
from orchestrator.controller.trackers import TrackerThread, tracked_trial
from orchestrator.controller.trial_multiplexer import PollerDiedError, TrialMultiplexer
from orchestrator.controller.wave_dispatcher import WaveDispatcher
from orchestrator.planning.plan import Trial
from orchestrator.protocol import RayLostError, Report

_CAN_START = ("PENDING", "PAUSED")  # states in which Tune may be asked to run a trial


class Tracking:
    """Passes the start, reports and end of every trial to the trackers."""

    def __init__(self, run_name: str, trackers: Sequence[TrackerThread]) -> None:
        self._run_name = run_name
        self._trackers = trackers

    def start(self, trials: Sequence[Trial]) -> None:
        """A wave was opened."""
        for tracker in self._trackers:
            for trial in trials:
                tracker.start(tracked_trial(trial, self._run_name))

    def add_report(self, report: Report) -> None:
        """A new report."""
        for tracker in self._trackers:
            tracker.add_report(report.trial_id, report)
            if report.status is not None:
                tracker.end(report.trial_id, failed=report.status == "failed")

    def close(self) -> None:
        """Wait until the trackers have everything."""
        for tracker in self._trackers:
            tracker.close()


class WaveSearcher(Searcher):
    """Opens waves, and gives Tune their trials one at a time."""

    def __init__(self, dispatcher: WaveDispatcher, multiplexer: TrialMultiplexer, tracking: Tracking) -> None:
        super().__init__(metric="tune_miou", mode="max")
        self._dispatcher = dispatcher
        self._multiplexer = multiplexer
        self._tracking = tracking

    def suggest(self, trial_id: str) -> Any:
        """A new trial if one is next, None if none is now, FINISHED if none will be."""
        for wave in self._dispatcher.open_waves():
            self._multiplexer.add(trial.trial_id for trial in wave.trials)
            self._tracking.start(wave.trials)
        started = self._multiplexer.start_new()
        if started is not None:
            trial = self._dispatcher.scheduler.trials[started].trial
            return {
                "coordinator": self._dispatcher.coordinator,
                "trial_id": started,
                "study": trial.study_id,
                "params": dict(trial.params),
            }
        # After FINISHED Tune keeps no process for a trial that is paused.
        is_over = self._multiplexer.is_empty() and self._dispatcher.finish()
        return Searcher.FINISHED if is_over else None

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Nothing to do: the wave scheduler has the result."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: a sweep resumes from the ledger."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (_EmptyState, ())


class WaveHalving(FIFOScheduler):
    """Synchronous successive halving inside each study: decides when all trials of a bracket have reached a rung.

    Workers wait at the rung, and the cohort channel ends the trials that are dropped. When Tune pauses a trial, its
    process polls another one's reports; the student trains on.

    Args:
        record: called with each report that ends a trial.
        check_coordinator: raises an error if the coordinator has died.
    """

    def __init__(
        self,
        dispatcher: WaveDispatcher,
        multiplexer: TrialMultiplexer,
        tracking: Tracking,
        record: Callable[[Report], None],
        check_coordinator: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._dispatcher = dispatcher
        self._multiplexer = multiplexer
        self._tracking = tracking
        self._record = record
        self._check_coordinator = check_coordinator
        self.failure: PollerDiedError | RayLostError | None = None

    def choose_trial_to_run(self, tune_controller: Any) -> Any | None:
        """The paused trial that gets the process next. Idempotent: the answer changes only with results and errors."""
        trial = self._multiplexer.next_paused()
        return trial if trial is not None and trial.status in _CAN_START else None

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Take in a report, send decisions to the channels, and switch the process to a trial with unread reports."""
        self._multiplexer.resumed(trial.config["trial_id"])
        self._multiplexer.polled()
        report: Report | None = result["report"]
        next_trial_id: str | None = result["next_trial_id"]
        if report is not None:
            self._add_report(report)
            if report.status is not None:
                self._multiplexer.end(next_trial_id)
                return str(TrialScheduler.STOP)
        if next_trial_id in (None, trial.config["trial_id"]):
            return str(TrialScheduler.CONTINUE)
        self._multiplexer.pause(trial, next_trial_id)
        tune_controller.pause_trial(trial, should_checkpoint=False)
        return str(TrialScheduler.NOOP)

    def _add_report(self, report: Report) -> None:
        if self._dispatcher.scheduler.add_report(report):
            self._tracking.add_report(report)
            if report.status is not None:
                self._record(report)
        for decision in self._dispatcher.scheduler.decisions():
            for channel in list(self._dispatcher.active.values()):
                if (channel.cohort_id, channel.wave) == (decision.cohort_id, decision.wave):
                    channel.client.decide(decision.rung, decision.keep, decision.drop)

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """The process died while this trial had it. Its student is given to Tune as a new trial.

        Tune's own retry loses a trial whose process dies between two trials.
        """
        self._multiplexer.resumed(trial.config["trial_id"])
        try:
            self._check_coordinator()
            self._multiplexer.lost_process()
        except (PollerDiedError, RayLostError) as error:
            self.failure = error
            raise

    def __reduce__(self) -> tuple[Any, ...]:
        return (_EmptyState, ())


class _EmptyState:
    """Replaces searcher and scheduler in Tune's own snapshot: their state is in the ledger."""


def run_tune(
    dispatcher: WaveDispatcher,
    record: Callable[[Report], None],
    check_coordinator: Callable[[], None],
    *,
    run_name: str,
    trackers: Sequence[TrackerThread],
) -> None:
    """The Tune run of a phase; returns when every trial has ended and every tracker has everything.

    Raises:
        PollerDiedError: Tune's process cannot be kept alive.
        RayLostError: what `check_coordinator` raises.
    """
    # At the end it would report every trial that had the process when it died as incomplete.
    logging.getLogger("ray.tune.tune").setLevel(logging.CRITICAL)
    if logging.getLogger("ray.tune").getEffectiveLevel() > logging.INFO:  # without --verbose
        # A traceback each time that the process dies, or loses the coordinator: the first is repaired, the second is said.
        logging.getLogger("ray.tune.execution.tune_controller").setLevel(logging.CRITICAL)
    ray_private.skip_experiment_snapshots()
    multiplexer, tracking = TrialMultiplexer(), Tracking(run_name, trackers)
    scheduler = WaveHalving(dispatcher, multiplexer, tracking, record, check_coordinator)
    with tempfile.TemporaryDirectory(prefix="tune-") as scratch:
        tuner = tune.Tuner(
            tune.with_resources(ReportPoller, PlacementGroupFactory([HEAD_NODE])),
            tune_config=tune.TuneConfig(
                search_alg=WaveSearcher(dispatcher, multiplexer, tracking),
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
            if scheduler.failure is not None:  # Tune's own text has two hundred lines
                raise scheduler.failure from None
            raise
        finally:
            tracking.close()
