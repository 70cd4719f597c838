"""Runs from Python: read one as data frames, or start a sweep.

>>> from orchestrator import load_run, run_sweep
>>> run = load_run("runs/laptop")
>>> run.leaderboard[["method", "miou", "gain", "gain_low", "gain_high"]]
>>> run.gain("heteroakd", "cnn_to_transformer")
>>> run.best("cnn_to_transformer").load().labels(picture)

Reading needs neither Ray nor torch; loading a student's weights needs torch.
"""

from __future__ import annotations

import html
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import yaml

from distill.errors import UsageError, unknown
from distill.setting_paths import paths_in
from distill.uris import is_uri
from orchestrator.console.exit_codes import BUDGET, DONE, INTERRUPTED, SOME_FAILED, USAGE
from orchestrator.leaderboard.board import build_boards
from orchestrator.leaderboard.entries import Board, Cell
from orchestrator.leaderboard.files import PAGE, table_rows, write_leaderboard
from orchestrator.leaderboard.number_formats import interval, signed
from orchestrator.leaderboard.run_records import RunRecords, read_run_records
from orchestrator.leaderboard.selected_students import select_students
from orchestrator.ledger.queries import latest_attempts, parameters_of
from orchestrator.ledger.tables import Ledger, open_run
from orchestrator.planning.config import SweepConfig
from orchestrator.planning.loader import load_sweep

if TYPE_CHECKING:
    from distill.segmenter import Segmenter

_GOOD = (DONE, SOME_FAILED, BUDGET)


@dataclass(frozen=True)
class Gain:
    """The gain of a method over the student alone, paired by seed, in mIoU from 0 to 1.

    Attributes:
        mean: mean difference.
        low: lower end of the 95 % interval; None with one seed.
        high: upper end of it.
        p: two-sided p value, adjusted over the comparisons of the pair or, over all pairs, of the board; None with one seed.
        surely: `better` or `worse` if the difference is more than noise, or else an empty text.
    """

    mean: float
    low: float | None
    high: float | None
    p: float | None
    surely: str

    def __str__(self) -> str:
        ends = interval(self.low, self.high, sign=True) if self.low is not None else ""
        return f"{signed(self.mean)} points{ends}"


@dataclass(frozen=True)
class BestStudent:
    """The student that `distill.export` would take: the final run of the method with the best tune mIoU.

    Attributes:
        miou: the method's mean test mIoU on the pair.
        checkpoint: path or address of the weights, or None if the run did not keep them.
    """

    pair: str
    method: str
    trial_id: str
    miou: float
    checkpoint: str | None

    def load(self, device: str = "cpu") -> Segmenter:
        """The student with its weights, ready to label pictures.

        Raises:
            UsageError: the run did not keep the weights, or they are not on this machine.
        """
        if self.checkpoint is None:
            raise UsageError(f"trial {self.trial_id} kept no weights; only final runs do")
        if is_uri(self.checkpoint):
            raise UsageError(
                f"{self.checkpoint} is not on this machine; copy it, or use python -m distill.export"
            )
        from distill.segmenter import load_segmenter

        return load_segmenter(self.checkpoint, device)


@dataclass(frozen=True)
class Page:
    """The leaderboard's page; a notebook shows it."""

    text: str

    def _repr_html_(self) -> str:
        return f'<iframe srcdoc="{html.escape(self.text)}" style="width:100%;height:640px;border:0"></iframe>'


class Run:
    """A run, finished or not, as it was when the object was made: call `load_run` again for newer rows."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def __repr__(self) -> str:
        return f"Run({self._ledger.place()!r})"

    @property
    def folder(self) -> str:
        """Path or address of the run's folder."""
        return self._ledger.place()

    @cached_property
    def trials(self) -> pd.DataFrame:
        """The latest attempt of each trial, with the columns of docs/tables.md, and the parameters as dictionaries."""
        table = self._ledger.read("trials")
        rows = latest_attempts(table.to_pylist())
        for row in rows:
            row["params"] = parameters_of(row["params"])
            row["searched"] = None if row["searched"] is None else parameters_of(row["searched"])
        return pd.DataFrame(rows, columns=table.column_names)

    @cached_property
    def curves(self) -> pd.DataFrame:
        """One row per report of each trial, with its pair, method and seed beside it."""
        curves: pd.DataFrame = self._ledger.read("curves").to_pandas()
        facts = self.trials[["trial_id", "pair", "method", "seed"]]
        merged = curves.merge(facts, on="trial_id", how="left")
        return merged.sort_values(["trial_id", "step"], ignore_index=True)

    @cached_property
    def leaderboard(self) -> pd.DataFrame:
        """The rows of the leaderboard: one per method and board, in the board's order. mIoU is from 0 to 1."""
        return pd.DataFrame(table_rows(self._boards))

    @property
    def failures(self) -> pd.DataFrame:
        """The trials that failed, with their errors."""
        return self.trials[self.trials["status"] == "failed"]

    def gain(self, method: str, pair: str | None = None, compare: str | None = None) -> Gain:
        """The gain of a method over the student alone: on one pair, or by default the mean over the board's pairs.

        Args:
            method: name of the method.
            pair: name of the pair.
            compare: `steps` or `seconds`, where the run has a board of each; by default the first one.

        Raises:
            UsageError: there is no such method or pair, or no final run of it yet.
        """
        board, cell = self._find(method, pair, compare)
        if cell is not None:
            if cell.gain is None:
                raise UsageError(
                    f"{method} has no gain on {pair} yet: it needs final runs, and those of the student alone"
                )
            return Gain(cell.gain.mean, cell.gain.low, cell.gain.high, cell.p, cell.surely)
        row = next(row for row in board.rows if row.method == method)
        if row.gain is None:
            raise UsageError(
                f"{method} has no gain yet: it needs final runs on every pair, and those of the student alone"
            )
        return Gain(row.gain, row.gain_low, row.gain_high, row.p_differs_from_student, row.surely or "")

    def best(
        self, pair: str | None = None, method: str | None = None, compare: str | None = None
    ) -> BestStudent:
        """The best student of a pair, or the best one of a method on it.

        Args:
            pair: name of the pair; needed if there are several.
            method: name of the method; by default that with the highest mean test mIoU on the pair.
            compare: see `gain`.

        Raises:
            UsageError: there is no such pair or method, or no final run of it yet.
        """
        pairs = list(dict.fromkeys(p.pair for board in self._boards for p in board.pairs))
        if pair is None and len(pairs) > 1:
            raise UsageError(f"the run has {len(pairs)} pairs, give one of them: {', '.join(pairs)}")
        if pair is not None and pair not in pairs:
            raise unknown("pair", pair, pairs)
        found = [
            student
            for board in self._equal(compare)
            for student in select_students(board, self._records)
            if pair in (None, student.pair.pair)
            and (student.best if method is None else student.cell.method == method)
        ]
        if not found:
            raise UsageError(f"no final run of {method or 'any method'} has ended on {pair or 'any pair'}")
        chosen = found[0]
        checkpoint = chosen.trial.checkpoint
        return BestStudent(
            chosen.pair.pair,
            chosen.cell.method,
            chosen.trial.trial_id,
            chosen.cell.miou.mean if chosen.cell.miou else float("nan"),
            self._ledger.place(checkpoint) if checkpoint else None,
        )

    def page(self) -> Page:
        """The leaderboard's page with its figures, written again from the tables."""
        write_leaderboard([self._ledger])
        return Page(self._ledger.read_bytes(f"leaderboard/{PAGE}").decode())

    @cached_property
    def _records(self) -> RunRecords:
        return read_run_records([self._ledger])

    @cached_property
    def _boards(self) -> tuple[Board, ...]:
        return build_boards(self._records)

    def _equal(self, compare: str | None) -> list[Board]:
        """The boards at equal steps or at equal seconds; by default those of the kind that the first one has."""
        kinds = list(dict.fromkeys(board.compare for board in self._boards))
        if compare is not None and compare not in kinds:
            raise unknown("compare", compare, kinds)
        return [board for board in self._boards if board.compare in ([compare] if compare else kinds[:1])]

    def _find(self, method: str, pair: str | None, compare: str | None) -> tuple[Board, Cell | None]:
        shown = self._equal(compare)
        methods = list(dict.fromkeys(row.method for board in shown for row in board.rows))
        if method not in methods:
            raise unknown("method", method, methods)
        if pair is None:
            boards = [board for board in shown if any(row.method == method for row in board.rows)]
            if len(boards) > 1:
                raise UsageError(f"the run has {len(boards)} boards with {method}, give a pair")
            return boards[0], None
        for board in shown:
            if (pair, method) in board.cells:
                return board, board.cells[pair, method]
        raise unknown("pair", pair, [p.pair for board in shown for p in board.pairs])


def load_run(folder: str | os.PathLike[str]) -> Run:
    """Open a run by its folder: a path, s3://bucket/run or gs://bucket/run. It may still be training.

    Raises:
        UsageError: there is no run.
    """
    return Run(open_run(os.fspath(folder)))


def run_sweep(
    config: str | os.PathLike[str] | Mapping[str, Any] | SweepConfig,
    output: str | os.PathLike[str] | None = None,
    *,
    settings: Mapping[str, Any] | None = None,
    address: str = "local",
    fresh: bool = False,
) -> Run:
    """Run a sweep to its end, as `python -m orchestrator.sweep` does, in a process of its own; print what it prints.

    Called again, it resumes. Ctrl-C stops it with a checkpoint.

    Args:
        config: a preset's name, a sweep file, its content as a mapping, or a checked config. A mapping is written to the file
            `<output>.yaml` beside the run's folder, so that the run can be resumed from a shell too; in it, relative paths
            start from the working folder.
        output: the run's folder, or its address; `runs/NAME` by default.
        settings: values by dotted key that override the config, such as `{"search.trials": 8}`.
        address: Ray's address, as in the command.
        fresh: delete the results that the folder has.

    Returns:
        The run, with its failed trials if there are some. It may be unfinished if a budget has stopped it.

    Raises:
        UsageError: the config, the data or an argument is not valid.
        KeyboardInterrupt: the sweep was interrupted, and has stopped with a checkpoint.
        RuntimeError: Ray was lost (the same call goes on), or there is a bug; the message has the end of what was printed.
    """
    source, folder = _source(config, None if output is None else os.fspath(output))
    command = [sys.executable, "-m", "orchestrator.sweep", source, "--address", address]
    command += [] if folder is None else ["--output", folder]
    command += ["--fresh"] if fresh else []
    overrides = [f"{key}={json.dumps(value)}" for key, value in (settings or {}).items()]  # JSON is YAML
    for override in overrides:
        command += ["--set", override]
    code, printed = _run(command)
    if code == INTERRUPTED:
        raise KeyboardInterrupt
    if code not in _GOOD:
        text = "\n".join(printed)
        if code == USAGE:
            raise UsageError(text.removeprefix("error: "))
        raise RuntimeError(f"exit code {code}\n{text}")
    return load_run(folder if folder is not None else f"runs/{load_sweep(source, overrides).name}")


def _source(config: Any, output: str | None) -> tuple[str, str | None]:
    """The command's sweep file and output folder; a mapping is written to a file first."""
    if isinstance(config, SweepConfig):
        config = config.model_dump(mode="json", exclude_unset=True)
    if not isinstance(config, Mapping):
        return os.fspath(config), output
    document = yaml.safe_load(yaml.safe_dump(dict(config), sort_keys=False))
    for found in paths_in(document, SweepConfig):
        found.make_absolute(Path.cwd())
    name = document.get("name")
    if output is None and not isinstance(name, str):
        raise UsageError("the config has no name; give it one, or give an output folder")
    folder = f"runs/{name}" if output is None else output
    file = Path("runs", f"{name or 'sweep'}.yaml") if is_uri(folder) else Path(f"{folder.rstrip('/')}.yaml")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(yaml.safe_dump(document, sort_keys=False, allow_unicode=True), encoding="utf-8")
    return str(file), folder


def _run(command: Sequence[str]) -> tuple[int, list[str]]:
    """Run a command, print its lines as they come; returns the exit code and the last lines."""
    last: list[str] = []
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        while True:
            try:
                for line in process.stdout:
                    print(line, end="")
                    last = [*last[-49:], line.rstrip("\n")]
                return process.wait(), last
            except KeyboardInterrupt:  # its own process group: the terminal's Ctrl-C does not reach it
                process.send_signal(signal.SIGINT)
