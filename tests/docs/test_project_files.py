"""What the project says of itself: files that are named exist, and one version stands everywhere."""

from __future__ import annotations

import re
import tomllib

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


def test_ci_runs_the_oldest_and_the_newest_ray_and_every_python_that_the_project_allows() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    [bounds] = [
        re.fullmatch(r"ray\[.*\]>=2\.(\d+),<2\.(\d+)", each)
        for each in project["dependencies"]
        if "ray[" in each
    ]
    assert bounds is not None
    jobs = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))["jobs"]
    newest = int(bounds[2]) - 1
    assert jobs["ray"]["strategy"]["matrix"]["ray"] == [f"2.{bounds[1]}.*", f"2.{newest}.*"]
    assert f"\nray==2.{newest}." in (ROOT / "constraints.txt").read_text(encoding="utf-8")
    versions = [each.rpartition(" ")[2] for each in project["classifiers"] if re.search(r":: 3\.\d+$", each)]
    assert jobs["test"]["strategy"]["matrix"]["python-version"] == versions
