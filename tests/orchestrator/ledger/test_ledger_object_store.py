from __future__ import annotations

import threading

import pytest

from orchestrator.leaderboard.files import write_leaderboard
from orchestrator.ledger.tables import Ledger

ROWS = 3


@pytest.fixture
def object_store(s3_server: str) -> str:
    """The root URI of a run in a bucket."""
    return f"s3://runs/a/b?scheme=http&endpoint_override={s3_server}&region=us-east-1"


def _write(root: str, file: int) -> None:
    rows = [{"trial_id": f"t{file}", "step": step, "loss_total": float(file)} for step in range(ROWS)]
    Ledger(root).append("curves", rows, f"t{file}")


def test_an_object_store_holds_tables_and_small_files_like_a_disk(object_store: str) -> None:
    ledger = Ledger(object_store)
    assert ledger.read("curves").num_rows == 0
    for file in (0, 1, 2, 1):
        _write(object_store, file)
    ledger.write_bytes("plan.json", b"{}")
    ledger.write_bytes("plan.json", b"[]")
    assert ledger.read_bytes("plan.json") == b"[]"
    before = ledger.read("curves")
    assert before.num_rows == 3 * ROWS
    ledger.compact("curves")
    assert Ledger(object_store).read("curves").equals(before)
    assert len(ledger.list("tables/curves")) == 1
    assert not ledger.exists("elsewhere")
    ledger.delete("plan.json")
    ledger.delete("tables")
    assert ledger.list() == []


@pytest.mark.slow
def test_readers_of_an_object_store_see_every_finished_row_once_beside_a_compactor(object_store: str) -> None:
    done = threading.Event()

    def compact() -> None:
        while not done.is_set():
            Ledger(object_store).compact("curves")

    compactor = threading.Thread(target=compact)
    compactor.start()
    try:
        for file in range(8):
            _write(object_store, file)
            assert Ledger(object_store).read("curves").num_rows == (file + 1) * ROWS
    finally:
        done.set()
        compactor.join()


def test_an_object_is_published_by_one_put(object_store: str) -> None:
    import boto3

    endpoint = "http://" + object_store.split("endpoint_override=")[1].split("&")[0]
    _write(object_store, 1)
    head = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1").head_object(
        Bucket="runs", Key="a/b/tables/curves/t1.parquet"
    )
    assert "-" not in head["ETag"], "the ETag of a multipart upload ends in its number of parts"


def test_a_leaderboard_is_made_from_and_written_to_an_object_store(object_store: str) -> None:
    common = {
        "attempt": 1,
        "phase": "final",
        "status": "ok",
        "dataset": "d",
        "protocol": "clean",
        "pair": "a_to_b",
    }
    rows = [
        {
            **common,
            "trial_id": f"{method}{seed}",
            "method": method,
            "seed": seed,
            "test_miou": score + seed / 100,
        }
        for method, score in (("student", 0.5), ("kd", 0.6))
        for seed in (1, 2)
    ]
    ledger = Ledger(object_store)
    ledger.append("trials", rows, "all")
    written = write_leaderboard([ledger])
    assert written.path == "s3://runs/a/b/leaderboard/LEADERBOARD.md"
    assert ledger.list("leaderboard") == [
        f"leaderboard/{name}"
        for name in (
            "LEADERBOARD.md",
            "cards/kd2.md",
            "leaderboard.csv",
            "leaderboard.html",
            "leaderboard.json",
            "leaderboard.parquet",
            "students.json",
        )
    ]
    page = ledger.read_bytes("leaderboard/LEADERBOARD.md").decode()
    assert "python -m orchestrator.leaderboard s3://runs/a/b\n" in page
    assert "+10.0 [+10.0, +10.0]" in page
