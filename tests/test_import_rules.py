"""The arrows between the packages point down only."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import ROOT

RULES = [
    # files, what they must not import, except
    ("distill/**/*.py", {"ray", "orchestrator"}, ()),
    ("search_spaces/**/*.py", {"ray", "torch", "timm", "orchestrator"}, ()),
    ("distill/**/*.py", {"timm"}, ("distill/models/",)),
    ("orchestrator/**/*.py", {"timm", "albumentations"}, ()),
    ("distill/**/*.py", {"albumentations"}, ("distill/data/",)),
    ("orchestrator/leaderboard/**/*.py", {"torch", "ray"}, ()),
    ("orchestrator/planning/plan.py", {"torch", "ray"}, ()),
    ("orchestrator/planning/config.py", {"torch", "ray"}, ()),
    ("orchestrator/ledger/tables.py", {"torch", "ray"}, ()),
    ("orchestrator/controller/wave_scheduler.py", {"torch", "ray"}, ()),
    ("orchestrator/controller/cohort_channel.py", {"torch", "ray"}, ()),
    ("orchestrator/controller/tune_adapter.py", {"torch"}, ()),
    ("orchestrator/controller/report_poller.py", {"torch"}, ()),
]


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield str(node.module).split(".")[0]


@pytest.mark.parametrize(("pattern", "forbidden", "exempt"), RULES, ids=range(len(RULES)))
def test_no_import_goes_through_a_wall(pattern: str, forbidden: set[str], exempt: tuple[str, ...]) -> None:
    files = [
        path for path in ROOT.glob(pattern) if not str(path.relative_to(ROOT)).startswith(exempt or ("-",))
    ]
    assert files
    broken = {str(p.relative_to(ROOT)): found for p in files if (found := forbidden & set(imported(p)))}
    assert not broken


def test_ray_is_imported_by_the_orchestrator_alone() -> None:
    users = {path.relative_to(ROOT).parts[0] for package in ("distill", "search_spaces", "orchestrator")
             for path in (ROOT / package).rglob("*.py") if "ray" in set(imported(path))}  # fmt: skip
    assert users == {"orchestrator"}
