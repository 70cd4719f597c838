"""Workers that divide a cohort's students: each lies on one of them, and they take turns to ask the teacher."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.planning.config import ComputeConfig
from orchestrator.worker.student_placement import balancing_moves
from tests.faults.harness import PATIENT, Toll, kill
from tests.orchestrator.by_hand import losses_by_hand, losses_of
from tests.orchestrator.sweeps import SMALL, Sweep, assert_equal_runs, counted, run, trials

DIVIDED = ("--set", "compute.workers=2", "--set", "compute.parallelism=students")


@given(st.lists(st.integers(0, 12), min_size=1, max_size=8))
def test_moves_lose_no_student_and_leave_no_worker_two_more_than_another(counts: list[int]) -> None:
    held = [[f"{rank}-{number}" for number in range(count)] for rank, count in enumerate(counts)]
    now = [set(trial_ids) for trial_ids in held]
    moves = balancing_moves(held)
    for move in moves:
        now[move.source].remove(move.trial_id)
        now[move.target].add(move.trial_id)
    assert set().union(*now) == set().union(*held)
    assert max(map(len, now)) - min(map(len, now)) <= 1
    share = sum(counts) // len(counts)
    assert len(moves) <= sum(max(0, count - share) for count in counts)


def test_a_config_that_divides_batches_is_written_as_before_there_was_a_choice() -> None:
    """Plans and trial ids are hashes of what is written; those of earlier runs stand."""
    assert not {"divide", "parallelism"} & ComputeConfig(workers=2).hashed().keys()
    assert ComputeConfig(parallelism="students").hashed()["divide"] == "students"  # its name then


def test_a_teacher_has_all_workers_and_a_student_one() -> None:
    compute = ComputeConfig(workers=4, parallelism="students")
    assert (
        compute.workers_of_a_student(has_teacher=False),
        compute.workers_of_a_student(has_teacher=True),
    ) == (4, 1)
    assert ComputeConfig(workers=4).workers_of_a_student(has_teacher=True) == 4


def taught_by_one_that_is_loaded(teacher: Path, source: Path) -> Path:
    document = yaml.safe_load(SMALL.read_text())
    [pair] = document["pairs"]
    pair["teacher"] = {"model": "segformer-test_vit", "checkpoint": str(teacher)}
    document["search"]["wave"] = 8
    document["compute"] = {"workers": 2, "parallelism": "students"}
    source.write_text(yaml.safe_dump(document))
    return source


@pytest.mark.ray
@pytest.mark.long
@pytest.mark.timeout(600)
def test_students_on_a_worker_each_learn_what_they_learn_alone_and_go_on_after_a_worker_was_killed(
    undisturbed: Path, tmp_path: Path
) -> None:
    [teacher] = undisturbed.glob("teachers/*.safetensors")
    source, output = taught_by_one_that_is_loaded(teacher, tmp_path / "loaded.yaml"), tmp_path / "run"
    sweep = Sweep(source, output, *PATIENT)
    sweep.wait_until(lambda: counted(output, phase="search", status="pruned") >= 1)
    assert kill(sweep, "worker", random.Random(1), Toll())
    assert sweep.finish() == 0, sweep.text()

    rows = trials(output)
    assert set(rows[rows.phase != "teacher"].world_size) == {1}
    assert set(rows.status) == {"ok", "pruned"}
    assert losses_of(output, ["search"]) == losses_by_hand(source, output, ["search"])


@pytest.mark.ray
@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_run_that_divides_students_is_the_same_to_the_bit_however_it_is_cut(tmp_path: Path) -> None:
    expected = run(SMALL, tmp_path / "expected", *DIVIDED)
    assert expected.process.returncode == 0, expected.text()
    choose, toll = random.Random(2), Toll()
    cut = Sweep(SMALL, tmp_path / "run", *DIVIDED, *PATIENT)
    for kind, phase in (("worker", "search"), ("damage", "search"), ("command", "final")):
        cut.wait_until(lambda phase=phase: counted(tmp_path / "run", phase=phase) >= 1)
        while not kill(cut, kind, choose, toll):
            assert cut.process.poll() is None, cut.text()
        if kind != "worker":
            cut = Sweep(SMALL, tmp_path / "run", *DIVIDED, *PATIENT)
    assert cut.finish() == 0, cut.text()
    assert_equal_runs(tmp_path / "run", tmp_path / "expected")
