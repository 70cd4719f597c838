"""A run that lost or damaged files resumes with the trials it lost, or refuses; it never makes another board."""

from __future__ import annotations

import random
import shutil
import threading
import uuid
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from distill.errors import UsageError
from orchestrator.controller.run_state import Run
from orchestrator.ledger.repair import incomplete_trials, repair_run
from orchestrator.ledger.tables import Ledger
from orchestrator.sweep import _write_leaderboard
from tests import examples
from tests.faults.table_harms import (
    HARMS,
    PLAN,
    copy_run,
    files_of,
    harm,
    harmed_run,
    outcome_of,
    resume,
    train,
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "run"
    train(folder)
    return folder


def harm_and_resume(whole: Path, root: str, seed: int, kind: str, times: int, compacted: bool) -> None:
    """Copy a finished run, harm up to three of its files, and give the same command."""
    copy_run(whole, root)
    if compacted:
        Run(Ledger(root), PLAN).compact()
    choose = random.Random(seed)
    harmed = []
    for _ in range(times):
        harmed.append(choose.choice(files_of(Ledger(root))))
        harm(Ledger(root), kind, harmed[-1], choose)
    end = resume(root, outcome_of(whole))
    plan_and_provenance = "plan.json" in harmed and any("/provenance/" in path for path in harmed)
    assert end == "equal" or plan_and_provenance  # only then does nothing say which plan the tables are of


@example(1, "empty", 3, True)  # the plan and the provenance
@given(st.integers(0, 10**9), st.sampled_from(HARMS), st.integers(1, 3), st.booleans())
@settings(
    max_examples=examples(12), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_whatever_becomes_of_a_runs_files_it_ends_as_the_undisturbed_one_or_refuses(
    whole: Path, tmp_path: Path, seed: int, kind: str, times: int, compacted: bool
) -> None:
    shutil.rmtree(tmp_path / "run", ignore_errors=True)
    harm_and_resume(whole, str(tmp_path / "run"), seed, kind, times, compacted)


@given(st.integers(0, 10**9), st.sampled_from(HARMS), st.booleans())
@settings(
    max_examples=examples(3), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_so_does_a_run_in_an_object_store(
    whole: Path, s3_server: str, seed: int, kind: str, compacted: bool
) -> None:
    root = f"s3://runs/{uuid.uuid4().hex}?scheme=http&endpoint_override={s3_server}&region=us-east-1"
    harm_and_resume(whole, root, seed, kind, 1, compacted)


def test_a_run_that_is_cut_and_harmed_again_and_again_ends_as_the_undisturbed_one(
    whole: Path, tmp_path: Path
) -> None:
    harms: Counter[str] = Counter()
    assert harmed_run(tmp_path / "run", outcome_of(whole), "3", harms) == "equal"
    assert sum(harms.values()) > 1


def test_footers_of_an_object_stores_files_are_read_at_the_same_time(
    s3_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = Ledger(f"s3://runs/run?scheme=http&endpoint_override={s3_server}&region=us-east-1")
    for number in range(4):
        ledger.append("curves", [{"trial_id": f"t{number}", "step": 1, "loss_total": 1.0}], f"t{number}")
    ledger.write_bytes("tables/curves/t2.parquet", b"damaged")
    together = threading.Barrier(4)
    source = Ledger._footer_source

    def meet(self: Ledger, path: str, *, whole: bool) -> object:
        together.wait(timeout=60)  # fails if another file is read only after this one
        return source(self, path, whole=whole)

    monkeypatch.setattr(Ledger, "_footer_source", meet)
    assert list(ledger.damaged_files("curves")) == ["t2.parquet"]


def test_damaged_counts_are_found_when_the_board_is_written_and_their_trial_is_trained_again(
    whole: Path, tmp_path: Path
) -> None:
    """Their footer is sound, so opening the run does not find it."""
    root = str(tmp_path / "run")
    copy_run(whole, root)
    path = min((tmp_path / "run" / "tables" / "counts").iterdir())
    data = path.read_bytes()
    footer = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    path.write_bytes(data[:4] + bytes(255 - byte for byte in data[4:footer]) + data[footer:])
    assert repair_run(Ledger(root), PLAN) == []
    with pytest.raises(
        UsageError, match=rf"{path.name}: (.|\n)* moved to damaged/counts/(.|\n)*same command"
    ):
        _write_leaderboard(Run(Ledger(root), PLAN))
    assert not path.exists()
    assert list(incomplete_trials(Ledger(root)).values()) == ["its counts"]
    assert resume(root, outcome_of(whole)) == "equal"
    _write_leaderboard(Run(Ledger(root), PLAN))


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
