"""A run that lost or damaged files resumes with the trials it lost, or refuses; it never makes another board."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from distill.errors import UsageError
from orchestrator.controller.run_state import Run
from orchestrator.controller.wave_scheduler import WaveScheduler
from orchestrator.ledger.repair import incomplete_trials, repair_run
from orchestrator.ledger.row_builders import count_rows
from orchestrator.ledger.run_folder import check_run_folder, claim_run_folder
from orchestrator.ledger.tables import Ledger
from orchestrator.planning.plan import make_plan
from orchestrator.protocol import Report
from tests import examples
from tests.orchestrator.sweep_files import tiny_sweep

PLAN = make_plan(tiny_sweep(search__trials=4, search__bracket=4, search__wave=8))
COHORT = PLAN.students[0]


def score(trial_id: str, step: int) -> float:
    return random.Random(f"{trial_id}{step}").random()


def train(folder: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Train whatever is not recorded, as workers would; returns how each trial of the plan ended, with its scores' steps."""
    run = Run(Ledger(folder), PLAN, provenance_id="p")
    claim_run_folder(run.ledger, PLAN, fresh=False)
    run.ledger.append("provenance", [{"provenance_id": "p", "plan_hash": PLAN.plan_hash}], "p")
    scheduler = WaveScheduler(PLAN.config, [COHORT], run.recorded(), run.retried)
    while (order := scheduler.open_next(COHORT.cohort_id)) is not None:
        alive = [trial.trial_id for trial in order.trials]
        for step in (*order.wave.rungs, order.wave.steps):
            last = step == order.wave.steps
            for trial_id in alive:
                trial = scheduler.trials[trial_id].trial
                if last and trial.phase == "final":
                    for split in ("tune", "test"):
                        rows = count_rows(trial_id, split, [0], *np.ones((3, 1, 2), dtype=np.int64))
                        run.ledger.append("counts", rows, f"{trial_id}-{split}")
                    run.ledger.append("models", [{"name": trial.student.name, "num_classes": 4, "options": "{}",
                                                  "height": 8, "width": 8, "device": "cpu"}], "model")  # fmt: skip
                report = Report(
                    trial_id, step, "ok" if last else None, tune_miou=score(trial_id, step), finished_at=1.0
                )
                scheduler.add_report(report)
                if last:
                    run.record(scheduler, COHORT, report)
            for decision in scheduler.decisions():
                for trial_id in set(decision.drop) & set(alive):
                    alive.remove(trial_id)
                    at = decision.rung
                    ended = Report(trial_id, at, "pruned", tune_miou=score(trial_id, at), finished_at=1.0)
                    scheduler.add_report(ended)
                    run.record(scheduler, COHORT, ended)
    return outcome(scheduler)


def outcome(scheduler: WaveScheduler) -> dict[str, tuple[str, tuple[int, ...]]]:
    return {t: (str(s.status), tuple(sorted(s.scores))) for t, s in scheduler.trials.items()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "run"
    train(folder)
    return folder


HARMS = ("remove", "truncate", "garble", "overwrite", "duplicate", "swap", "empty")


def harm(kind: str, files: list[Path], choose: random.Random) -> None:
    """Do something to one or two files of one kind."""
    file = choose.choice(files)
    others = [other for other in files if other.parent == file.parent and other != file]
    data = file.read_bytes()
    if kind == "remove":
        file.unlink()
    elif kind == "truncate":
        file.write_bytes(data[: choose.randrange(1, len(data))])
    elif kind == "garble":
        at = choose.randrange(len(data) // 2)
        file.write_bytes(data[:at] + bytes(255 - byte for byte in data[at : at + 40]) + data[at + 40 :])
    elif kind == "empty":
        file.write_bytes(b"")
    elif others:
        other = choose.choice(others)
        if kind == "overwrite":
            file.write_bytes(other.read_bytes())
        elif kind == "duplicate":
            file.with_name(f"copy-{file.name}").write_bytes(data)
        else:
            file.write_bytes(other.read_bytes())
            other.write_bytes(data)


@given(st.integers(0, 10**9), st.sampled_from(HARMS), st.integers(1, 3), st.booleans())
@settings(
    max_examples=examples(24), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_whatever_becomes_of_a_runs_files_it_ends_as_the_undisturbed_one_or_refuses(
    whole: Path, tmp_path: Path, seed: int, kind: str, times: int, compacted: bool
) -> None:
    expected = outcome_of(whole)
    folder = tmp_path / "run"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(whole, folder)
    if compacted:
        Run(Ledger(folder), PLAN).compact()
    choose = random.Random(seed)
    for _ in range(times):
        files = sorted(path for path in folder.rglob("*") if path.suffix in (".parquet", ".json"))
        harm(kind, files, choose)
    try:
        check_run_folder(Ledger(folder), PLAN, fresh=False)
        repair_run(Ledger(folder), PLAN)
    except UsageError:  # refused: nothing says any more which plan the tables are of
        assert not (folder / "tables" / "provenance" / "p.parquet").exists() or kind != "remove"
        return
    assert train(folder) == expected
    assert not incomplete_trials(Ledger(folder))
    assert outcome_of(folder) == expected


def outcome_of(folder: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """How the trials ended, by the tables alone."""
    run = Run(Ledger(folder), PLAN)
    recorded = run.recorded()
    return {t: (str(r.status), tuple(sorted(r.scores))) for t, r in sorted(recorded.items())}


def test_teachers_that_were_interrupted_before_their_row_are_trained_again(tmp_path: Path) -> None:
    """Their weights alone would be taken for those of a teacher that was given."""
    ledger, [teacher] = Ledger(tmp_path), PLAN.teachers[:1]
    path = f"teachers/{teacher.teacher_id}.safetensors"
    ledger.write_bytes(path, bytes([2, 0, 0, 0, 0, 0, 0, 0]) + b"{}")
    assert repair_run(ledger, PLAN) == []  # given before the run began
    ledger.append("provenance", [{"provenance_id": "p", "plan_hash": PLAN.plan_hash}], "p")
    assert any("it is trained again" in note for note in repair_run(ledger, PLAN))
    assert not ledger.exists(path)


def test_teachers_weights_that_are_cut_short_are_set_aside(tmp_path: Path) -> None:
    ledger, [teacher] = Ledger(tmp_path), PLAN.teachers[:1]
    path = f"teachers/{teacher.teacher_id}.safetensors"
    header = b'{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}'
    ledger.write_bytes(path, len(header).to_bytes(8, "little") + header + b"\0\0\0")
    [note] = repair_run(ledger, PLAN)
    assert "it is cut short; moved to damaged/" in note
    assert not ledger.exists(path)
