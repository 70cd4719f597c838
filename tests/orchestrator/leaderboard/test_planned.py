"""What a board reads in the config that its runs keep."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.leaderboard.board import build_boards
from orchestrator.leaderboard.entries import OTHER_BUDGET, Board
from orchestrator.leaderboard.planned import planned
from orchestrator.leaderboard.run_records import read_run_records
from orchestrator.leaderboard.text_tables import costs_table
from orchestrator.leaderboard.texts import conditions, legend, protocol_line, verdict
from tests.orchestrator.leaderboard.synthetic import Run, write_run

CONFIG = """
name: tiny
data: {scenes: {kind: scenes, size: 32, classes: 4, train: 16, teacher_train: 32, tune: 8, test: 8}}
recipes: {short: {steps: 12, batch_size: 4, augmentation: {crop: 32, scale: [0.75, 1.5]}, lr: 1.0e-3}}
pairs:
  - teacher: {model: big, recipe: short}
    student: {model: small, recipe: short}
    data: scenes
methods: [student, {name: kd, space: {kd_weight: {log_uniform: [0.1, 10]}, kind: {choice: [a, b]}}}, cwd]
search: {trials: 3, bracket: 3, wave: 6}
final: {seeds: [1, 2, 7]}
"""


def board_of(tmp_path: Path, run: Run) -> Board:
    (board,) = build_boards(read_run_records([write_run(tmp_path, run)]))
    return board


def test_a_config_gives_the_plan_its_pairs_methods_seeds_and_spaces() -> None:
    plan = planned(CONFIG)
    assert plan is not None
    assert plan.pairs == {"scenes": ("big_to_small",)}
    assert plan.methods == ("student", "kd", "cwd")
    assert (plan.seeds, plan.trials) == ((1, 2, 7), 3)
    assert plan.spaces["kd"] == {"kd_weight": (0.1, 10.0, True)}
    assert plan.spaces["student"]["recipe.lr"] == (0.25, 4.0, True)


@pytest.mark.parametrize(
    "text", ["a: [", "unknown: 1", "", CONFIG.replace("name: kd", "name: nowhere, label: x")]
)
def test_a_config_that_this_version_cannot_read_is_no_plan(text: str) -> None:
    assert (
        planned(text.replace("space: {kd_weight: {log_uniform: [0.1, 10]}, kind: {choice: [a, b]}}", ""))
        is None
    )


def test_what_the_plan_has_and_the_tables_lack_is_missing_as_not_started(tmp_path: Path) -> None:
    run = Run(gains={"student": 0.0, "kd": 0.1}, pairs=("big_to_small",), seeds=(1, 2), config_yaml=CONFIG)
    board = board_of(tmp_path, run)
    assert {(m.method, m.seeds): m.reason for m in board.missing} == {
        ("student", (7,)): "no final run is recorded yet; search trials so far: 3 ok, 1 pruned",
        ("kd", (7,)): "no final run is recorded yet; search trials so far: 3 ok, 1 pruned",
        ("cwd", (1, 2, 7)): "not started: no trial is recorded",
    }
    assert board.cells["big_to_small", "student"].on_edge == {}
    assert board.spaces["student"]["recipe.lr"] == (0.25, 4.0, True)


@pytest.mark.parametrize(
    ("config", "unit"),
    [
        (CONFIG, "worker-hours"),
        (CONFIG + "compute: {device: cuda}\n", "GPU-hours"),
        ("", "worker-hours"),  # nobody knows
    ],
)
def test_hours_are_those_of_gpus_only_where_gpus_worked(tmp_path: Path, config: str, unit: str) -> None:
    run = Run(gains={"student": 0.0, "kd": 0.1}, pairs=("big_to_small",), seeds=(1, 2), config_yaml=config)
    board = board_of(tmp_path, run)
    assert f"{board.gpu_hours:.2f} {unit}" in protocol_line(board).split(" · ")
    assert unit in costs_table(board).header


def test_a_students_size_is_that_of_the_model_with_its_own_options(tmp_path: Path) -> None:
    """A teacher may be the same architecture, only wider."""
    run = Run(pairs=("big_to_small",), seeds=(1, 2))
    wide = {"name": "small", "options": {"head_channels": 64}, "num_classes": 3, "height": 64, "width": 64}
    narrow = {**wide, "options": {"head_channels": 32, "dropout": 0.1}}
    config = CONFIG.replace("student: {model: small,", "student: {model: small, head_channels: 32,")
    found = []
    for name, told in (("told", config), ("untold", "")):
        ledger = write_run(tmp_path / name, run.but(config_yaml=told, with_models=False))
        ledger.append(
            "models",
            [
                {**wide, "device": "cpu", "params": 64_000},
                {**narrow, "options": {**narrow["options"], "backbone_args": {}, "output_stride": None},  # type: ignore[dict-item]
                 "device": "cpu", "params": 32_000},
            ],
            "both",
        )  # fmt: skip
        (board,) = build_boards(read_run_records([ledger]))
        found.append(board.pairs[0].params)
    assert found == [32_000, None]


def test_no_claim_is_made_about_a_method_with_a_final_run_to_come_and_others_keep_theirs(
    tmp_path: Path,
) -> None:
    """A claim that is made before the end is made with a p that the end can only lower."""
    config = CONFIG.replace("seeds: [1, 2, 7]", "seeds: [1, 2, 3, 4, 5]")
    gains = {"student": 0.0, "kd": 0.1, "cwd": 0.2}
    whole = Run(gains=gains, pairs=("big_to_small",), seeds=(1, 2, 3, 4, 5), config_yaml=config)
    end = board_of(tmp_path / "whole", whole)
    assert {row.method: row.surely for row in end.rows} == {"student": None, "kd": "better", "cwd": "better"}
    assert end.unfinished == ()
    part = board_of(tmp_path / "part", whole.but(left_out=frozenset({("kd", "big_to_small", 5)})))
    assert {row.method: row.surely for row in part.rows} == {"student": None, "kd": None, "cwd": "better"}
    early, late = (next(r for r in b.rows if r.method == "cwd").p_differs_from_student for b in (part, end))
    assert early is not None
    assert late is not None
    assert early >= late
    assert [(s.method, s.ended, s.planned) for s in part.unfinished] == [("kd", 4, 5)]
    assert verdict(part).endswith("No claim yet about kd: 1 study with 4 of 5 final runs.")
    without = board_of(tmp_path / "without", whole.but(left_out=frozenset({("student", "big_to_small", 5)})))
    assert {row.surely for row in without.rows} == {None}


def test_the_methods_that_have_not_begun_count_in_the_adjustment_of_the_others(tmp_path: Path) -> None:
    config = CONFIG.replace("seeds: [1, 2, 7]", "seeds: [1, 2, 3]")
    two = Run(
        gains={"student": 0.0, "cwd": 0.2}, pairs=("big_to_small",), seeds=(1, 2, 3), config_yaml=config
    )
    planned_more = board_of(tmp_path / "more", two)
    alone = board_of(tmp_path / "alone", two.but(config_yaml=""))
    early, late = (
        next(r for r in board.rows if r.method == "cwd").p_differs_from_student
        for board in (planned_more, alone)
    )
    assert early is not None
    assert late is not None
    assert early > late


def test_a_method_that_does_not_search_the_recipe_as_the_student_alone_is_marked_with_a_note(
    tmp_path: Path,
) -> None:
    run = Run(pairs=("big_to_small",), seeds=(1, 2), config_yaml=CONFIG)
    board = board_of(tmp_path / "untuned", run)
    assert [note for note in board.notes if "search spaces" in note] == [
        "Unequal search spaces: recipe.lr and recipe.weight_decay are not searched by kd as by the student alone, so "
        "these methods are not tuned equally."
    ]
    assert {row.method: row.marks for row in board.rows} == {"cwd": "", "kd": OTHER_BUDGET, "student": ""}
    assert "not searched over the same parameters of the recipe as the student alone" in legend(board)
    unsearched = run.but(config_yaml=CONFIG.replace("trials: 3", "trials: 0"), trials=0)
    assert not any(row.marks for row in board_of(tmp_path / "unsearched", unsearched).rows)


def conditions_of(tmp_path: Path, search: str) -> str:
    config = CONFIG.replace("search: {trials: 3, bracket: 3, wave: 6}", search)
    return conditions(board_of(tmp_path, Run(pairs=("big_to_small",), config_yaml=config)))


def test_the_board_says_how_configurations_were_chosen(tmp_path: Path) -> None:
    one_seed = conditions_of(tmp_path / "0", "search: {trials: 3, bracket: 3, wave: 6, finalists: 0}")
    assert one_seed.startswith("Of each search the best trial was chosen, by one training each. Every claim")
    two = "search: {trials: 4, bracket: 4, wave: 8, rungs: [0.5], finalists: 3, finalist_seeds: [8]}"
    assert conditions_of(tmp_path / "2", two).startswith(
        "Of each search the best 2 trials were trained again with 1 fresh seed, and the one with the best mean was chosen."
    )
    halved_twice = two.replace("[0.5]", "[0.25, 0.5]")
    assert "so 1 fresh seed of it chose nothing" in conditions_of(tmp_path / "1", halved_twice)
    assert not conditions_of(tmp_path / "n", "search: {trials: 0}").startswith("Of each search")


def test_methods_that_were_chosen_in_another_way_than_the_others_have_a_mark(tmp_path: Path) -> None:
    """An earlier run, whose config has no finalists, beside a run with them, on one board."""
    pair = ("big_to_small",)
    listed = (
        "[student, {name: kd, space: {kd_weight: {log_uniform: [0.1, 10]}, kind: {choice: [a, b]}}}, cwd]"
    )
    earlier = CONFIG.replace(listed, "[kd]")
    new = CONFIG.replace(listed, "[student, cwd, fitnet]").replace(
        "wave: 6}", "wave: 6, rungs: [0.5], finalists: 2}"
    )
    runs = [
        write_run(tmp_path / "a", Run(gains={"kd": 0.1}, pairs=pair, config_yaml=earlier, name="a")),
        write_run(
            tmp_path / "b",
            Run(gains={"student": 0.0, "cwd": 0.1, "fitnet": 0.1}, pairs=pair, config_yaml=new, name="b"),
        ),
    ]
    (board,) = build_boards(read_run_records(runs))
    assert {row.method: row.marks for row in board.rows} == {
        "student": "",
        "cwd": "",
        "fitnet": "",
        "kd": OTHER_BUDGET,
    }
    assert "by one training each or the best" in conditions(board)
