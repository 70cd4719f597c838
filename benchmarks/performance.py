"""Writes `docs/performance.md` from the results of the benchmarks in this folder: `python benchmarks/performance.py`."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import cells
from gpu_page import gpu_section
from sweep_page import long_section, sweep_section

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "performance.md"
OVERHEAD, START = 1.5, 1.5


def write(page: Path, **reports: Path) -> None:
    """Write the page. A report that is not given is read from this folder, if it is there."""
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
        ("target", "measured", "met"), ([text, f"{value:.2f}", "yes" if met else "no"] for text, value, met in aims)
    )  # fmt: skip
    return "\n".join([*_INTRODUCTION, *verdicts, "", *body]) + "\n"


_INTRODUCTION = """# What a trial costs

These commands measure everything on this page, and write it:

```sh
python benchmarks/sweep.py        # one sweep run in three ways; its docstring has the command of the longer one
python benchmarks/dead_time.py    # time before the first step, and between waves
python benchmarks/teacher.py      # a teacher's forward pass in several ways
python benchmarks/stacked.py      # students of one architecture in one pass, compared with one after the other
python benchmarks/workers.py      # two workers compared with one
python benchmarks/overlap.py      # all-reduce of gradients while the next student computes
python benchmarks/scale.py        # overhead per trial compared with bare Ray Tune; --trials 10000 for the largest
python benchmarks/many_nodes.py   # a plan larger than a cluster of 64 simulated nodes
python benchmarks/loss_flops.py   # operations of every loss at real size, by formula
python benchmarks/real_size.py    # a step and an evaluation at the size of photographs, beside the same written plainly
python benchmarks/gpu/step_budgets.py now   # memory, kernels and operations of a full-size step, counted without a GPU
python benchmarks/gpu/memory_shortage.py    # what one student without memory does to the others, played on a CPU
python benchmarks/gpu/on_gpu.py             # what only a GPU can say
```

Figures are medians, with the smallest and the largest of the repeats in brackets. A ratio is computed within each repeat,
whose runs follow each other, and the median of these ratios is shown. If the load average before the start is not near 0,
other work was running, and the figures are less reliable.

""".splitlines()


def _dead_time(found: Mapping[str, Any], aims: cells.Aims) -> list[str]:
    start, between = found["start"], found["between_waves"]
    aims.append(
        ("time from the command to the first training step / time to start Ray, a TorchTrainer, torch and timm, at most 1.5",
         start["ratio"], start["ratio"] <= START)
    )  # fmt: skip
    lines = [
        "## Time in which nothing is trained",
        "",
        f"{cells.machine(found['machine'])} From the command to the first trial's first step: {cells.interval(start['seconds'], 1)} s. To start Ray and a `TorchTrainer` with one worker "
        f"that imports torch and timm, and nothing else: {cells.interval(start['bare_seconds'], 1)} s.",
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
            "After halving, a wave has fewer students. A worker group could begin the next wave then, but it would save no more than the time above: it steps "
            "its students one after the other, and each wave has its own stream and teacher pass, so the steps of two waves take as long together as one "
            "after the other. If another worker group fits on the cluster, waves of a cohort do train at the same time, as soon as the measured progress "
            "says that the sweep then ends sooner.",
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
        f"The sweep above, {found['steps']} steps, with one worker of one thread and with two. The table says what the two divide among them. {cells.machine(found['machine'])}",
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
        "## All-reduce during the next student's step",
        "",
        f"{found['workers']} workers of one thread each with gloo, {found['students']} students, {found['batch']} pictures of {found['size']}×{found['size']}, "
        f"{found['repeats']} steps of each way, alternating. In turn: the all-reduce of a student's gradients ends before the next student begins. Overlapped, as "
        f"in a cohort: it ends after the next student has computed its own gradients. "
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
        f"{found['nodes']} nodes of 4 CPUs and a GPU each, all simulated by Ray daemons on one machine that has neither so many CPUs nor a GPU. {found['cohorts']} cohorts of one "
        f"GPU, {found['trials']} trials, {found['wave']} of a cohort at a time, placed as in a sweep. Nothing is trained: each wave gets made-up scores after some seconds. {cells.machine(found['machine'])}",
        "",
        f"All cohorts finished; there was no deadlock. The {found['machine']['cpus']} cores also run the daemons of {found['nodes']} nodes and start a process for every "
        "cohort, so the figures do not show the cost on a head whose nodes are other machines. They were measured on commit 145cebb, when every trial still "
        "had a process of its own.",
        "",
        *cells.table(
            ("cohorts at once, at most", "nodes used", "seconds", "seconds without any overhead", "ms per trial",
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
        f"{found['batch']} pictures of {found['size']}×{found['size']}, alternating on {found['device']}, {cells.counted(found['threads'], 'thread')}, "
        f"torch {found['torch']}. {cells.machine(found['machine'])} In a sweep, teachers on a CPU are channels last; the recipe's `channels_last` is for the "
        "students only. bf16 is a setting of the recipe (`precision`). Teachers are not compiled: each worker would have to compile, and gain less than with channels "
        "last. Inference mode cannot be used, because its tensors cannot be saved for the students' backward pass.",
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
        "Students of one architecture can be stacked and trained in one pass (`torch.func.vmap`, which makes grouped convolutions and batched "
        f"matrix products of their layers). Forward and backward of cross-entropy and KD, {found['batch']} pictures of {found['size']}×{found['size']}, alternating on "
        f"{found['device'].upper() if found['device'] == 'cpu' else found['device']}, {cells.counted(found['threads'], 'thread')}, torch {found['torch']}. "
        f"{cells.machine(found['machine'])} Cohorts do not use it, because a student's result would depend on the other students in "
        "its wave, and for most models it is not faster.",
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
        "Overhead of the sweep (searcher, scheduler, cohort channel, ledger, progress), with workers that answer every wave at once. "
        "It is compared with Ray Tune alone, which runs as many trials at a time of a function that returns at once, and records nothing. "
        f"{machine['cpus']} {machine['machine']} cores, load average {machine['load_before']:g} before the start. The start of Ray is not counted.",
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


def _real_size(found: Mapping[str, Any], aims: cells.Aims) -> list[str]:
    table = [
        [row["what"], "×".join(map(str, row["size"])), *(cells.interval(row["seconds"][way]) for way in ("ours", "plain")),
         cells.interval([one / other for one, other in zip(row["seconds"]["ours"], row["seconds"]["plain"], strict=True)]),
         *(f"{row['largest'][way] / 2**20:.0f}" for way in ("ours", "plain"))]
        for row in found["rows"]
    ]  # fmt: skip
    return [
        "## Photographs at their own size",
        "",
        f"A training step of `{found['student']}` with KD from `{found['teacher']}`, {found['batch']} pictures, the teacher's output in memory; and an evaluation "
        f"of {found['students']} such students on {found['pictures']} PNG files, {found['batch']} at a time. Plain: the same in a few lines of torch, with an evaluation for each student. "
        f"Seconds of processor time, one thread, torch {found['torch']}. Both evaluations count the same. {cells.machine(found['machine'])}",
        "",
        *cells.table(
            ("work", "pictures", "ours (s)", "plain (s)", "ours / plain", "ours, largest tensor (MiB)", "plain"), table
        ),
        "",
    ]  # fmt: skip


def _loss_flops(report: Mapping[str, Any], aims: cells.Aims) -> list[str]:
    """Operations of each loss, a column for each pair."""
    rows = report["rows"]
    pairs = {(row["teacher"], row["student"]): row for row in rows}
    by_loss: dict[str, list[str]] = {
        "student, forward and backward": [f"{row['student_tflop']:.2f}" for row in pairs.values()],
        "teacher, forward": [f"{row['teacher_tflop']:.2f}" for row in pairs.values()],
    }
    for row in rows:
        by_loss.setdefault(row["loss"], []).append(f"{row['tflop']:.2f}")
    return [
        "## Operations of the losses",
        "",
        f"TFLOP of a step's loss, forward and backward: {report['batch']} crops of {report['height']}×{report['width']}, "
        f"{report['classes']} classes. Counted by formula, as in `--dry-run`; tests compare the formulas with the operators "
        "that a step runs. Losses that are not in the table have neither convolutions nor matrix products. Up to version 0.1.0 "
        "`cirkd` was not pooled, and all of it was computed in float32; now convolutions and most matrix products have the "
        "recipe's precision.",
        "",
        *cells.table(
            ("loss", *(f"{teacher} → {student}" for teacher, student in pairs)),
            [[loss, *values] for loss, values in by_loss.items()],
        ),
        "",
    ]


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
    "real_size": _real_size,
    "loss_flops": _loss_flops,
    "gpu_budgets": gpu_section,
}
"""Sections of the page, by the name of their report, in order."""


if __name__ == "__main__":
    write(PAGE)
