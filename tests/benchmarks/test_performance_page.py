"""The page about speed says what was measured."""

import runpy
from pathlib import Path

import pytest

from tests import ROOT


def test_the_page_is_the_one_the_results_give(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Out of date? `python benchmarks/performance.py`."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    runpy.run_path(str(ROOT / "benchmarks" / "performance.py"))["write"](tmp_path / "page.md")
    assert (tmp_path / "page.md").read_text(encoding="utf-8") == (ROOT / "docs" / "performance.md").read_text(
        encoding="utf-8"
    )
