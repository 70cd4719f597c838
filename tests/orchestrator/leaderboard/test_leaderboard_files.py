from __future__ import annotations

import html
import io
import json
import shlex
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pandas as pd
import pytest
import yaml
from rich.console import Console

from distill.errors import UsageError
from orchestrator.cluster.provenance import provenance_row
from orchestrator.console.run_view import run_view, trial_view
from orchestrator.leaderboard.__main__ import main
from orchestrator.leaderboard.entries import MEASURED_COLUMNS, BoardRow
from orchestrator.leaderboard.files import write_leaderboard
from orchestrator.ledger.tables import Ledger
from orchestrator.planning.plan import make_plan
from tests.orchestrator.leaderboard.synthetic import Run, write_run
from tests.orchestrator.sweep_files import tiny_sweep


def cells(line: str) -> list[str]:
    """The cells of a Markdown table's line; an escaped bar does not part two."""
    return [cell.strip() for cell in line.replace("\\|", "\0").strip("|").split("|")]


def tables(markdown: str) -> list[list[list[str]]]:
    found: list[list[list[str]]] = []
    for line in markdown.splitlines():
        if line.startswith("|"):
            found[-1].append(cells(line))
        elif not found or found[-1]:
            found.append([])
    return [table for table in found if table]


def test_pages_have_short_names_of_pairs_and_tables_have_those_of_the_run(tmp_path: Path) -> None:
    name = "segformer-mit_b4_to_deeplabv3-mobilenetv2_100"
    write_leaderboard([write_run(tmp_path, Run(pairs=(name, "big_to_small")))])
    folder = tmp_path / "leaderboard"
    assert f"gain[{name}]" in pd.read_csv(folder / "leaderboard.csv").columns
    short = "mit_b4 → mobilenetv2"
    page = (folder / "leaderboard.html").read_text()
    note = f"Names in tables and commands: B is {name}."
    shown = page[: page.index('<script type="application/json"')]
    shown = shown.replace(f'title="{name}">{short}', "").replace(note, "")
    assert short in shown
    assert name not in shown
    markdown = (folder / "LEADERBOARD.md").read_text()
    assert f"| B {short} | segformer-mit_b4 | deeplabv3-mobilenetv2_100 |" in markdown
    assert note in markdown
    assert markdown.count(name) == 1


def test_csv_json_and_parquet_hold_the_same_rows(tmp_path: Path) -> None:
    write_leaderboard([write_run(tmp_path, Run())])
    folder = tmp_path / "leaderboard"
    csv = pd.read_csv(
        folder / "leaderboard.csv",
        dtype={"marks": str},
        keep_default_na=False,
        na_values={
            column: [""] for column in pd.read_csv(folder / "leaderboard.csv").columns if column != "marks"
        },
    )
    parquet = pd.read_parquet(folder / "leaderboard.parquet")
    records = json.loads((folder / "leaderboard.json").read_text())
    assert list(csv.columns) == list(parquet.columns) == list(records[0])
    pd.testing.assert_frame_equal(csv, parquet, check_dtype=False)
    pd.testing.assert_frame_equal(pd.DataFrame(records), parquet, check_dtype=False)


def test_the_page_has_its_parts_and_every_table_is_whole(tmp_path: Path) -> None:
    run = Run(failed=frozenset({("cwd", "big_to_small", 2)}))
    page = Path(write_leaderboard([write_run(tmp_path / "my run", run)]).path).read_text()
    assert "3 methods · 2 pairs · 3 seeds · 4 trials per method and pair" in page
    assert "cannot be told apart from the best: " in page
    assert "the final run failed at step 7" in page
    assert "python -m orchestrator.leaderboard ..\n" in page
    assert "python -m orchestrator.sweep run.yaml" in page
    assert "covers 75 % where 95 % is written" in page
    assert "| road |" in page
    for table in tables(page):
        assert {len(line) for line in table} == {len(table[0])}


def test_one_seed_is_told_as_no_interval_in_every_file(tmp_path: Path) -> None:
    write_leaderboard([write_run(tmp_path, Run(seeds=(4,)))])
    page = (tmp_path / "leaderboard" / "LEADERBOARD.md").read_text()
    assert "(n/a)" in page
    assert "needs at least two seeds" in page
    csv = pd.read_csv(tmp_path / "leaderboard" / "leaderboard.csv")
    assert csv[["miou_low", "gain_low", "gain_high", "p_differs_from_student"]].isna().all(axis=None)
    assert csv["gain"].notna().all()


def test_text_from_a_trial_is_text_on_the_page(tmp_path: Path) -> None:
    ledger = write_run(tmp_path, Run(failed=frozenset({("kd", "big_to_small", 1)})))
    row = next(r for r in ledger.read("trials").to_pylist() if r["status"] == "failed")
    nasty = "a|b <script>alert(1)</script> `x` [y](http://z)"
    ledger.append("trials", [{**row, "attempt": 2, "error": nasty, "params": {}}], "nasty")
    page = Path(write_leaderboard([ledger]).path).read_text()
    assert "\\<script\\>" in page
    assert "](http" not in page
    for table in tables(page):
        assert {len(line) for line in table} == {len(table[0])}


def test_two_runs_can_make_one_page_elsewhere(tmp_path: Path) -> None:
    one = write_run(tmp_path / "one", Run(gains={"student": 0.0, "kd": 0.1}))
    two = write_run(tmp_path / "two", Run(gains={"student": 0.0, "cwd": 0.1}, name="two"))
    with pytest.raises(UsageError, match="2 runs and no output folder"):
        write_leaderboard([one, two])
    written = write_leaderboard([one, two], tmp_path / "out")
    assert {row.method for row in written.rows} == {"student", "kd", "cwd"}
    assert written.path == str(tmp_path / "out" / "LEADERBOARD.md")
    assert not one.exists("leaderboard")


def test_writing_again_gives_the_same_bytes_and_reads_no_earlier_page(tmp_path: Path) -> None:
    ledger = write_run(tmp_path, Run())
    write_leaderboard([ledger])
    first = {name: ledger.read_bytes(name) for name in ledger.list("leaderboard")}
    write_leaderboard([ledger])
    assert {name: ledger.read_bytes(name) for name in ledger.list("leaderboard")} == first


def test_each_pairs_best_student_has_a_card_that_hubs_can_read(tmp_path: Path) -> None:
    ledger = write_run(tmp_path, Run())
    trials = ledger.read("trials").to_pandas().query("phase == 'final'")
    again = [
        {
            **row,
            "attempt": 2,
            "tune_miou": {1: 0.5, 2: 0.7, 3: 0.6}[row["seed"]],
            "checkpoint": "models/x.safetensors",
        }
        for row in ledger.read("trials").to_pylist()
        if row["phase"] == "final"
    ]
    ledger.append("trials", [{**row, "params": {"weight": 2.5}} for row in again], "again")
    write_leaderboard([ledger])
    cards = {path: ledger.read_bytes(f"leaderboard/{path}").decode() for path in _cards(ledger)}
    expected = trials[(trials["method"] == "cwd") & (trials["seed"] == 2)]
    assert set(cards) == {f"cards/{trial}.md" for trial in expected["trial_id"]}
    for trial in expected.itertuples():
        card = cards[f"cards/{trial.trial_id}.md"]
        front = yaml.safe_load(card.split("---")[1])
        (result,) = front["model-index"][0]["results"]
        assert result["metrics"][0]["value"] == pytest.approx(trial.test_miou, abs=1e-4)
        assert "- `weight`: `2.5`" in card
        assert 'load_model("models/x.safetensors")' in card
        assert "python -m orchestrator.sweep run.yaml" in card
        assert "| road |" in card


def test_a_card_goes_when_another_student_takes_its_place(tmp_path: Path) -> None:
    ledger = write_run(tmp_path, Run())
    write_leaderboard([ledger])
    before = _cards(ledger)
    ledger.write_bytes("leaderboard/cards/mine.md", b"kept")
    best = [
        row for row in ledger.read("trials").to_pylist() if (row["phase"], row["method"]) == ("final", "cwd")
    ]
    failed = [{**row, "attempt": 2, "status": "failed", "params": {}} for row in best]
    ledger.append("trials", failed, "failed")
    write_leaderboard([ledger])
    after = _cards(ledger)
    assert len(before) == 2
    assert "cards/mine.md" in after
    assert not set(before) & set(after)


@pytest.mark.slow
def test_forty_methods_on_three_pairs_make_a_page_of_at_most_170_kilobytes(tmp_path: Path) -> None:
    gains = {"student": 0.0, **{f"method_{number:02d}": 0.002 * number for number in range(39)}}
    pairs = ("big_to_small", "wide_to_thin", "deep_to_flat")
    run = Run(gains=gains, pairs=pairs, seeds=(1, 2, 3, 4, 5), trials=20, images=10, classes=19)
    write_leaderboard([write_run(tmp_path, run)])
    page = (tmp_path / "leaderboard" / "leaderboard.html").read_text()
    assert len(page.encode()) <= 170_000
    data = json.loads(page.split('id="data">')[1].split("</script>")[0])
    assert data["boards"][0]["total"] == 40 * 3 * (20 + 5)
    assert len(data["boards"][0]["trials"]) > 20
    assert len(page.split("<tbody>")[1].split("</table>")[0].split("<tr")) == 40 + 1


def _cards(ledger: Ledger) -> list[str]:
    return [path.removeprefix("leaderboard/") for path in ledger.list("leaderboard/cards")]


def run_command(*arguments: str) -> int:
    """`python -m orchestrator.leaderboard` with these arguments, in this process; its exit code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["leaderboard", *arguments])
        try:
            main()
        except SystemExit as end:
            return int(end.code or 0)
        return 0


def test_the_command_prints_where_the_page_lies_and_refuses_a_folder_that_is_no_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(tmp_path / "run", Run())
    assert run_command(str(tmp_path / "run"), "--output", str(tmp_path / "page")) == 0
    assert capsys.readouterr().out == f"{tmp_path}/page/LEADERBOARD.md\n"
    assert run_command(str(tmp_path / "nowhere")) == 2
    assert "nowhere holds no tables; give the folder of a run" in capsys.readouterr().err
    assert run_command() == 2


@pytest.mark.parametrize("output", [(), ("--output", "my page")])
def test_the_command_on_the_page_makes_the_page_again_where_it_is_read(
    tmp_path: Path, output: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "a run", Run())
    assert run_command("a run", *output) == 0
    folder = tmp_path / (output[1] if output else "a run/leaderboard")
    page = (folder / "LEADERBOARD.md").read_text()
    assert str(tmp_path) not in page
    [line] = [line for line in page.splitlines() if line.startswith("python -m orchestrator.leaderboard")]
    assert line in html.unescape((folder / "leaderboard.html").read_text())
    (folder / "LEADERBOARD.md").unlink()
    monkeypatch.chdir(folder)
    assert run_command(*shlex.split(line)[3:]) == 0
    assert (folder / "LEADERBOARD.md").read_text() == page


def test_no_printed_command_deletes_results(tmp_path: Path) -> None:
    ledger = write_run(tmp_path / "run", Run())
    command = (
        "python -m orchestrator.sweep street.yaml --fresh --set name='a --fresh start' --output runs/street"
    )
    rows = ledger.read("provenance").to_pylist()
    for path in ledger.list("tables/provenance"):
        ledger.delete(path)
    ledger.append("provenance", [{**row, "command": command} for row in rows], "begun")
    finals = [row for row in ledger.read("trials").to_pylist() if row["phase"] == "final"]
    kept = [{**row, "attempt": 2, "checkpoint": "models/x.safetensors"} for row in finals]
    ledger.append("trials", kept, "kept")
    write_leaderboard([ledger])
    printed = io.StringIO()
    for view in (run_view(ledger), trial_view(ledger, finals[0]["trial_id"])):
        Console(file=printed, width=500).print(view)
    texts = [
        (tmp_path / "run/leaderboard" / name).read_text() for name in ("LEADERBOARD.md", "leaderboard.html")
    ]
    [card] = [path.read_text() for path in (tmp_path / "run/leaderboard/cards").iterdir()][:1]
    shown = "python -m orchestrator.sweep street.yaml --set 'name=a --fresh start' --output runs/street"
    for text in (*texts, card, printed.getvalue()):
        assert html.unescape(text).count(shown) >= 1
        assert "street.yaml --fresh" not in text
    assert printed.getvalue().count(shown) == 2
    arguments = ["street.yaml", "--fresh"]
    assert provenance_row(make_plan(tiny_sweep()), arguments, {}, {})["command"].endswith("sweep street.yaml")


@pytest.mark.parametrize("module", ["orchestrator.leaderboard.__main__", "orchestrator.show"])
def test_help_needs_none_of_the_slow_libraries(module: str) -> None:
    slow = "{'torch', 'ray', 'pandas', 'pyarrow', 'scipy', 'numpy', 'matplotlib'}"
    code = f"import sys, {module}; print(sorted({slow} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_leaderboard_needs_neither_torch_nor_ray(tmp_path: Path) -> None:
    write_run(tmp_path, Run())
    code = (
        "import sys; from orchestrator.ledger.tables import Ledger\nfrom orchestrator.leaderboard.files import "
        f"write_leaderboard\nwrite_leaderboard([Ledger({str(tmp_path)!r})])\nprint(sorted({{'torch', "
        "'ray'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_an_empty_ledger_makes_a_page_that_says_so(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.append("provenance", [{"provenance_id": "p"}], "p")
    written = write_leaderboard([ledger])
    assert written.rows == ()
    assert "No trial of a method is recorded yet." in Path(written.path).read_text()


def test_measured_columns_are_all_that_differs_between_a_fast_and_a_slow_machine(tmp_path: Path) -> None:
    boards = []
    for clock in (1.0, 3.0):
        ledger = write_run(
            tmp_path / str(clock),
            Run(
                gains={"student": 0.0, "kd": 0.01, "cwd": 0.08, "mgd": 0.05},
                seeds=(1, 2, 3, 4, 5),
                clock=clock,
            ),
        )
        write_leaderboard([ledger])
        boards.append(pd.read_csv(tmp_path / str(clock) / "leaderboard" / "leaderboard.csv"))
    same = [table.drop(columns=list(MEASURED_COLUMNS)) for table in boards]
    pd.testing.assert_frame_equal(*same, check_exact=True)
    relative = "train_cost_relative"
    for column in set(MEASURED_COLUMNS) - {relative}:
        assert not boards[0][column].equals(boards[1][column]), column
    assert set(MEASURED_COLUMNS) <= {field.name for field in fields(BoardRow)}
