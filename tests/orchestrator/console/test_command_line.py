"""Every command has one front: one name, readers that leave, encodings that lack characters, signals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from orchestrator.__main__ import main
from tests.orchestrator.sweeps import descendants

COMMANDS = {
    "sweep": ["orchestrator.sweep", "--help"],
    "dry run": ["orchestrator.sweep", "smoke", "--dry-run", "--json"],
    "show": ["orchestrator.show", "--help"],
    "gallery": ["orchestrator.gallery", "--help"],
    "leaderboard": ["orchestrator.leaderboard", "--help"],
    "data": ["distill.data", "--help"],
    "export": ["distill.export", "--help"],
    "predict": ["distill.predict", "--help"],
}


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_a_reader_that_takes_one_line_ends_a_command_quietly(command: list[str]) -> None:
    """`python -m ... | head -1`: the pipe is closed before the rest is written."""
    shell = f'"{sys.executable}" -m {" ".join(command)} | head -1; exit ${{PIPESTATUS[0]}}'
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert done.returncode == 0


@pytest.mark.parametrize(
    "encoding",
    [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}],
)
@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_an_encoding_without_some_characters_ends_no_command(
    command: list[str], encoding: dict[str, str]
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *command], env=os.environ | encoding, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.isascii()
    assert done.stderr == b""


@pytest.mark.parametrize(
    ("arguments", "usage", "option"),
    [
        (["--help"], "heteroakd", "--dry-run"), (["smoke", "--help"], "heteroakd", "--dry-run"),
        (["show", "--help"], "heteroakd show", "--optuna"), (["leaderboard", "--help"], "heteroakd leaderboard", "RUN [RUN ...]"),
        (["gallery", "--help"], "heteroakd gallery", "gallery of a run"), (["export", "--help"], "heteroakd export", "--pair"),
        (["predict", "--help"], "heteroakd predict", "PICTURE"), (["check", "--help"], "python -m distill.data check", "--full"),
    ],
)  # fmt: skip
def test_every_command_is_under_one_name(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    usage: str,
    option: str,
) -> None:
    monkeypatch.setattr(sys, "argv", ["bin/heteroakd", *arguments])
    for stream in ("stdout", "stderr"):
        monkeypatch.setattr(sys, stream, getattr(sys, stream))  # a command wraps them
    with pytest.raises(SystemExit) as end:
        main()
    assert not end.value.code
    printed = capsys.readouterr().out
    assert f"usage: {usage} [-h]" in printed
    assert option in printed


WAITS = """
import signal, sys, time
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # which `nohup` ignores
from orchestrator import sweep
def wait(options):
    print("begun", flush=True)
    time.sleep(60)
sweep.sweep = wait
sys.argv = ["sweep", "smoke"]
sweep.main()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_before_anything_is_trained_ends_the_command_as_an_interruption(number: int) -> None:
    """Such a command is requeued; one that is plainly killed is not."""
    with subprocess.Popen(
        [sys.executable, "-c", WAITS], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as command:
        assert command.stdout is not None
        assert command.stderr is not None
        assert command.stdout.readline() == "begun\n"
        command.send_signal(number)
        assert command.stderr.read() == "interrupted; the same command goes on from here\n"
    assert command.returncode == 130


@pytest.mark.ray
@pytest.mark.timeout(200)
def test_a_sigterm_while_ray_starts_is_an_interruption_and_leaves_no_process(tmp_path: Path) -> None:
    """Ray would replace the handler by one that exits with 15, which no queue takes for an interruption."""
    command = subprocess.Popen(
        [sys.executable, "-m", "orchestrator.sweep", "smoke", "--output", str(tmp_path / "run")],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    while not (started := [pid for pid in descendants(command.pid) if b"gcs_server" in cmdline(pid)]):
        assert command.poll() is None
        time.sleep(0.05)
    command.send_signal(signal.SIGTERM)
    text, _ = command.communicate()
    assert command.returncode == 130, text
    assert text.endswith("interrupted; the same command goes on from here\n")
    while any(b"gcs_server" in cmdline(pid) for pid in started):
        time.sleep(0.05)
    assert not (tmp_path / "run" / "lock.json").exists()


def cmdline(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except FileNotFoundError:
        return b""
