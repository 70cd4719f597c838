"""What the studies beside the preset `scenes` say, out of their runs' tables.

    python benchmarks/studies.py knob runs/scenes runs/knob

prints gains along the knob `context` of generated scenes: a Markdown table with a column per setting, whose pairs are named
alike up to a first dot (`<pair>` or `<pair>.<setting>`). For each pair the teacher's and the student's test mIoU, and each
method's gain over the equally tuned student alone, of the methods that were trained at every setting.

    python benchmarks/studies.py curve runs/regime

prints the same along the length of the training, of pairs that are named `<pair>.<steps>`.

    python benchmarks/studies.py differences runs/scenes runs/ablations --methods heteroakd:kd no_kmm:heteroakd

prints what one method has over another, a row each, a column per pair and their mean. `--pairs` leaves out other pairs.

    python benchmarks/studies.py grid runs/sensitivity

prints the gain over the student, mean over pairs, of methods labelled `<a>_<value>.<b>_<value>`: a row per value of the first.

All in points, with paired 95 % t intervals over seeds.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

import pandas as pd

from distill.errors import UsageError
from orchestrator.leaderboard.statistics import t_interval
from orchestrator.ledger.tables import Ledger

_LABEL = re.compile(r"(\w+)_([\d.]+)\.(\w+)_([\d.]+)")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("knob", "differences"):
        commands.add_parser(name).add_argument("runs", type=Path, nargs="+")
    for name in ("curve", "grid"):
        commands.add_parser(name).add_argument("run", type=Path)
    commands.choices["differences"].add_argument(
        "--methods", nargs="+", metavar="METHOD:OTHER", required=True
    )
    commands.choices["differences"].add_argument("--pairs", nargs="+", help="these pairs only")
    options = parser.parse_args()
    try:
        if options.command == "knob":
            configs, trials = zip(*map(_read, options.runs), strict=True)
            print("\n".join(knob_table(list(configs), together(list(trials)))))
        elif options.command == "curve":
            print("\n".join(curve_table(_read(options.run)[1])))
        elif options.command == "differences":
            trials = together([_read(run)[1] for run in options.runs])
            if options.pairs is not None:
                trials = trials[trials.pair.isin(options.pairs)]
            print("\n".join(differences_table(trials, options.methods)))
        else:
            print("\n".join(grid_table(_read(options.run)[1])))
    except UsageError as error:
        parser.exit(2, f"error: {error}\n")


def _read(run: Path) -> tuple[dict[str, Any], pd.DataFrame]:
    if not (run / "plan.json").is_file():
        raise UsageError(f"{run} holds no plan.json; give the folder of a run (its --output)")
    return json.loads((run / "plan.json").read_text())["config"], Ledger(run).read("trials").to_pandas()


def together(runs: list[pd.DataFrame]) -> pd.DataFrame:
    """The trials of several runs; one that two runs have trained alike stands once.

    Raises:
        UsageError: two runs have trained other things under one name.
    """
    trials = pd.concat(runs, ignore_index=True).drop_duplicates("trial_id")
    final = trials[trials.phase == "final"]
    twice = final[final.duplicated(["pair", "method", "seed"])]
    if len(twice):
        raise UsageError(
            f"final runs of {twice.method.iloc[0]} on {twice.pair.iloc[0]} differ between these runs; give runs of one plan's search"
        )
    return trials


def knob_table(configs: list[dict[str, Any]], trials: pd.DataFrame) -> list[str]:
    """Markdown: a row per pair and method, a column per setting of `context`, as `_along` has them."""
    settings = {
        pair["name"]: float(config["data"][pair["data"]]["context"])
        for config in configs
        for pair in config["pairs"]
    }
    return _along(settings, trials, "context {:g}")


def curve_table(trials: pd.DataFrame) -> list[str]:
    """Markdown: a row per pair and method, a column per length of the student's training.

    Raises:
        UsageError: a pair has no length behind a dot.
    """
    names = set(trials[trials.phase == "final"].pair)
    for name in names:
        if not name.partition(".")[2].isdecimal():
            raise UsageError(f"pair {name!r} must be named PAIR.STEPS, as in benchmarks/studies/regime.yaml")
    return _along({name: float(name.partition(".")[2]) for name in names}, trials, "{:g} steps")


def _along(settings: dict[str, float], trials: pd.DataFrame, heading: str) -> list[str]:
    """A column per setting, empty where a pair was not trained; a method that lacks a setting of its pair is left out."""
    told: dict[tuple[str, str], dict[float, str]] = {}
    of_pair: dict[str, set[float]] = {}
    final = trials[(trials.phase == "final") & trials.test_miou.notna()]
    for name in sorted(set(final.pair), key=lambda name: settings[name]):
        runs = final[final.pair == name]
        pair, setting = name.partition(".")[0], settings[name]
        of_pair.setdefault(pair, set()).add(setting)
        scores = 100 * runs.pivot(index="seed", columns="method", values="test_miou")
        teacher = trials[(trials.phase == "teacher") & (trials.study_id == runs.teacher_id.iloc[0])].test_miou
        if len(teacher):
            told.setdefault((pair, "teacher"), {})[setting] = f"{100 * teacher.max():.1f}"
        first = [method for method in scores.columns if method == "student"]
        for method in [*first, *(method for method in scores.columns if first and method != "student")]:
            points = scores[method] if method == "student" else scores[method] - scores["student"]
            cell = _told(points, "{:.1f}" if method == "student" else "{:+.1f}")
            told.setdefault((pair, method), {})[setting] = cell
    columns = sorted({setting for cells in told.values() for setting in cells})
    rows = [
        f"| {pair} | {method} | " + " | ".join(cells.get(setting, "") for setting in columns) + " |"
        for (pair, method), cells in sorted(told.items(), key=lambda item: item[0][0])
        if len(cells) == len(of_pair[pair])
    ]
    return [
        f"| pair | method | {' | '.join(heading.format(setting) for setting in columns)} |",
        "| --- | --- |" + " --- |" * len(columns),
        *rows,
    ]


def differences_table(trials: pd.DataFrame, wanted: list[str]) -> list[str]:
    """Markdown: a row per `METHOD:OTHER`, what the first has over the other on each pair and on average.

    Raises:
        UsageError: the run has no final run of a method.
    """
    scores = _scores(trials)
    pairs = list(scores.columns.get_level_values("pair").unique())
    lines = [f"| | {' | '.join(pairs)} | all |", "| --- |" + " --- |" * (len(pairs) + 1)]
    for both in wanted:
        first, _, other = both.partition(":")
        for method in (first, other):
            if any((pair, method) not in scores.columns for pair in pairs):
                raise UsageError(
                    f"the run has no final run of {method!r} on every pair; it has {sorted(set(scores.columns.get_level_values('method')))}"
                )
        gains = [scores[pair, first] - scores[pair, other] for pair in pairs]
        cells = [_told(points, "{:+.1f}") for points in (*gains, sum(gains) / len(gains))]
        lines.append(f"| {first} over {other} | {' | '.join(cells)} |")
    return lines


def grid_table(trials: pd.DataFrame) -> list[str]:
    """Markdown: gains over the student, mean over pairs, of methods labelled `<a>_<value>.<b>_<value>`.

    Raises:
        UsageError: the run has no final run of such a method.
    """
    scores = _scores(trials)
    pairs = list(scores.columns.get_level_values("pair").unique())
    methods = list(scores.columns.get_level_values("method").unique())
    squares = {square: name for name in methods if (square := _LABEL.fullmatch(name))}
    if not squares:
        raise UsageError(f"the run has no methods labelled like lambda2_1.tau_0.5; it has {sorted(methods)}")
    cells = {}
    for square, name in squares.items():
        gains = [scores[pair, name] - scores[pair, "student"] for pair in pairs]
        cells[float(square[2]), float(square[4])] = _told(sum(gains) / len(gains), "{:+.1f}")
    row_name, column_name = next((square[1], square[3]) for square in squares)
    rows, columns = ({place[axis] for place in cells} for axis in (0, 1))
    return [
        f"| {row_name} | {' | '.join(f'{column_name} {column:g}' for column in sorted(columns))} |",
        "| --- |" + " --- |" * len(columns),
        *(
            f"| {row:g} | " + " | ".join(cells.get((row, column), "") for column in sorted(columns)) + " |"
            for row in sorted(rows)
        ),
    ]


def _scores(trials: pd.DataFrame) -> pd.DataFrame:
    final = trials[(trials.phase == "final") & (trials.status == "ok")]
    return 100 * final.pivot(index="seed", columns=["pair", "method"], values="test_miou")


def _told(points: pd.Series, form: str) -> str:
    values = [float(value) for value in t_interval(points.dropna().to_numpy())]
    mean, low, high = ("–" if value != value else form.format(value).replace("-", "−") for value in values)
    return f"{mean} [{low}, {high}]"


if __name__ == "__main__":
    main()
