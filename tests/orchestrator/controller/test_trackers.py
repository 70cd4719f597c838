"""Trackers through Tune's callbacks, each read back from its real local backend; a tracker never stops a sweep."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.console.exit_codes import USAGE
from orchestrator.controller.trackers import TrackedTrial, TrackerThread, check_trackers, numbers
from orchestrator.ledger.tables import Ledger
from orchestrator.planning.config import OperationConfig
from orchestrator.protocol import Costs, Report
from orchestrator.sweep import SweepOptions, command
from tests.orchestrator.sweeps import run

ONE_PAIR = (
    "pairs=[{teacher: {model: segformer-test_vit, head_channels: 8, recipe: teacher},"
    " student: {model: deeplabv3-test_resnet, head_channels: 8, recipe: student}, data: scenes}]"
)
LIST = "operation.trackers=[mlflow, tensorboard, {kind: wandb, mode: offline}]"
TAGS = {"run": "r", "trial": "t1", "study": "s", "pair": "p", "method": "kd", "phase": "search"}
REPORT = Report(
    "t1", 20, tune_miou=0.5, lr=0.1, terms_raw={"kd": 2.0}, terms_weighted={"kd": 1.0}, costs=Costs(3.0, 1.0)
)


def trackers(*entries: object) -> OperationConfig:
    return OperationConfig.model_validate({"trackers": entries})


@pytest.mark.ray
@pytest.mark.long
@pytest.mark.timeout(400)
def test_every_trial_of_a_sweep_stands_in_every_tracker_with_its_numbers_settings_and_tags(
    tmp_path: Path,
) -> None:
    mlflow = pytest.importorskip("mlflow")
    pytest.importorskip("wandb")
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    folder = tmp_path / "run"
    sweep = run(
        "smoke", folder, "--set", LIST, "--set", "search.trials=0", "--set", "final.seeds=[1]",
        "--set", "name=tracked", "--set", ONE_PAIR,
    )  # fmt: skip
    assert sweep.process.returncode == 0, sweep.text()
    ledger = Ledger(folder)
    rows = {row["trial_id"]: row for row in ledger.read("trials").to_pylist()}

    client = mlflow.MlflowClient(f"sqlite:///{folder}/mlflow.db")
    experiment = client.get_experiment_by_name("tracked")
    found = {told.data.tags["trial"]: told for told in client.search_runs([experiment.experiment_id])}
    assert set(found) == set(rows)
    for trial_id, told in found.items():
        row = rows[trial_id]
        assert told.data.metrics["tune_miou"] == pytest.approx(row["tune_miou"])
        assert {key: told.data.tags[key] for key in ("study", "pair", "method", "phase")} == {
            "study": row["study_id"], "pair": row["pair"], "method": row["method"], "phase": row["phase"],
        }  # fmt: skip
        assert told.info.status == "FINISHED"
        settings = {
            key: float(value) for key, value in dict(row["params"]).items() if isinstance(value, float)
        }
        assert {key: float(told.data.params[key]) for key in settings} == pytest.approx(settings)
    distilled = [told for told in found.values() if told.data.tags["method"] == "heteroakd"]
    assert any(name.startswith("raw/") for told in distilled for name in told.data.metrics)

    for trial_id, row in rows.items():
        read = events.EventAccumulator(str(folder / "tensorboard" / trial_id))
        read.Reload()
        [last] = read.Scalars("ray/tune/tune_miou")[-1:]
        assert last.value == pytest.approx(row["tune_miou"])
        assert last.step == row["steps_done"]
        assert list((folder / "wandb" / trial_id / "wandb").glob("offline-run-*/*.wandb"))


class Recorder:
    """A callback of Tune's kind that notes what it is told, or raises."""

    tags: dict[str, str] | None = None

    def __init__(self, fail: Callable[[], None] = lambda: None) -> None:
        self.told: list[tuple[object, ...]] = []
        self.fail = fail

    def setup(self) -> None:
        self.fail()

    def log_trial_start(self, trial: TrackedTrial) -> None:
        self.fail()
        self.told.append(("start", trial.trial_id, self.tags, trial.config))

    def log_trial_result(self, step: int, trial: TrackedTrial, result: dict[str, object]) -> None:
        self.fail()
        self.told.append(("result", step, result))

    def log_trial_end(self, trial: TrackedTrial, failed: bool) -> None:
        self.fail()
        self.told.append(("end", failed))

    def on_experiment_end(self, trials: list[object]) -> None:
        self.fail()


def tell(callback: Recorder) -> list[str]:
    said: list[str] = []
    tracker = TrackerThread("recorder", callback, None, said.append)
    tracker.start(TrackedTrial("t1", {**TAGS, "weight": 2.0}, TAGS))
    tracker.add_report("t1", REPORT)
    tracker.end("t1", failed=True)
    tracker.close()
    return said


def test_a_tracker_is_told_flat_numbers_settings_and_tags_and_nothing_else() -> None:
    callback = Recorder()
    assert tell(callback) == []
    assert callback.told == [
        ("start", "t1", TAGS, {**TAGS, "weight": 2.0}),
        ("result", 20, numbers(REPORT)),
        ("end", True),
    ]
    assert numbers(REPORT) == {
        "tune_miou": 0.5, "lr": 0.1, "worker_seconds": 4.0, "raw/kd": 2.0, "weighted/kd": 1.0,
        "timesteps_total": 20, "training_iteration": 20,
    }  # fmt: skip


def test_a_tracker_that_fails_is_told_of_once_and_holds_nobody_up() -> None:
    def fail() -> None:
        raise ConnectionError("gone away")

    [said] = tell(Recorder(fail))
    assert said == "tracker recorder: ConnectionError: gone away; the sweep goes on without it"


def test_a_tracker_that_hangs_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.controller.trackers.CLOSING_SECONDS", 0.05)
    released = threading.Event()
    [said] = tell(Recorder(lambda: released.wait() and None))
    released.set()
    assert "is left behind" in said


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("{kind: mlflow, uri: 'http://127.0.0.1:1'}", "mlflow at http://127.0.0.1:1 does not answer.*take the tracker out"),
        ("{kind: mlflow, uri: 'http://me:secret@host'}", "holds a user.*MLFLOW_TRACKING_PASSWORD"),
        ("{kind: wandb}", "nobody is logged in to wandb.*`mode: offline`"),
        ("{kind: mlfow}", "'mlflow', 'wandb', 'tensorboard'"),
        ("{kind: tensorboard, uri: x}", "unknown key"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_tracker_is_said_before_the_start(
    entry: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mlflow")
    pytest.importorskip("wandb")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    options = SweepOptions(
        source="smoke", set=[f"operation.trackers=[{entry}]"], output=str(tmp_path / "run")
    )
    assert command(options) == USAGE
    err = capsys.readouterr().err
    assert re.search(said, err, re.DOTALL), err
    assert "secret" not in err
    assert not (tmp_path / "run" / "tables").exists()


def test_a_tracker_of_files_needs_a_folder_when_the_run_is_in_an_object_store() -> None:
    with pytest.raises(
        ValueError, match="tensorboard writes files, and the run is in an object store; give it a folder"
    ):
        check_trackers(trackers("tensorboard").trackers, Ledger("s3://bucket/run"))
