"""Pairs, recipes and presets of the package are valid."""

from __future__ import annotations

from pathlib import Path

import pytest

from distill.models.checkpoint import load_model
from orchestrator.planning.cost_estimate import estimate
from orchestrator.planning.loader import load_sweep
from orchestrator.planning.plan import make_plan
from search_spaces import library, preset_names

FILE = """\
name: named
data: {{city: {{kind: cityscapes, root: /nowhere}}}}
pairs: [{{pair: {pair}, data: city}}]
methods: [student, heteroakd]
"""


@pytest.mark.parametrize("pair", sorted(library.pairs()))
def test_a_library_pair_needs_only_its_name_and_a_data_set(tmp_path: Path, pair: str) -> None:
    file = tmp_path / "sweep.yaml"
    file.write_text(FILE.format(pair=pair))
    config = load_sweep(str(file))
    assert config.pairs[0].label == pair
    assert make_plan(config).studies[0].recipe.batch_size in (8, 16)


def test_an_override_changes_one_field_of_a_recipe_or_pair_of_the_library(tmp_path: Path) -> None:
    file = tmp_path / "sweep.yaml"
    file.write_text(FILE.format(pair="deeplabv3_resnet101_to_mit_b0"))
    config = load_sweep(
        str(file), ["recipes.cityscapes_cnn.steps=7", "pairs.0.student.model=segformer-mit_b1"]
    )
    assert config.recipes["cityscapes_cnn"].steps == 7
    assert config.recipes["cityscapes_cnn"].batch_size == 16
    assert config.pairs[0].student.model == "segformer-mit_b1"


def test_an_override_may_name_another_pair_of_the_library(tmp_path: Path) -> None:
    file = tmp_path / "sweep.yaml"
    file.write_text(FILE.format(pair="deeplabv3_resnet101_to_mit_b0"))
    config = load_sweep(str(file), ["pairs=[{pair: scenes_cnn_to_cnn, data: city}]"])
    assert config.pairs[0].label == "scenes_cnn_to_cnn"
    assert config.pairs[0].student.recipe in config.recipes


@pytest.mark.parametrize("preset", preset_names())
def test_every_preset_can_be_planned_and_its_cost_is_known(preset: str) -> None:
    found = estimate(make_plan(load_sweep(preset)))
    assert found["worker_hours"] > 0
    assert found["disk_bytes"] > 0


def test_the_student_steps_of_a_search_are_counted_with_halving() -> None:
    found = estimate(make_plan(load_sweep("laptop", ["search.trials=16", "search.bracket=16", "search.wave=16",
                                                     "search.rungs=[0.125, 0.25, 0.5]", "recipes.cnn_student.steps=400", "recipes.transformer_student.steps=400"])))  # fmt: skip
    # A wave of 16 halved at L/8, L/4, L/2 is 5 L student steps on L teacher passes.
    studies = found["studies"]
    assert found["phases"]["search"]["student_steps"] == studies * 5 * 400


def test_the_preset_laptop_brings_its_teachers_and_trains_none() -> None:
    teachers = make_plan(load_sweep("laptop")).teachers
    files = {str(teacher.checkpoint.path): teacher.model.name for teacher in teachers if teacher.checkpoint}
    assert [load_model(file)[0].options.name for file in files] == list(files.values())
    assert sorted(files.values()) == sorted(
        teacher.model.name for teacher in make_plan(load_sweep("scenes")).teachers
    )


def test_the_cost_has_no_finalists_that_rungs_leave_untrained() -> None:
    def selection(rungs: str) -> dict[str, float]:
        search = [
            "search.trials=4",
            "search.bracket=4",
            "search.wave=4",
            "search.finalists=2",
            f"search.rungs={rungs}",
        ]
        found: dict[str, float] = estimate(make_plan(load_sweep("laptop", search)))["phases"]["selection"]
        return found

    whole, halved_twice = selection("[0.5]"), selection("[0.25, 0.5]")
    assert halved_twice["trials"] == whole["trials"] / 2
    assert halved_twice["student_steps"] == whole["student_steps"] / 2
