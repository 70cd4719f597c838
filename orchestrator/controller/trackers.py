"""MLflow, Weights & Biases and TensorBoard through Tune's own callbacks: numbers, settings and tags of every trial.

Trackers are optional: their settings are checked at start, later failures are only logged. Each tracker has a thread of its
own, so that one which hangs or fails delays nothing.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import queue
import sys
import tempfile
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from netrc import NetrcParseError, netrc
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from distill.errors import UsageError
from orchestrator.ledger.tables import Ledger
from orchestrator.planning.config import MlflowTracker, TensorBoardTracker, TrackerConfig, WandbTracker
from orchestrator.planning.method_settings import used_values
from orchestrator.planning.plan import Trial
from orchestrator.protocol import Report

ANSWER_SECONDS = 10
CLOSING_SECONDS = 60.0  # for what a tracker has not received at the end of a phase
GIVE_UP_AFTER = 10  # failures in a row
_WANDB = "https://api.wandb.ai"


def check_trackers(choices: Sequence[TrackerConfig], ledger: Ledger) -> None:
    """Check that every tracker is installed and answers.

    Raises:
        UsageError: one is not, or does not; names the remedy.
    """
    for choice in choices:
        if choice.kind != "tensorboard" and importlib.util.find_spec(choice.kind) is None:
            raise UsageError(
                f"operation.trackers: {choice.kind} is not installed; pip install 'heteroakd[{choice.kind}]'"
            )
        if isinstance(choice, MlflowTracker):
            _check_mlflow(_mlflow_uri(choice, ledger))
        elif isinstance(choice, WandbTracker):
            _check_wandb(choice)
        else:
            _folder(choice, ledger)


def _check_mlflow(uri: str) -> None:
    if urlsplit(uri).username is not None:
        raise UsageError(
            "operation.trackers: the uri of mlflow holds a user; it would be written into the run. Set "
            "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD instead"
        )
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(ANSWER_SECONDS))
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    import mlflow

    logging.getLogger("alembic").setLevel(logging.WARNING)
    try:
        mlflow.MlflowClient(uri).search_experiments(max_results=1)
    except Exception as error:
        raise UsageError(
            f"operation.trackers: mlflow at {uri} does not answer ({error}); start it, or take the tracker out"
        ) from error


def _check_wandb(choice: WandbTracker) -> None:
    if choice.mode == "offline":
        return
    url = os.environ.get("WANDB_BASE_URL", _WANDB)
    if not os.environ.get("WANDB_API_KEY") and not _in_netrc(urlsplit(url).hostname or ""):
        raise UsageError(
            "operation.trackers: nobody is logged in to wandb; type `wandb login`, set WANDB_API_KEY, or give it "
            "`mode: offline`"
        )
    with contextlib.suppress(urllib.error.HTTPError):  # any answer will do
        try:
            urllib.request.urlopen(url, timeout=ANSWER_SECONDS).close()
        except (urllib.error.URLError, OSError) as error:
            if isinstance(error, urllib.error.HTTPError):
                raise
            raise UsageError(
                f"operation.trackers: wandb at {url} does not answer ({error}); give it `mode: offline`"
            ) from error


def _in_netrc(host: str) -> bool:
    try:
        return netrc().authenticators(host) is not None
    except (OSError, NetrcParseError):
        return False


def _mlflow_uri(choice: MlflowTracker, ledger: Ledger) -> str:
    uri = choice.uri or os.environ.get("MLFLOW_TRACKING_URI")
    if uri is not None:
        return uri
    if "://" in ledger.root:
        raise UsageError(
            "operation.trackers: mlflow has no uri, and the run is in an object store; give a uri"
        )
    Path(ledger.root).mkdir(parents=True, exist_ok=True)
    return f"sqlite:///{ledger.root}/mlflow.db"


def _folder(choice: WandbTracker | TensorBoardTracker, ledger: Ledger) -> Path:
    """Folder for a tracker's files on the machine of the sweep."""
    if choice.folder is not None:
        return Path(choice.folder).expanduser().absolute()
    if "://" not in ledger.root:
        return Path(ledger.root) / choice.kind
    if isinstance(choice, WandbTracker) and choice.mode == "online":
        return Path(tempfile.gettempdir()) / "heteroakd-wandb"
    raise UsageError(
        f"operation.trackers: {choice.kind} writes files, and the run is in an object store; give it a folder"
    )


@dataclass(eq=False)
class TrackedTrial:
    """What Tune's callbacks read of a trial. `config` has its tags and its settings as plain values."""

    trial_id: str
    config: dict[str, Any]
    tags: dict[str, str]
    folder: Path | None = None

    def __str__(self) -> str:
        return f"{self.tags['pair']} {self.tags['method']} {self.tags['phase']} {self.trial_id}"

    @property
    def local_path(self) -> str:
        """Folder of the trial."""
        assert self.folder is not None  # the trackers that write files have one
        return str(self.folder / self.trial_id)

    def init_local_path(self) -> None:
        """Make the folder."""
        os.makedirs(self.local_path, exist_ok=True)

    @property
    def experiment_dir_name(self) -> str:
        """Name of the group that the trial belongs to."""
        return self.tags["study"]

    @property
    def evaluated_params(self) -> dict[str, Any]:
        """The tags and settings."""
        return self.config


def tracked_trial(trial: Trial, run_name: str) -> TrackedTrial:
    """A trial of the plan for trackers."""
    tags = {
        "run": run_name,
        "trial": trial.trial_id,
        "study": trial.study_id,
        "pair": trial.pair,
        "method": trial.title,
        "phase": trial.phase,
    }
    used = used_values(trial.method, trial.method_config, trial.recipe)
    return TrackedTrial(trial.trial_id, {**tags, "seed": trial.seed, **used}, tags)


def numbers(report: Report) -> dict[str, Any]:
    """A report as flat numbers, with the step under the names that Tune's callbacks read."""
    found: dict[str, float | None] = {
        "tune_miou": report.tune_miou,
        "test_miou": report.test_miou,
        "lr": report.lr,
        "worker_seconds": report.costs.student_seconds + report.costs.shared_seconds,
        **{f"raw/{name}": value for name, value in report.terms_raw.items()},
        **{f"weighted/{name}": value for name, value in report.terms_weighted.items()},
    }
    flat: dict[str, Any] = {name: float(value) for name, value in found.items() if value is not None}
    return {**flat, "timesteps_total": report.step, "training_iteration": report.step}


class TrackerThread:
    """One tracker in a thread of its own: calls wait in a queue, and its errors are printed and go no further."""

    def __init__(self, name: str, callback: Any, folder: Path | None, say: Callable[[str], None]) -> None:
        self._name, self._callback, self._folder, self._say = name, callback, folder, say
        self._waiting: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._failures = 0
        self._trials: dict[str, TrackedTrial] = {}
        self._thread = threading.Thread(target=self._work, name=f"tracker-{name}", daemon=True)
        self._enqueue(lambda: callback.setup())
        self._thread.start()

    def start(self, trial: TrackedTrial) -> None:
        """A trial has started, perhaps again."""
        mine = self._trials.setdefault(
            trial.trial_id, TrackedTrial(trial.trial_id, trial.config, trial.tags, self._folder)
        )

        def call() -> None:
            if self._folder is not None:
                mine.init_local_path()
            if hasattr(self._callback, "tags"):
                self._callback.tags = mine.tags
            elif hasattr(self._callback, "kwargs"):
                labels = [mine.tags[key] for key in ("pair", "method", "phase")]
                self._callback.kwargs |= {"tags": [label[:64] for label in labels]}
            self._callback.log_trial_start(mine)

        self._enqueue(call)

    def add_report(self, trial_id: str, report: Report) -> None:
        """A report of a trial."""
        mine = self._trials[trial_id]
        self._enqueue(lambda: self._callback.log_trial_result(report.step, mine, numbers(report)))

    def end(self, trial_id: str, *, failed: bool) -> None:
        """A trial has ended."""
        mine = self._trials.pop(trial_id, None)
        if mine is not None:
            self._enqueue(lambda: self._callback.log_trial_end(mine, failed=failed))

    def close(self) -> None:
        """Wait until the tracker has everything, for at most `CLOSING_SECONDS`."""
        self._enqueue(lambda: self._callback.on_experiment_end([]))
        self._waiting.put(None)
        self._thread.join(CLOSING_SECONDS)
        if self._thread.is_alive():
            self._say(f"tracker {self._name} is not done after {CLOSING_SECONDS:g} s and is left behind")

    def _enqueue(self, call: Callable[[], None]) -> None:
        self._waiting.put(call)

    def _work(self) -> None:
        while (call := self._waiting.get()) is not None:
            if self._failures >= GIVE_UP_AFTER:
                continue
            try:
                call()
                self._failures = 0
            except Exception as error:
                self._failures += 1
                if self._failures == 1:
                    self._say(
                        f"tracker {self._name}: {type(error).__name__}: {error}; the sweep goes on without it"
                    )


def start_trackers(choices: Sequence[TrackerConfig], ledger: Ledger, run_name: str) -> list[TrackerThread]:
    """Start the trackers of a phase."""
    found = []
    for choice in choices:
        callback, folder = _callback(choice, ledger, run_name)
        found.append(
            TrackerThread(choice.kind, callback, folder, lambda message: print(message, file=sys.stderr))
        )
    return found


def _callback(choice: TrackerConfig, ledger: Ledger, run_name: str) -> tuple[Any, Path | None]:
    if isinstance(choice, MlflowTracker):
        from ray.air.integrations.mlflow import MLflowLoggerCallback

        uri = _mlflow_uri(choice, ledger)
        return MLflowLoggerCallback(
            uri, registry_uri=uri, experiment_name=choice.experiment or run_name
        ), None
    if isinstance(choice, WandbTracker):
        from ray.air.integrations.wandb import WandbLoggerCallback

        os.environ["WANDB_MODE"] = choice.mode
        settings: dict[str, Any] = {"entity": choice.entity, "mode": choice.mode, "resume": "allow"}
        return WandbLoggerCallback(project=choice.project or run_name, **settings), _folder(choice, ledger)
    from ray.tune.logger import TBXLoggerCallback

    event_files: Any = TBXLoggerCallback
    return event_files(), _folder(choice, ledger)
