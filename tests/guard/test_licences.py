"""The page of licences is the one that its command writes from what is locked."""

from __future__ import annotations

import re
import subprocess
import sys

from tests import ROOT

PAGE = (ROOT / "docs" / "licences.md").read_text()
ROWS = dict(re.findall(r"(?m)^\| ([a-z0-9][a-z0-9-]*) \| ([^|]+) \|", PAGE))


def locked() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pairs = [line.split("==") for line in lines if "==" in line]
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in pairs}


def test_every_locked_distribution_has_its_row_with_the_locked_version() -> None:
    assert len(locked()) > 100
    assert {name: version.split("+")[0] for name, version in ROWS.items() if name != "distribution"} == {
        name: version.split("+")[0] for name, version in locked().items()
    }


def test_the_command_writes_a_row_for_every_locked_distribution_here_too() -> None:
    command = [sys.executable, "deploy/licences.py"]
    page = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in locked():
        assert f"\n| {name} | " in page


def test_no_code_under_the_general_public_licence_comes_with_the_program() -> None:
    """MPL and LGPL bind their own files only; GPL and AGPL would bind whoever hands the whole out."""
    for line in PAGE.splitlines():
        cells = [cell.strip() for cell in line.split("|")]
        if len(cells) == 7 and cells[4] != "dev":
            assert not re.search(r"(?<!L)\bA?GPL", cells[3]) or "exception" in cells[3], line
