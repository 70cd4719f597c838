"""Settings that were renamed: a sweep file must use the new name, a recorded config may have the old one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from distill.errors import UsageError
from orchestrator.planning import plan
from orchestrator.planning.config import SweepConfig
from orchestrator.planning.loader import load_sweep
from orchestrator.planning.plan import make_plan
from orchestrator.planning.renamed import RENAMED, read_recorded_config, with_current_names
from tests.orchestrator.sweep_files import tiny_sweep

VALUES: dict[str, Any] = {
    "compute.divide": "students",
    "operation.copies": {"folder": "/copies", "gigabytes": 2.0},
    "operation.hang_seconds": 7.0,
    "operation.round_steps": 5,
    "operation.seats": 3,
}
"""Old name of each setting -> a value that differs from the default."""


def value_of(config: SweepConfig, setting: str) -> Any:
    section, name = setting.split(".")
    return getattr(getattr(config, section), name)


def recorded(setting: str, value: Any) -> str:
    """The config of `tiny_sweep` as an earlier version recorded it, with one setting under its old name."""
    document = tiny_sweep().model_dump(mode="json")
    section, old = setting.split(".")
    document[section].pop(RENAMED[setting].partition(".")[2], None)
    document[section][old] = value
    return yaml.safe_dump(document)


def test_there_is_a_value_for_each_renamed_setting() -> None:
    assert VALUES.keys() == RENAMED.keys()


@pytest.mark.parametrize("old", RENAMED)
def test_an_old_name_in_a_sweep_file_is_an_error_with_line_and_new_name(tmp_path: Path, old: str) -> None:
    document = tiny_sweep().model_dump(mode="json")
    section, name = old.split(".")
    del document[section]
    file = tmp_path / "sweep.yaml"
    text = yaml.safe_dump(document, sort_keys=False) + f"{section}:\n  {name}: {VALUES[old]}\n"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError) as raised:
        load_sweep(str(file))
    line = len(text.splitlines())
    assert str(raised.value).startswith(f"{file}:{line}: '{old}' is called '{RENAMED[old]}' now")


@pytest.mark.parametrize("old", RENAMED)
def test_an_old_name_in_a_set_option_is_an_error_with_the_option_and_the_new_name(old: str) -> None:
    override = f"{old}={VALUES[old]}"
    with pytest.raises(UsageError) as raised:
        load_sweep("smoke", [override])
    assert str(raised.value).startswith(f"--set {override}: '{old}' is called '{RENAMED[old]}' now")


def test_a_key_below_an_old_name_in_a_set_option_is_answered_in_the_same_way() -> None:
    with pytest.raises(UsageError) as raised:
        load_sweep("smoke", ["operation.copies.folder=/copies"])
    assert str(raised.value) == (
        "--set operation.copies.folder=/copies: 'operation.copies' is called 'operation.remote_copies' now"
    )


def test_the_error_says_that_the_rounds_have_another_unit() -> None:
    with pytest.raises(UsageError, match="now, in seconds"):
        load_sweep("smoke", ["operation.round_steps=5"])


@pytest.mark.parametrize("old", sorted(RENAMED.keys() - {"operation.round_steps"}))
def test_a_recorded_config_with_an_old_name_has_its_value_under_the_new_name(old: str) -> None:
    found = value_of(read_recorded_config(recorded(old, VALUES[old])), RENAMED[old])
    if isinstance(VALUES[old], dict):
        found = found.model_dump()
    assert found == VALUES[old]


def test_a_recorded_number_of_steps_is_not_read_as_seconds() -> None:
    config = read_recorded_config(recorded("operation.round_steps", 5))
    assert (
        config.operation.round_seconds
        == SweepConfig.model_fields["operation"].get_default(call_default_factory=True).round_seconds
    )


@pytest.mark.parametrize("old", RENAMED)
def test_a_recorded_config_has_the_plan_hash_of_the_same_config_with_the_new_name(old: str) -> None:
    new = RENAMED[old].replace(".", "__")
    current = tiny_sweep() if old == "operation.round_steps" else tiny_sweep(**{new: VALUES[old]})
    from_record = read_recorded_config(recorded(old, VALUES[old]))
    assert make_plan(from_record).plan_hash == make_plan(current).plan_hash
    changes_the_plan = old.startswith("compute.")
    assert (make_plan(current).plan_hash != make_plan(tiny_sweep()).plan_hash) == changes_the_plan


@pytest.mark.parametrize(("divide", "plan_hash"), [("batches", "b51a47a3204e"), ("students", "ef8aade25737")])
def test_a_recorded_division_of_the_work_has_the_plan_hash_of_the_version_that_recorded_it(
    monkeypatch: pytest.MonkeyPatch, divide: str, plan_hash: str
) -> None:
    """The hashes are those of version 0.1.0: its `RESULT_VERSION` was 1, and so was that of every method."""
    versions_of_models = plan.result_versions
    monkeypatch.setattr(plan, "RESULT_VERSION", 1)
    monkeypatch.setattr(plan, "result_versions", lambda models, _: versions_of_models(models))
    assert make_plan(read_recorded_config(recorded("compute.divide", divide))).plan_hash == plan_hash


def test_the_recorded_values_are_not_changed() -> None:
    values: dict[str, Any] = {"compute": {"divide": "students"}, "name": "mine"}
    assert with_current_names(values)["compute"] == {"parallelism": "students"}
    assert values == {"compute": {"divide": "students"}, "name": "mine"}


@pytest.mark.parametrize("recorded_finalists", [None, 0, 3])
def test_a_recorded_search_without_finalists_had_none_and_a_new_one_has_two(
    recorded_finalists: int | None,
) -> None:
    document = tiny_sweep().model_dump(mode="json")
    del document["search"]["finalists"]
    assert tiny_sweep(search=document["search"]).search.finalists == 2
    if recorded_finalists is not None:
        document["search"]["finalists"] = recorded_finalists
    found = read_recorded_config(yaml.safe_dump(document))
    assert found.search.finalists == (recorded_finalists or 0)
    assert read_recorded_config(yaml.safe_dump(found.model_dump(mode="json"))) == found


def test_a_recorded_config_with_an_unknown_setting_is_refused() -> None:
    document = {**tiny_sweep().model_dump(mode="json"), "colour": "blue"}
    with pytest.raises(UsageError, match="another version"):
        read_recorded_config(yaml.safe_dump(document))


def test_a_recorded_config_with_a_teacher_that_brings_its_network_is_read_again() -> None:
    loaded = {"model": "theirs", "checkpoint": {"kind": "transformers", "path": "/weights/saved"}}
    student = {"model": "deeplabv3-test_resnet", "head_channels": 8, "recipe": "student"}
    config = tiny_sweep(pairs=[{"teacher": loaded, "student": student, "data": "scenes"}])
    text = yaml.safe_dump(config.model_dump(mode="json"))
    assert read_recorded_config(text) == config
