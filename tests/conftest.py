"""What all tests share: the environment, set before anything is imported."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from filelock import FileLock

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"  # threads decide the order of sums, and with it the last bits


def pytest_collection_modifyitems(items: list) -> None:
    """Files that start Ray come first: they take longest, and two workers share them best at the start."""
    slow = {item.path for item in items if item.get_closest_marker("ray")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of `small.yaml` that nobody disturbed; one for all processes of the test run. Not to be written into."""
    from sweeps import SMALL, run

    parallel = "PYTEST_XDIST_WORKER" in os.environ
    base = tmp_path_factory.getbasetemp().parent if parallel else tmp_path_factory.getbasetemp()
    output = base / "undisturbed" / "run"
    output.parent.mkdir(exist_ok=True)
    with FileLock(output.with_suffix(".lock")):
        if not (output / "leaderboard").exists():
            sweep = run(SMALL, output)
            assert sweep.process.returncode == 0, sweep.text()
    return output
