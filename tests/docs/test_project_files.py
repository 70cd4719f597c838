"""What the project says of itself: files that are named exist, and one version stands everywhere."""

from __future__ import annotations

import re

import pytest
import yaml

from orchestrator import __version__
from tests import ROOT

NAMED = re.compile(
    r"`((?:orchestrator|distill|search_spaces|tests|deploy|docs|benchmarks)/[\w./-]*|[\w-]+\.(?:md|toml|txt))`"
)


@pytest.mark.parametrize(
    "page", ["CONTRIBUTING.md", "docs/architecture.md", "docs/glossary.md", "SECURITY.md"]
)
def test_every_file_that_a_page_names_exists(page: str) -> None:
    found = {name for name in NAMED.findall((ROOT / page).read_text(encoding="utf-8")) if "NAME" not in name}
    assert not [name for name in sorted(found) if not (ROOT / name).exists()]
    assert found or page in ("docs/glossary.md", "SECURITY.md")


def test_the_version_is_the_same_in_citation_and_changelog() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == __version__
    assert f"\n## {__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
