"""Storage that is slow, stumbles, is full or may not be written."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyarrow.fs import FileInfo, FileType

from distill.errors import UsageError
from distill.retry import TRIES
from orchestrator.console.exit_codes import USAGE
from orchestrator.ledger.tables import Ledger
from orchestrator.sweep import SweepOptions, command
from tests.faults.stumbling_store import StumblingStore
from tests.orchestrator.sweeps import SMALL, Sweep, assert_equal_runs, run

SHORT = ("--set", "methods=[student]", "--set", "search.trials=0", "--set", "final.seeds=[1]")


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The short sweep on a disk without faults."""
    output = tmp_path_factory.mktemp("local") / "run"
    sweep = run(SMALL, output, *SHORT)
    assert sweep.process.returncode == 0, sweep.text()
    return output


def at(address: str) -> str:
    """A run's folder in the bucket, by way of this address."""
    return f"s3://runs/sweep?scheme=http&endpoint_override={address}&region=us-east-1"


def row(number: int) -> list[dict[str, object]]:
    return [{"trial_id": f"t{number}", "step": step, "loss_total": float(number)} for step in range(3)]


@pytest.mark.slow
def test_a_ledger_on_a_store_that_stumbles_holds_what_was_written_and_a_reader_sees_whole_rows(
    s3_server: str,
) -> None:
    """A third of all requests go wrong: slow, refused, reset, cut in the middle of an upload, or done and unanswered."""
    sound = Ledger(at(s3_server))
    with StumblingStore(s3_server, share=0.34, seed=5) as store:
        for number in range(12):
            Ledger(at(store.address)).append("curves", row(number), f"t{number}")
            seen = sound.read("curves").to_pylist()
            assert len(seen) == 3 * (number + 1)
        stumbling = Ledger(at(store.address))
        assert stumbling.read("curves").equals(sound.read("curves"))
        stumbling.write_bytes("plan.json", b"x" * 100_000)
        assert sound.read_bytes("plan.json") == b"x" * 100_000
        stumbling.delete("plan.json")
        assert not sound.exists("plan.json")
        assert set(store.faults) == {"slow", "error", "reset", "cut", "unanswered"}


def test_a_store_that_is_never_reached_or_refuses_is_told_in_a_sentence(s3_server: str) -> None:
    with pytest.raises(UsageError, match=r"nobucket/run.* (is refused by its store|cannot be)"):
        Ledger(at(s3_server).replace("runs/sweep", "nobucket/run")).write_bytes("a", b"a")


def test_a_store_that_never_answered_is_waited_for_once_and_one_that_has_answered_every_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Client:
        """Of an object store, without the waits of a real one."""

        away, asked = True, 0

        def get_file_info(self, path: str) -> FileInfo:
            self.asked += 1
            if self.away:
                raise OSError("AWS Error NETWORK_CONNECTION")
            return FileInfo(path, FileType.NotFound)

        def tries_of(self, ledger: Ledger) -> int:
            self.asked = 0
            with pytest.raises(UsageError, match="was not reached"):
                ledger.exists("a")
            return self.asked

    monkeypatch.setattr("distill.retry.FIRST_WAIT", 0.0)
    client, ledger = Client(), Ledger("s3://runs/sweep")
    ledger.__dict__["_opened"] = (client, "runs/sweep")
    assert [client.tries_of(ledger) for _ in range(3)] == [TRIES, 1, 1]
    client.away = False
    assert not ledger.exists("a")
    client.away = True
    assert [client.tries_of(ledger) for _ in range(2)] == [TRIES, TRIES]


@pytest.mark.ray
@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_sweep_on_a_store_that_stumbles_ends_as_one_on_a_disk(
    s3_server: str, tmp_path: Path, local: Path
) -> None:
    with StumblingStore(s3_server, share=0.05, seed=6) as store:
        sweep = Sweep(SMALL, at(store.address), *SHORT, log=tmp_path / "sweep.log")
        assert sweep.finish(timeout=600) == 0, sweep.text()
        assert sum(store.faults.values()) > 0
        print(f"{dict(store.faults)} of {store.requests} requests")
    assert_equal_runs(at(s3_server), local)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own of 1 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.ray
@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_full_disk_ends_the_sweep_with_a_sentence_and_with_room_it_goes_on(
    small_disk: Path, tmp_path: Path, local: Path
) -> None:
    output = small_disk / "run"
    (small_disk / "ballast").write_bytes(b"x" * 600_000)
    full = Sweep(SMALL, output, *SHORT, log=tmp_path / "full.log")
    assert full.finish() == 2, full.text()
    assert "its disk is full" in full.text()
    assert "make room" in full.text()
    assert "Traceback" not in full.text()
    subprocess.run(["mount", "-o", "remount,size=40m", str(small_disk)], check=True)
    again = Sweep(SMALL, output, *SHORT, log=tmp_path / "again.log")
    assert again.finish() == 0, again.text()
    assert_equal_runs(output, local)


def test_a_folder_that_may_not_be_written_is_refused_before_anything_starts(
    small_disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    assert command(SweepOptions(source=str(SMALL), output=str(small_disk / "run"))) == USAGE
    message = capsys.readouterr().err
    assert "cannot be read or written" in message
    assert "Traceback" not in message


def test_a_file_where_the_folder_should_be_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("mine")
    assert command(SweepOptions(source=str(SMALL), output=str(tmp_path / "file" / "run"))) == USAGE
    assert "choose another --output" in capsys.readouterr().err
    assert (tmp_path / "file").read_text() == "mine"
