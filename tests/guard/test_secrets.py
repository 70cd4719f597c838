"""Secrets of the environment and in addresses reach nothing that a run keeps."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from distill.redaction import redacted
from orchestrator.cluster.provenance import provenance_row
from orchestrator.ledger.tables import Ledger
from orchestrator.planning.loader import load_sweep
from orchestrator.planning.plan import make_plan
from tests.orchestrator.sweeps import Sweep

SECRETS = {
    "AWS_SECRET_ACCESS_KEY": "planted-aws-secret-5ZJq",
    "WANDB_API_KEY": "planted-wandb-key-9Xc2",
    "DATABASE_PASSWORD": "planted-password-Lw81",
    "UNUSUALLY_NAMED": "planted-plain-variable-77",
}
IN_ADDRESSES = ("AKIAPLANTEDUSER", "planted/uri+secret", "planted-option-token")
ADDRESS = "s3://AKIAPLANTEDUSER:planted/uri+secret@bucket/run?access_token=planted-option-token&region=x"


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        (ADDRESS, "s3://***@bucket/run?access_token=***&region=x"),
        ("s3:/AKIAPLANTEDUSER:planted/uri+secret@bucket/run", "s3:/***@bucket/run"),
        ("--output 's3://u:p@b/x' --set a=b", "--output 's3://***@b/x' --set a=b"),
        ("s3://bucket/run?region=x", "s3://bucket/run?region=x"),
        ("mail me@there.org or see https://x.org/a", "mail me@there.org or see https://x.org/a"),
        ("refused: planted-wandb-key-9Xc2", "refused: ***"),
    ],
)
def test_credentials_leave_a_text_and_nothing_else_does(text: str, kept: str) -> None:
    assert redacted(text, SECRETS) == kept


def test_where_results_come_from_is_told_without_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    plan = make_plan(load_sweep("smoke", [f"operation.teachers={ADDRESS}"]))
    row = provenance_row(
        plan, ["smoke", "--output", ADDRESS, "--set", f"operation.teachers={ADDRESS}"], {}, {}
    )
    told = repr(row)
    assert "--output" in row["command"]
    for secret in (*SECRETS.values(), *IN_ADDRESSES):
        assert secret not in told
    values = {
        value for value in os.environ.values() if len(value) > 8
    }  # shorter ones may be a number of cores
    assert not [value for value in values if value in told]


def test_an_address_is_shown_without_its_credentials() -> None:
    ledger = Ledger("s3://u:planted-secret@bucket/run?secret_key=planted-option")
    assert "planted" not in ledger.place("tables")
    assert "planted" not in repr(ledger)


@pytest.mark.ray
@pytest.mark.long
@pytest.mark.timeout(600)
def test_after_a_sweep_with_failed_trials_no_file_of_the_run_holds_a_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    cache = f"operation.cache={{folder: '{ADDRESS}', gigabytes: 1}}"
    changes = ["methods=[student]", "search.trials=0", "final.seeds=[1]", "recipes.student.lr=1.0e+30", cache]
    sweep = Sweep("smoke", tmp_path / "run", *(word for change in changes for word in ("--set", change)))
    assert sweep.finish() == 3, sweep.text()
    files = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert any(path.parent.name == "logs" for path in files), "a failed trial leaves a log"
    assert b"***@bucket" in b"".join(files.values()), "the address itself was written somewhere"
    # Parquet may compress text, so the tables are read as well.
    tables = {
        name: Ledger(tmp_path / "run").read(name).to_pylist() for name in ("trials", "curves", "provenance")
    }
    assert any(row["error"] for row in tables["trials"])
    for secret in (*SECRETS.values(), *IN_ADDRESSES):
        assert not [path for path, data in files.items() if secret.encode() in data]
        assert secret not in repr(tables)
