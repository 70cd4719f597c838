"""A long TMPDIR, as Slurm gives, does not end a sweep: Ray gets a folder with a short path."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from distill.errors import UsageError
from orchestrator.cluster import session_folder
from orchestrator.cluster.session_folder import short_session_folder


@pytest.fixture
def long_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    folder = tmp_path / ("scratch-of-a-job-" * 6)
    folder.mkdir()
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv("TMPDIR", str(folder))
    return str(folder)


@pytest.mark.parametrize("name", ["TMPDIR", "RAY_TMPDIR"])
def test_a_long_folder_is_replaced_by_a_short_one_that_is_deleted(
    long_folder: str, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, long_folder)
    before = dict(os.environ)
    with short_session_folder():
        made = os.environ["RAY_TMPDIR"]
        assert len(made) < 30
        assert Path(made).stat().st_mode & 0o077 == 0
    assert not Path(made).exists()
    assert dict(os.environ) == before


def test_a_short_folder_is_used_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", "/tmp")
    before = dict(os.environ)
    with short_session_folder():
        assert dict(os.environ) == before


def test_without_a_short_folder_the_remedy_is_said(long_folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_folder, "_SHORT_FOLDERS", ("/proc/nothing",))
    with (
        pytest.raises(UsageError, match="paths of more than 107 bytes; set RAY_TMPDIR"),
        short_session_folder(),
    ):
        pass


@pytest.mark.ray
@pytest.mark.timeout(300)
def test_ray_starts_under_a_long_folder(long_folder: str) -> None:
    program = (
        "from orchestrator.cluster.session import ray_session\n"
        "from orchestrator.planning.config import OperationConfig\n"
        "with ray_session('local', OperationConfig(object_store_mb=80), verbose=False) as found:\n"
        "    assert found.cpus > 0"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert list(Path(long_folder).glob("ray*")) == []
