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

    python benchmarks/studies.py longer runs/scenes --methods kd heteroakd cwd --output runs/equal_time.yaml
    python -m orchestrator.sweep runs/equal_time.yaml --set operation.teachers=runs/scenes
    python benchmarks/studies.py equal-time runs/scenes runs/equal_time

asks for equal seconds beside equal steps: is a method better than the student alone trained as long as the method takes?
`longer` measures in the tables of a finished run what a step costs: the student's own seconds and, for a method that
needs it, the teacher's forward, the median over final runs, as the board's "training cost" has it. Then it writes a sweep
in which the student alone, tuned as in the run, trains (method's step) / (student's step) times as many steps, one pair
for each pair and method; methods that come to the same steps share one. `equal-time` prints the gain over the student at
equal steps and at equal seconds (within 5 %, for every method that comes so near). All in points, with paired 95 % t intervals over seeds.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from distill.errors import UsageError
from orchestrator.leaderboard.statistics import t_interval
from orchestrator.ledger.tables import Ledger

_LABEL = re.compile(r"(\w+)_([\d.]+)\.(\w+)_([\d.]+)")
ROUND_TO = 10
CLOSE = 0.05  # of the seconds: so far may a student's be from a method's that stand for equal


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("knob", "differences"):
        commands.add_parser(name).add_argument("runs", type=Path, nargs="+")
    for name in ("curve", "grid", "longer", "equal-time"):
        commands.add_parser(name).add_argument("run", type=Path)
    commands.choices["differences"].add_argument(
        "--methods", nargs="+", metavar="METHOD:OTHER", required=True
    )
    commands.choices["differences"].add_argument("--pairs", nargs="+", help="these pairs only")
    commands.choices["longer"].add_argument("--methods", nargs="+", default=["kd", "heteroakd", "cwd"])
    commands.choices["longer"].add_argument("--output", type=Path, default=Path("runs/equal_time.yaml"))
    commands.choices["equal-time"].add_argument("longer", type=Path)
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
        elif options.command == "grid":
            print("\n".join(grid_table(_read(options.run)[1])))
        elif options.command == "longer":
            config, trials = _read(options.run)
            document = longer_students(config, step_costs(trials), options.methods)
            options.output.parent.mkdir(parents=True, exist_ok=True)
            options.output.write_text(yaml.safe_dump(document, sort_keys=False, allow_unicode=True))
            print(options.output)
        else:
            print("\n".join(equal_time_table(_read(options.run)[1], _read(options.longer)[1])))
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


def step_costs(trials: pd.DataFrame) -> pd.Series:
    """(pair, method) → seconds of a step trained alone: the median over the final runs that finished."""
    final = trials[(trials.phase == "final") & (trials.status == "ok")]
    seconds = (final.student_seconds + final.teacher_seconds) / final.steps_done
    return seconds.groupby([final.pair, final.method]).median()


def longer_students(config: dict[str, Any], costs: pd.Series, methods: list[str]) -> dict[str, Any]:
    """The sweep file: the run's own, less the methods, with a pair for each number of steps the student is given.

    Raises:
        UsageError: the run has no finished final run of a method or of the student.
    """
    student = next(method for method in config["methods"] if method["name"] == "student")
    recipes, pairs = dict(config["recipes"]), {}
    for pair in config["pairs"]:
        name = pair["name"] or f"{pair['teacher']['model']}_to_{pair['student']['model']}"
        recipe = pair["student"]["recipe"]
        for method in methods:
            for needed in ("student", method):
                if (name, needed) not in costs.index:
                    raise UsageError(
                        f"the run has no finished final run of {needed} on {name}; let it finish, or leave {needed} out"
                    )
            steps = _equal_steps(config["recipes"][recipe]["steps"], costs, name, method)
            longer, label = f"{recipe}.{steps}", _longer(name, steps)
            recipes[longer] = {**config["recipes"][recipe], "steps": steps}
            pairs[label] = {**pair, "name": label, "student": {**pair["student"], "recipe": longer}}
    changed = {"name": "equal_time", "recipes": recipes, "pairs": list(pairs.values()), "methods": [student]}
    return {key: value for key, value in {**config, **changed}.items() if key not in ("operation", "budget")}


def equal_time_table(trials: pd.DataFrame, longer: pd.DataFrame) -> list[str]:
    """Markdown: a row per pair and method for whose seconds, within `CLOSE`, a student was trained; the nearest counts.

    A method that has such a student on every pair has a row of their mean as well.
    """
    scores, longer_scores = _scores(trials), _scores(longer)
    costs = step_costs(trials)
    planned = trials[trials.phase == "final"].groupby("pair").steps_planned.first()
    lengths = longer[longer.phase == "final"].groupby("pair").steps_planned.first()
    lines = [
        "| pair | method | cost | student's steps | gain at equal steps | gain at equal seconds |",
        "| --- |" + " --- |" * 5,
    ]
    gains: dict[str, list[tuple[pd.Series, pd.Series]]] = {}
    for pair, method in costs.index:
        ratio = costs[pair, method] / costs[pair, "student"]
        off = {
            steps: abs(steps / (ratio * planned[pair]) - 1)
            for name, steps in lengths.items()
            if name == _longer(pair, steps) and (name, "student") in longer_scores.columns
        }
        steps = min(off, key=off.__getitem__, default=0)
        if method == "student" or not off or off[steps] > CLOSE:
            continue
        students = scores[pair, "student"], longer_scores[_longer(pair, steps), "student"]
        equal_steps, equal_seconds = (scores[pair, method] - student for student in students)
        gains.setdefault(method, []).append((equal_steps, equal_seconds))
        cells = f"{_told(equal_steps, '{:+.1f}')} | {_told(equal_seconds, '{:+.1f}')}"
        lines.append(f"| {pair} | {method} | {ratio:.2f} × | {planned[pair]} → {steps} | {cells} |")
    for method, each in gains.items():
        if len(each) == len(planned) > 1:
            means = (sum(points) / len(each) for points in zip(*each, strict=True))
            lines.append(f"| all | {method} | | | {' | '.join(_told(mean, '{:+.1f}') for mean in means)} |")
    return lines


def _equal_steps(steps: int, costs: pd.Series, pair: str, method: str) -> int:
    """The student's steps that take as long as `steps` of a method."""
    return max(1, round(steps * costs[pair, method] / costs[pair, "student"] / ROUND_TO)) * ROUND_TO


def _longer(pair: str, steps: int) -> str:
    return f"{pair}.steps_{steps}"


def _scores(trials: pd.DataFrame) -> pd.DataFrame:
    final = trials[(trials.phase == "final") & (trials.status == "ok")]
    return 100 * final.pivot(index="seed", columns=["pair", "method"], values="test_miou")


def _told(points: pd.Series, form: str) -> str:
    values = [float(value) for value in t_interval(points.dropna().to_numpy())]
    mean, low, high = ("–" if value != value else form.format(value).replace("-", "−") for value in values)
    return f"{mean} [{low}, {high}]"


if __name__ == "__main__":
    main()
