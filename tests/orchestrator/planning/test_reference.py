from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.planning.loader import load_sweep
from orchestrator.planning.reference import SettingSection, markdown, sections

ROOT = Path(__file__).resolve().parents[3]
EXAMPLE = ROOT / "docs" / "examples" / "every_setting.yaml"


@pytest.fixture(scope="module")
def example() -> Any:
    return yaml.safe_load(EXAMPLE.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def found(example: Any) -> list[SettingSection]:
    return sections(example)


def test_the_example_file_is_a_valid_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # its paths would otherwise be looked for beside this checkout, too
    assert load_sweep(str(EXAMPLE)).name == "every_setting"


def test_every_key_has_an_example_or_a_section_of_its_own(found: list[SettingSection]) -> None:
    places = [section.place for section in found]
    missing = [
        f"{section.place}.{row.key}"
        for section in found
        for row in section.settings
        if row.example is None
        and not any(place.startswith(f"{section.place}.{row.key}".strip(".")) for place in places)
    ]
    assert missing == []


def test_the_page_is_what_the_command_writes(example: Any) -> None:
    page = (ROOT / "docs" / "sweep_file.md").read_text(encoding="utf-8")
    assert page == markdown(example), (
        "run: python -m orchestrator.planning.reference docs/examples/every_setting.yaml > docs/sweep_file.md"
    )


def test_a_setting_shows_its_kind_limits_default_and_meaning(found: list[SettingSection]) -> None:
    rows = {(section.place, row.key): row for section in found for row in section.settings}
    trials = rows["search", "trials"]
    assert (trials.type, trials.default, trials.example) == ("whole number, ≥ 0, ≤ 100000", "`16`", "32")
    assert rows["recipes.NAME", "optimizer"].type == "`sgd` or `adamw`"
    assert rows["pairs[].teacher.checkpoint (kind run)", "path"].default == "required"
    assert rows["pairs[].student", "output_stride"].default == "–"
    assert rows["recipes.NAME.sliding_window", "size"].type == "list of 2 × whole number, > 0, ≤ 1e+06"
