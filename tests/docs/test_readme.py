"""What the README and the page on methods of one's own show works as it stands."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests import ROOT
from tests.distill.data.trees import write_folder_tree

README = (ROOT / "README.md").read_text()
OWN_METHOD = (ROOT / "docs" / "own_method.md").read_text()


def snippet(page: str, language: str, holds: str) -> str:
    """The one block of this language that holds this text."""
    (found,) = [s for s in re.findall(rf"^```{language}\n(.*?)^```$", page, re.M | re.S) if holds in s]
    return found


def call(folder: Path, *arguments: str, path: str = "") -> str:
    """What a command prints, run in a folder with this program's packages and those of `path`."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [path, str(ROOT)]))}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_sweep_file_for_pictures_of_ones_own_is_checked_and_planned(tmp_path: Path) -> None:
    text = snippet(README, "yaml", "# mine.yaml")
    assert len(text.splitlines()) <= 20
    (tmp_path / "mine.yaml").write_text(text)
    write_folder_tree(tmp_path / "pictures")
    assert "11 of 40×56" in call(tmp_path, "-m", "distill.data", "check", "mine.yaml")
    here = ("--set", "compute={workers: 1}")  # the machine of this test has neither four GPUs nor 16 cores
    plan = call(tmp_path, "-m", "orchestrator.sweep", "mine.yaml", "--dry-run", *here)
    assert "4 studies × 16 trials" in plan


@pytest.mark.slow
def test_a_method_of_ones_own_conforms_and_is_planned_beside_the_others(tmp_path: Path) -> None:
    method = snippet(OWN_METHOD, "python", "# my_method.py")
    assert len([line for line in method.splitlines() if line]) <= 30
    (tmp_path / "my_method.py").write_text(method)
    (tmp_path / "test_my_method.py").write_text(snippet(OWN_METHOD, "python", "class TestCosine"))
    named = re.fullmatch(
        r'\[project\.entry-points\."([\w.]+)"\]\n(.*)\n', snippet(OWN_METHOD, "toml", "entry-points")
    )
    assert named is not None
    installed = tmp_path / "mine-1.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    (installed / "entry_points.txt").write_text(f"[{named[1]}]\n{named[2].replace(chr(34), '')}\n")
    call(
        tmp_path,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-k",
        "transformer-teaches-cnn",
        "test_my_method.py",
        path=str(tmp_path),
    )
    methods = re.search(r"`methods: (\[[^\]]*cosine[^\]]*\])`", OWN_METHOD)
    assert methods is not None
    assert "kd + cosine" in yaml.safe_load(methods[1])
    plan = call(
        tmp_path, "-m", "orchestrator.sweep", "smoke", "--dry-run", "--set", f"methods={methods[1]}", path=str(tmp_path)
    )  # fmt: skip
    assert "cosine, kd+cosine" in plan
