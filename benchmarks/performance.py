"""`docs/performance.md` out of what the benchmarks beside it wrote: `python benchmarks/performance.py`."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import cells
from sweep_page import long_section, sweep_section

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "performance.md"
OVERHEAD, START = 1.5, 1.5


def write(page: Path, **reports: Path) -> None:
    """Writes the page. A report that is not given is the one beside this file, if there is one."""
    found = {name: _read(reports.get(name, HERE / f"{name}.json")) for name in SECTIONS}
    page.write_text(performance_page(found), encoding="utf-8")


def _read(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def performance_page(reports: Mapping[str, Mapping[str, Any] | None]) -> str:
    """The page's text; the same results give the same text. What was not measured is left out."""
    aims: cells.Aims = []
    body: list[str] = []
    for name, section in SECTIONS.items():
        report = reports.get(name)
        if report is not None:
            body += section(report, aims)
    verdicts = cells.table(
        ("aim", "came out", "met"), ([text, f"{value:.2f}", "yes" if met else "no"] for text, value, met in aims)
    )  # fmt: skip
    return "\n".join([*_INTRODUCTION, *verdicts, "", *body]) + "\n"


_INTRODUCTION = """# What a trial costs

Everything on this page is written by commands, from what they measured:

```sh
python benchmarks/sweep.py        # the same sweep three ways; its docstring has the command of the longer one
python benchmarks/dead_time.py    # before the first step, and between waves
python benchmarks/teacher.py      # a teacher's forward pass in several ways
python benchmarks/stacked.py      # students stepped together beside one after the other
python benchmarks/workers.py      # two workers beside one, which divide batches or students
python benchmarks/overlap.py      # gradients that travel while the next student computes
python benchmarks/scale.py        # book-keeping for many trials beside bare Ray Tune; --trials 10000 for the largest
python benchmarks/many_nodes.py   # a plan larger than a cluster of 64 nodes that only say what they have
```

Figures are medians, with the smallest and the largest of the repeats in brackets. Ratios are taken within a repeat, whose
sides follow each other, and then their median. A load average before the start that is not near 0 means that other work
was running: such figures are worth little.

""".splitlines()


def _dead_time(found: Mapping[str, Any], aims: cells.Aims) -> list[str]:
    start, between = found["start"], found["between_waves"]
    aims.append(
        ("from the command to the first training step, over what starting Ray, a TorchTrainer, torch and timm takes, at most 1.5",
         start["ratio"], start["ratio"] <= START)
    )  # fmt: skip
    lines = [
        "## Time in which nothing is trained",
        "",
        f"{cells.machine(found['machine'])} From the command to the first trial's first step: {cells.interval(start['seconds'], 1)} s; Ray, one `TorchTrainer` of one worker, "
        f"torch and timm there, and nothing else: {cells.interval(start['bare_seconds'], 1)} s.",
        "",
    ]
    if between is not None:
        waited = between["to_last_seat"]
        aims.append(
            (
                "seconds from the end of a wave until the last student of the next is on the device, at most 1",
                waited,
                waited <= 1,
            )
        )
        lines += [
            f"Between two waves of a cohort, median of {between['waves']} in a run of the preset `scenes`, 15 or 16 students each: {between['to_first_seat']:.2f} s "
            f"until the first student of the next wave is on the device, {waited:.2f} s until the last one is.",
            "",
            "A worker group that began the next wave while halving leaves fewer students in the last one could save no more than that: it steps its students in "
            "turn, and a wave has a stream and a teacher pass of its own, so both waves' steps take the same time together. If another worker group fits on "
            "the cluster, waves of a cohort do train at the same time, as soon as that is measured to end the sweep sooner.",
            "",
        ]
    return lines


def _workers(found: Mapping[str, Any], aims: cells.Aims) -> list[str]:
    table = []
    for pair, sides in found["pairs"].items():
        for side, seconds in sides["training_seconds"].items():
            speed_ups = sides["speed_up"].get(side, [1.0])
            efficiency = statistics.median(speed_ups) / (2 if side in sides["speed_up"] else 1)
            table.append(
                [pair, side, cells.interval(seconds, 1), cells.interval(speed_ups), f"{efficiency:.2f}"]
            )
    return [
        "## A second worker",
        "",
        f"The sweep above, {found['steps']} steps, by one worker of one thread and by two, which divide what the table says. {cells.machine(found['machine'])}",
        "",
        *cells.table(("pair", "workers", "seconds", "speed-up", "efficiency"), table),
        "",
    ]


def _overlap(found: Mapping[str, Any], aims: cells.Aims) -> list[str]:
    rows = [
        [row["model"], f"{row['params'] / 1e6:.2f}", cells.interval(row["in_turn"], 1), cells.interval(row["overlapped"], 1),
         cells.interval([one / other for one, other in zip(row["in_turn"], row["overlapped"], strict=True)])]
        for row in found["rows"]
    ]  # fmt: skip
    return [
        "## Gradients that travel",
        "",
        f"{found['workers']} workers of one thread each, gloo between them, {found['students']} students, {found['batch']} pictures of {found['size']}×{found['size']}, "
        f"by turns for {found['repeats']} steps: each student's mean gradients awaited before the next one begins, and after it has computed its own, as a cohort does. "
        f"The weights are the same to the bit. {cells.machine(found['machine'])}",
        "",
        *cells.table(
            ("model", "parameters (M)", "in turn (ms)", "overlapped (ms)", "overlapped is faster by"), rows
        ),
        "",
    ]


def _many_nodes(found: Mapping[str, Any], aims: cells.Aims) -> list[str]:
    return [
        "## A plan larger than the cluster",
        "",
        f"{found['nodes']} nodes of 4 CPUs and a GPU each, all of them Ray daemons on one machine and none with what it says. {found['cohorts']} cohorts of one "
        f"GPU, {found['trials']} trials, {found['wave']} of a cohort at once, placed as a sweep places them; a wave is answered after some seconds and not trained. {cells.machine(found['machine'])}",
        "",
        f"All came to an end; no plan waited for itself. Beside the answers there are {found['nodes']} nodes' daemons to run and a process to start for every cohort, "
        f"by {found['machine']['cpus']} cores: what that costs on a head with nodes elsewhere is not in these figures. They are of commit 145cebb, when every "
        "trial had a process, too.",
        "",
        *cells.table(
            ("cohorts at once, at most", "nodes used", "seconds", "if nothing cost anything", "ms per trial",
             "a node between two cohorts (s)", "driver's memory (MiB)"),
            [[str(found["cohorts_at_once"]), str(found["nodes_used"]), f"{found['seconds']:.0f}",
              f"{found['seconds_if_nothing_cost_anything']:.0f}", f"{found['ms_per_trial']:.0f}",
              f"{found['seconds_between_cohorts']:.1f}", f"{found['driver_start_mib']:.0f} → {found['driver_peak_mib']:.0f}"]],
        ),
        "",
    ]  # fmt: skip


def _teacher(found: Mapping[str, Any], aims: cells.Aims) -> list[str]:
    table = [
        [row["model"], way, cells.interval(row["ms"][way], 0),
         cells.interval([one / other for one, other in zip(row["ms"]["plain"], row["ms"][way], strict=True)]),
         f"{row['apart'][way]:.0e}" if way != "plain" else "",
         f"{row['compile_seconds']:.0f}" if way == "compiled" else ""]
        for row in found["rows"] for way in row["ms"]
    ]  # fmt: skip
    return [
        "## A teacher's forward pass",
        "",
        f"{found['batch']} pictures of {found['size']}×{found['size']}, by turns on {found['device']}, {cells.counted(found['threads'], 'thread')}, "
        f"torch {found['torch']}. {cells.machine(found['machine'])} A sweep's teachers lie channels last on a CPU, whatever the recipe's `channels_last` says of the "
        "students; bf16 is the recipe's choice (`precision`). Nothing is compiled: each worker would pay for it anew, for less than channels last gains. Inference mode "
        "cannot be used at all, since its tensors may not be saved for the students' backward pass.",
        "",
        *cells.table(
            ("teacher", "way", "ms", "faster than plain by", "logits apart, relative to the largest", "first pass (s)"), table
        ),
        "",
    ]  # fmt: skip


def _stacked(found: Mapping[str, Any], aims: cells.Aims) -> list[str]:
    table = [
        [row["model"], str(row["students"]), f"{row['in_turn_ms']:.0f}", f"{row['stacked_ms']:.0f}",
         f"{row['faster']:.2f} ({row['faster_least']:.2f} to {row['faster_most']:.2f})",
         "the same bits" if row["same_bits"] else f"{row['gradients_apart']:.0e}"]
        for row in found["rows"]
    ]  # fmt: skip
    return [
        "## Students stepped together",
        "",
        "Students of one architecture can be stacked and stepped by one pass (`torch.func.vmap`, which makes grouped convolutions and batched "
        f"products of them). Forward and backward of cross-entropy and KD, {found['batch']} pictures of {found['size']}×{found['size']}, by turns on "
        f"{found['device'].upper() if found['device'] == 'cpu' else found['device']}, {cells.counted(found['threads'], 'thread')}, torch {found['torch']}. "
        f"{cells.machine(found['machine'])} It is not built into a cohort: a result would depend on its company, and where it is not faster "
        "there is nothing to weigh against that.",
        "",
        *cells.table(
            ("model", "students", "in turn (ms)", "stacked (ms)", "stacked is faster by", "gradients apart, relative to the largest"),
            table,
        ),
        "",
    ]  # fmt: skip


def _scale(scale: Mapping[str, Any], aims: cells.Aims) -> list[str]:
    by_side = {side: _by_size(scale["rows"], side) for side in ("bare", "ours")}
    table = []
    for count, mine in by_side["ours"].items():
        tune = by_side["bare"].get(count)
        beside = ["", "", "", ""]
        if tune is not None:
            ratio = cells.interval(cells.ratios(mine, tune, "ms_per_trial"))
            beside = [cells.spread(tune, "ms_per_trial", 1), ratio, _tenths(tune), _memories(tune)]
        per_trial = cells.spread(mine, "ms_per_trial", 1)
        table.append(
            [str(count), per_trial, *beside[:2], _tenths(mine), beside[2], _memories(mine), beside[3]]
        )
    largest = max(by_side["bare"])
    overhead = statistics.median(
        cells.ratios(by_side["ours"][largest], by_side["bare"][largest], "ms_per_trial")
    )
    aims.append(
        (f"{largest} trials: time per trial, ours / bare Tune, at most 1.5", overhead, overhead <= OVERHEAD)
    )
    most = max(by_side["ours"])
    if most > largest:
        mine, tune = (
            statistics.median(row["ms_per_trial"] for row in rows)
            for rows in (by_side["ours"][most], by_side["bare"][largest])
        )
        grown = mine / tune
        aims.append(
            (f"time per trial, ours with {most} / bare Tune with {largest}, at most 1.5", grown, grown <= OVERHEAD)
        )  # fmt: skip
    header = (
        "trials planned", "ours, ms per trial", "bare Tune", "ours / bare", "ours, first → last tenth", "bare, first → last tenth",
        "our driver's memory, start → peak (MiB)", "bare Tune's",
    )  # fmt: skip
    keeping = [
        [str(count), *(cells.spread(rows, key, digits) for key, digits in
                       (("plan_seconds", 2), ("ledger_files", 0), ("ledger_mib", 1), ("resume_seconds", 2), ("board_seconds", 1)))]
        for count, rows in by_side["ours"].items()
    ]  # fmt: skip
    machine = scale["machine"]
    return [
        "## Many trials that take no time",
        "",
        "The sweep's own book-keeping (searcher, scheduler, cohort channel, ledger, progress), with a cohort that answers every wave at once; "
        "beside it Ray Tune with a function that returns at once, as many at a time, which records nothing. "
        f"{machine['cpus']} {machine['machine']} cores, load average {machine['load_before']:g} before the start; Ray's start is left out.",
        "",
        *cells.table(header, table),
        "",
        *_growth(by_side),
        *cells.table(
            ("trials planned", "planning (s)", "files of the ledger", "its size (MiB)", "reading it to resume (s)", "board (s)"), keeping
        ),
    ]  # fmt: skip


def _growth(by_side: Mapping[str, Mapping[int, cells.Rows]]) -> list[str]:
    """How time and memory grow from the smallest to the largest size, as an exponent and as MiB per trial."""
    lines = []
    for side, name in (("ours", "Ours"), ("bare", "Bare Tune")):
        sizes = sorted(by_side[side])
        small, large = by_side[side][sizes[0]], by_side[side][sizes[-1]]
        if len(sizes) < 2:
            continue
        seconds = [statistics.median(row["seconds"] for row in rows) for rows in (small, large)]
        exponent = math.log(seconds[1] / seconds[0]) / math.log(sizes[-1] / sizes[0])
        held = [statistics.median(row["driver_peak_mib"] for row in rows) for rows in (small, large)]
        each = 1024 * (held[1] - held[0]) / (sizes[-1] - sizes[0])
        lines.append(
            f"{name}: from {sizes[0]} to {sizes[-1]} trials the time grows as trials^{exponent:.2f}, the driver's memory by {each:.0f} KiB a trial."
        )
    return ["  \n".join(lines), ""] if lines else []


def _by_size(rows: cells.Rows, side: str) -> dict[int, list[Mapping[str, Any]]]:
    found: dict[int, list[Mapping[str, Any]]] = {}
    for row in rows:
        if row["side"] == side:
            found.setdefault(row["planned"], []).append(row)
    return dict(sorted(found.items()))


def _tenths(rows: cells.Rows) -> str:
    return " → ".join(
        f"{statistics.median(row[key] for row in rows):.1f}" for key in ("ms_first_tenth", "ms_last_tenth")
    )


def _memories(rows: cells.Rows) -> str:
    return " → ".join(
        f"{statistics.median(row[key] for row in rows):.0f}"
        for key in ("driver_start_mib", "driver_peak_mib")
    )


SECTIONS: dict[str, Callable[[Mapping[str, Any], cells.Aims], list[str]]] = {
    "sweep": sweep_section,
    "sweep_long": long_section,
    "dead_time": _dead_time,
    "teacher": _teacher,
    "stacked": _stacked,
    "workers": _workers,
    "overlap": _overlap,
    "scale": _scale,
    "many_nodes": _many_nodes,
}
"""What stands on the page, by the name of its report, in order."""


if __name__ == "__main__":
    write(PAGE)
