"""The page of licences covers what is locked, and nothing in it binds whoever hands the program out."""

from __future__ import annotations

import re

from tests import ROOT

PAGE = (ROOT / "docs" / "licences.md").read_text(encoding="utf-8")
ROWS = [
    [cell.strip() for cell in line.split("|")[1:-1]] for line in PAGE.splitlines() if line.startswith("|")
][2:]


def by_name(pairs: list[tuple[str, str]]) -> dict[str, str]:
    """Canonical name → version without the part that names a build."""
    return {re.sub(r"[-_.]+", "-", name).lower(): version.split("+")[0] for name, version in pairs}


def test_every_locked_distribution_has_its_row_with_the_locked_version() -> None:
    """Out of date? `make licences`."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    locked = by_name([(name, version) for name, _, version in (line.partition("==") for line in lines)])
    assert len(locked) > 100
    assert by_name([(name, version) for name, version, _ in ROWS]) == locked


def test_no_code_under_the_general_public_licence_is_installed() -> None:
    """MPL and LGPL bind their own files only; GPL and AGPL would bind whoever hands the whole out."""
    for name, _, licence in ROWS:
        assert not re.search(r"(?<!L)\bA?GPL|(?<!Lesser )General Public", licence), f"{name}: {licence}"
