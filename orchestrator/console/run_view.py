"""What `python -m orchestrator.show` prints: the state of a run, or everything about one trial."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any

import pyarrow.compute as pc
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from distill.errors import UsageError, printable, unknown
from orchestrator.console.board_head import board_heads
from orchestrator.leaderboard.board import build_boards
from orchestrator.leaderboard.files import GALLERY, PAGE
from orchestrator.leaderboard.run_records import RunRecords, read_run_records
from orchestrator.ledger.queries import latest_attempts, resuming_command
from orchestrator.ledger.tables import Ledger
from orchestrator.planning.equal_seconds import named
from orchestrator.planning.plan import PHASES

_STATES = ("ok", "pruned", "failed")
_NOTHING = "–"
_LOG_LINES = 20

Row = Mapping[str, Any]


def run_view(ledger: Ledger) -> RenderableType:
    """Counts per phase and status, each study's best trial, what failed, and the leaderboard's first rows."""
    trials = latest_attempts(ledger.read("trials").to_pylist())
    provenance = sorted(ledger.read("provenance").to_pylist(), key=lambda row: str(row["created_at"]))
    parts: list[RenderableType] = [Text(ledger.place(), style="bold")]
    for row in provenance[-1:]:
        commit = f"{(row['commit'] or 'unknown')[:12]}{' with uncommitted changes' if row['dirty'] else ''}"
        parts.append(
            Text(
                f"{resuming_command(row['command'] or '')}\ncommit {commit} · begun {_moment(row['created_at'])}"
            )
        )
    if not trials:
        return Group(*parts, Text("No trial has ended yet."))
    has_finals = any(row["phase"] == "final" for row in trials)
    records = read_run_records([ledger]) if has_finals else None
    former = {trial.trial_id for trial in records.trials if trial.former} if records else set()
    return Group(
        *parts,
        _counts(trials),
        *_studies(trials, former),
        *_former(former),
        *_budgets(trials),
        *_failures(trials),
        *(_result(ledger, records) if records else ()),
    )


def _result(ledger: Ledger, records: RunRecords) -> Iterable[RenderableType]:
    """The first rows of the leaderboard, and where it is; nothing before the first final run has a score."""
    if not any(trial.phase == "final" and trial.test_miou is not None for trial in records.trials):
        return
    yield from board_heads(build_boards(records))
    for name, title in ((PAGE, "leaderboard"), (GALLERY, "gallery")):
        if ledger.exists(f"leaderboard/{name}"):
            yield Text(f"{title}: {ledger.place(f'leaderboard/{name}')}")


def trial_view(ledger: Ledger, name: str) -> RenderableType:
    """One trial's configuration, costs, curve, loss terms, error, end of its log, and the command that reproduces it.

    Raises:
        UsageError: no trial, or several, have an id that begins so.
    """
    trials = latest_attempts(ledger.read("trials").to_pylist())
    trial = find_trial(trials, name)
    curves = ledger.read("curves")
    reports = curves.filter(pc.equal(curves.column("trial_id"), trial["trial_id"])).to_pylist()
    provenance = ledger.read("provenance").to_pylist()
    parts: list[RenderableType] = [_facts(trial), *_curves(reports), *_terms(reports)]
    if trial["error"]:
        where = "" if trial["error_step"] is None else f" at step {trial['error_step']}"
        parts += [Text(f"\nError{where}", style="bold red"), Text(trial["error"])]
    parts += _logs(ledger, trial["trial_id"])
    for row in provenance:
        if row["provenance_id"] == trial["provenance_id"] and row["command"]:
            code = (
                f" (commit {row['commit'][:12]}{', uncommitted changes' if row['dirty'] else ''})"
                if row["commit"]
                else ""
            )
            parts += [Text(f"\nReproduce{code}", style="bold"), Text(resuming_command(row["command"]))]
    return Group(*parts)


def _logs(ledger: Ledger, trial_id: str) -> Iterable[RenderableType]:
    """The last lines of what the trial's workers left behind."""
    for path in ledger.list("logs"):
        if path.removeprefix("logs/").startswith(trial_id):
            text = printable(ledger.read_bytes(path).decode(errors="replace"))
            lines = text.rstrip().splitlines()
            yield Text(f"\n{ledger.place(path)}", style="bold")
            yield Text("\n".join(lines[-_LOG_LINES:]))


def find_trial(trials: Sequence[Row], name: str) -> Row:
    """The trial with this id, or the only one whose id begins so; raises `UsageError`."""
    exact = [row for row in trials if row["trial_id"] == name]
    found = exact or [row for row in trials if row["trial_id"].startswith(name)]
    if len(found) == 1:
        return found[0]
    if found:
        ids = ", ".join(row["trial_id"] for row in found[:5])
        raise UsageError(f"trial '{name}' could be any of {len(found)}: {ids} …; give more of its id")
    raise unknown("trial", name, [row["trial_id"] for row in trials])


def chart(points: Sequence[tuple[float, float]], width: int = 64, height: int = 10) -> list[str]:
    """Points as lines of text: the mean of each of `width` columns in eighths of a line, the range at the left."""
    values = [value for _, value in points if math.isfinite(value)]
    if not values:
        return []
    low, high = min(values), max(values)
    first, last = points[0][0], points[-1][0]
    width = min(width, len(points))
    sums: list[list[float]] = [[] for _ in range(width)]
    for step, value in points:
        place = (step - first) / (last - first) if last > first else 0.0
        if math.isfinite(value):
            sums[min(int(place * width), width - 1)].append(value)
    levels = [
        None if not found else _share(math.fsum(found) / len(found), low, high) * (8 * height - 1)
        for found in sums
    ]
    lines = []
    for line in reversed(range(height)):
        blocks = "".join(" " if level is None else _block(level - 8 * line) for level in levels)
        label = f"{high:.4g}" if line == height - 1 else f"{low:.4g}" if line == 0 else ""
        lines.append(f"{label:>10} │{blocks}")
    foot = f"{first:g}".ljust(max(width - len(f"{last:g}"), 1)) + f"{last:g}"
    return [*lines, f"{'step':>10}  {foot}"]


def _share(value: float, low: float, high: float) -> float:
    return (value - low) / (high - low) if high > low else 0.5


def _block(eighths: float) -> str:
    return " ▁▂▃▄▅▆▇█"[0 if eighths < 0 else min(int(eighths) + 1, 8)]


def _counts(trials: Sequence[Row]) -> Table:
    table = Table("phase", *_STATES, title="Trials", title_justify="left")
    counted = Counter((row["phase"], row["status"]) for row in trials)
    for phase in PHASES:
        if any(counted[phase, state] for state in _STATES):
            table.add_row(phase, *(str(counted[phase, state]) for state in _STATES))
    return table


def _former(former: Set[str]) -> Iterable[Text]:
    if former:
        yield Text(
            f"{len(former)} final runs are of a configuration that a longer search has replaced; they are not in the means."
        )


def _budgets(trials: Sequence[Row]) -> Iterable[Text]:
    """A line for each pair whose methods were searched with unequal numbers of trials: they do not compare fairly."""
    searched = Counter((row["pair"], _method(row)) for row in trials if row["phase"] == "search")
    for pair in sorted({pair or "" for pair, _ in searched}):
        counts = {method: number for (of, method), number in searched.items() if (of or "") == pair}
        if len(set(counts.values())) > 1:
            listed = ", ".join(f"{method} {number}" for method, number in sorted(counts.items()))
            yield Text(f"{pair}: searched with unequal numbers of trials so far: {listed}.", style="bold")


def _method(row: Row) -> str:
    return named(row["method"] or "", row["compare"])


def _studies(trials: Sequence[Row], former: Set[str]) -> Iterable[Table]:
    """A table per pair; a pair's name is too long to be a column."""
    pairs: dict[str, dict[str, list[Row]]] = {}
    for row in trials:
        if row["phase"] != "teacher":
            pairs.setdefault(row["pair"] or "", {}).setdefault(_method(row), []).append(row)
    for pair, methods in sorted(pairs.items()):
        table = Table("method", title=Text(pair), title_justify="left")
        for heading in ("searched", "best tune mIoU", "trial", "final runs", "test mIoU"):
            table.add_column(heading, justify="right", no_wrap=heading == "trial")
        for method, rows in sorted(methods.items()):
            searched = [row for row in rows if row["phase"] == "search"]
            done = [row for row in searched if row["status"] == "ok" and row["tune_miou"] is not None]
            best = max(done, key=lambda row: float(row["tune_miou"]), default=None)
            finals = [row for row in rows if row["phase"] == "final" and row["trial_id"] not in former]
            tested = [float(row["test_miou"]) for row in finals if row["test_miou"] is not None]
            table.add_row(
                Text(method),
                str(len(searched)),
                _points(None if best is None else best["tune_miou"]),
                _NOTHING if best is None else best["trial_id"],
                str(len(finals)),
                _points(math.fsum(tested) / len(tested) if tested else None),
            )
        yield table


def _failures(trials: Sequence[Row]) -> Iterable[RenderableType]:
    failed = [row for row in trials if row["status"] == "failed"]
    if failed:
        table = Table(
            "trial", "phase", "pair", "method", "step", "error", title="Failed", title_justify="left"
        )
        for row in failed:
            lines = (row["error"] or "").strip().splitlines()
            told = (row["phase"], row["pair"], row["method"], row["error_step"], lines[-1] if lines else None)
            table.add_row(row["trial_id"], *(Text(_NOTHING if cell is None else str(cell)) for cell in told))
        yield table


def _facts(trial: Row) -> Table:
    table = Table(show_header=False, title=f"Trial {trial['trial_id']}", title_justify="left")
    seconds = {name: trial[f"{name}_seconds"] for name in ("student", "shared", "teacher", "gpu", "wall")}
    memory = trial["peak_memory_bytes"]
    cost = (
        ""
        if trial["step_cost"] is None
        else f", as a step costs {trial['step_cost']:g} × that of the student alone"
    )
    facts = {
        "state": f"{trial['phase']}, {trial['status']}, attempt {trial['attempt']}",
        "pair": f"{trial['pair']} ({trial['teacher']} → {trial['student']}) on {trial['dataset']}",
        "method": f"{_method(trial)} ({trial['method_family']}), recipe {trial['recipe_hash']}",
        "seed": trial["seed"],
        "steps": f"{trial['steps_done']} of {trial['steps_planned']}{cost}",
        "mIoU": f"tune {_points(trial['tune_miou'])}, test {_points(trial['test_miou'])}",
        "seconds": ", ".join(f"{name} {value:.1f}" for name, value in seconds.items() if value is not None),
        "peak memory": _NOTHING if memory is None else f"{memory / 2**30:.2f} GiB",
        "ended": f"{_moment(trial['finished_at'])} on {trial['device']}, {trial['world_size']} worker(s)",
        "weights": trial["checkpoint"] or _NOTHING,
    }
    searched = {name for name, _ in trial["searched"] or ()}
    for name, value in trial["params"] or ():
        facts[f"· {name}"] = f"{value}, searched" if name in searched else value
    for name, fact in facts.items():
        table.add_row(Text(printable(name)), Text(printable(str(fact))))
    return table


def _curves(reports: Sequence[Row]) -> Iterable[RenderableType]:
    for column, title, factor in (("tune_miou", "mIoU on tune", 100.0), ("loss_total", "total loss", 1.0)):
        points = [(row["step"], factor * row[column]) for row in reports if row[column] is not None]
        if len(points) == 1:
            yield Text(f"\n{title}: {points[0][1]:.4g} at step {points[0][0]}", style="bold")
        elif points:
            yield Text(f"\n{title}", style="bold")
            yield Text("\n".join(chart(points)), no_wrap=True)


def _terms(reports: Sequence[Row]) -> Iterable[RenderableType]:
    """The loss terms of the last report that has any, with each one's share: which one dominates."""
    told = [row for row in reports if row["terms_weighted"]]
    if not told:
        return
    weighted, raw = dict(told[-1]["terms_weighted"]), dict(told[-1]["terms_raw"] or ())
    total = math.fsum(abs(value) for value in weighted.values())
    table = Table("term", title=f"Loss terms at step {told[-1]['step']}", title_justify="left")
    for heading in ("raw", "weighted", "share"):
        table.add_column(heading, justify="right")
    for name, value in sorted(weighted.items(), key=lambda item: -abs(item[1])):
        share = f"{100 * abs(value) / total:.0f} %" if total > 0 else _NOTHING
        table.add_row(
            Text(printable(name)), f"{raw[name]:.4g}" if name in raw else _NOTHING, f"{value:.4g}", share
        )
    yield table


def _points(value: float | None) -> str:
    return _NOTHING if value is None else f"{100 * value:.2f}"


def _moment(value: Any) -> str:
    return _NOTHING if value is None else f"{value:%Y-%m-%d %H:%M} UTC"
