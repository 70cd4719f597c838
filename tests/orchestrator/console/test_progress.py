"""Who watches a sweep may leave; that nobody watches any more may not go unseen."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.orchestrator.sweeps import SMALL, Sweep, counted

SAYS = """
import sys
from rich.console import Console
from distill.command_line import protect_streams
from orchestrator.console.progress import ProgressView
protect_streams()
with ProgressView(Console()) as view:
    view.say("first")
    sys.stdin.readline()
    for _ in range(2):
        view.say("to nobody")
print("the end", file=sys.stderr)
"""


def test_a_reader_that_has_left_ends_nothing() -> None:
    """`python -m orchestrator.sweep | head -1`"""
    with subprocess.Popen(
        [sys.executable, "-c", SAYS],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as command:
        assert command.stdin is not None
        assert command.stdout is not None
        assert command.stderr is not None
        assert command.stdout.readline() == "first\n"
        command.stdout.close()
        command.stdin.write("\n")
        command.stdin.close()
        assert command.stderr.read() == "the end\n"
    assert command.returncode == 0


BREAKS = """
import itertools, sys
from orchestrator.cluster.session import LOCAL, prepare_environment
prepare_environment(LOCAL)  # before Ray is imported, as the command does it
from orchestrator import sweep
from orchestrator.console import progress
looks, watch = itertools.count(), progress.ProgressView.watch
def break_down(self, view):
    if view.name == "students" and next(looks) == 3:
        raise RuntimeError("a bug in the view")
    watch(self, view)
progress.ProgressView.watch = break_down
sys.exit(sweep.command(sweep.SweepOptions(source=sys.argv[1], output=sys.argv[2])))
"""


@pytest.mark.ray
@pytest.mark.long
@pytest.mark.timeout(400)
def test_where_watching_fails_the_sweep_leaves_off_and_the_same_command_goes_on(tmp_path: Path) -> None:
    """Nobody would pass on a Ctrl-C, or see that the budget is spent."""
    command = [sys.executable, "-c", BREAKS, str(SMALL), str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 1
    assert "a bug in the view" in done.stderr
    assert counted(tmp_path / "run", phase="teacher") > 0
    sweep = Sweep(SMALL, tmp_path / "run")
    assert sweep.finish() == 0, sweep.text()
