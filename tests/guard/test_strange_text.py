"""Text of strangers in a run's tables: in no output is it more than text."""

from __future__ import annotations

import csv
import html.parser
import io
import re
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from distill.errors import UsageError, is_plain, printable
from orchestrator import show
from orchestrator.leaderboard.files import write_leaderboard
from orchestrator.leaderboard.markdown import code_block, code_span
from orchestrator.ledger.tables import Ledger

NASTY = "=cmd|' /C calc'!A0 \x1b[31m\x9b2J\u202e</script><script>alert(1)</script><img src=x onerror=alert(1)> `x`\n```\n[y](javascript:z) | [/x] \"'"


def write_nasty_run(root: Path) -> Ledger:
    """A run whose every free text, of methods, pairs, classes, errors, commands, is the same nasty one."""
    ledger = Ledger(root)
    free = dict.fromkeys(("run_name", "dataset", "protocol", "pair", "teacher", "teacher_id", "student", "method_family", "recipe_hash", "checkpoint", "device", "study_id", "cohort_id"), NASTY)  # fmt: skip
    trials = [
        {
            **free, "protocol": "clean", "trial_id": f"t{number}", "attempt": 1, "phase": "final", "status": status,
            "method": method, "seed": seed, "params": {NASTY: NASTY, "w": 1.0}, "tune_miou": 0.5, "test_miou": 0.4,
            "student_seconds": 1.0, "teacher_seconds": 1.0, "gpu_seconds": 1.0, "peak_memory_bytes": 1, "steps_done": 1,
            "error": NASTY if status == "failed" else None, "error_step": 1, "provenance_id": "p",
        }
        for number, (method, seed, status) in enumerate(
            (m, s, "failed" if (m, s) == (NASTY, 3) else "ok") for m in ("student", NASTY) for s in (1, 2, 3)
        )
    ]  # fmt: skip
    ledger.append("trials", trials, "all")
    counts = [
        {
            "trial_id": f"t{n}",
            "split": "test",
            "image": 0,
            "class": k,
            "tp": 3 + n,
            "fp": 1,
            "fn": 1,
            "class_name": NASTY,
        }
        for n in range(6)
        for k in (0, 1)
    ]
    ledger.append("counts", counts, "all")
    curve = {
        "trial_id": "t3",
        "step": 1,
        "tune_miou": 0.1,
        "terms_raw": {NASTY: 1.0},
        "terms_weighted": {NASTY: 1.0},
    }
    ledger.append("curves", [curve], "all")
    model = {
        "name": NASTY,
        "options": {NASTY: NASTY},
        "num_classes": 2,
        "params": 9,
        "height": 1,
        "width": 1,
        "device": NASTY,
    }
    ledger.append("models", [model], "all")
    row = {"provenance_id": "p", "commit": NASTY, "command": NASTY, "config_yaml": NASTY, "versions": {"torch": NASTY},
           "hardware": {"machine": NASTY, NASTY: NASTY}}  # fmt: skip
    ledger.append("provenance", [row], "all")
    ledger.write_bytes("logs/t3.txt", NASTY.encode())
    return ledger


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("nasty")
    write_leaderboard([write_nasty_run(root)])
    return root


class Elements(html.parser.HTMLParser):
    """The tags and attributes that a browser would see."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, Any]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_the_page_has_no_element_that_its_template_has_not(run: Path) -> None:
    page = Elements()
    page.feed((run / "leaderboard" / "leaderboard.html").read_text())
    assert sum(tag == "script" for tag, _ in page.found) == 2
    assert not [tag for tag, _ in page.found if tag == "img"]
    assert not [name for _, attributes in page.found for name in attributes if name.startswith("on")]
    links = [attributes["href"] for tag, attributes in page.found if tag == "a"]
    assert links
    assert all(re.fullmatch(r"leaderboard\.\w+|LEADERBOARD\.md|cards/t\d\.md", link) for link in links)


def markdown_outside_code(text: str) -> str:
    text = re.sub(r"(?ms)^```\w+\n.*?^```$", "", text)
    return re.sub(r"(?<!\\)`[^`\n]*`", "", text)


def test_markdown_holds_no_markup_of_strangers(run: Path) -> None:
    pages = [run / "leaderboard" / "LEADERBOARD.md", *(run / "leaderboard" / "cards").iterdir()]
    assert len(pages) > 1
    for page in pages:
        text = page.read_text()
        assert all(map(is_plain, text))
        body = text.split("\n---\n", 1)[1] if text.startswith("---") else text
        outside = markdown_outside_code(body)
        assert not re.search(r"(?<!\\)<(?=[a-zA-Z/!])", outside)
        assert "](" not in outside
        for line in outside.splitlines():
            assert not line.startswith("|") or re.search(r"(?<!\\)\|$", line), line
        if text.startswith("---"):
            assert isinstance(yaml.safe_load(text.split("\n---\n")[0].removeprefix("---\n")), dict)


def test_code_in_markdown_ends_where_it_should() -> None:
    assert code_span("a`b\nc") == "`a'b c`"
    assert code_block("x\n```\n# out", "sh") == ["```sh", "x\n'''\n# out", "```"]


def test_a_spreadsheet_computes_no_cell(run: Path) -> None:
    text = (run / "leaderboard" / "leaderboard.csv").read_text()
    for row in csv.reader(io.StringIO(text)):
        for cell in row:
            assert not cell.startswith(("=", "+", "@", "\t", "\r")), cell
            assert not cell.startswith("-") or float(cell) < 0
    assert all(map(is_plain, text))
    assert pd.read_csv(run / "leaderboard" / "leaderboard.csv")["method"].str.startswith("'=cmd").any()


@pytest.mark.parametrize("arguments", [[], ["t3"], ["t5"]])
def test_a_terminal_is_steered_by_nothing_that_is_shown(
    arguments: list[str], run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["show", str(run), *arguments])
    show.main()
    shown = capsys.readouterr().out
    assert all(map(is_plain, shown))
    assert "\\x1b[31m" in re.sub(r"[\s│]", "", shown)


def test_an_error_quotes_strangers_without_obeying_them() -> None:
    assert str(UsageError("name is '\x1b[2J\u202ex\r\n'")) == "name is '\\x1b[2J\\u202ex\\r\n'"
    assert printable("plain, é, 日本\n\t") == "plain, é, 日本\n\t"
