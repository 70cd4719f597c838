"""`docs/performance.md` out of what the benchmarks beside it wrote: `python benchmarks/performance.py`."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "performance.md"
HEAVY, COUNTED, NOT_COUNTED, OF_BOUND, MEMORY, OVERHEAD, START = 4.0, 5.0, 3.5, 0.85, 1 / 3, 1.5, 1.5

Aims = list[tuple[str, float, bool]]
Rows = Sequence[Mapping[str, Any]]


def write(page: Path, **reports: Path) -> None:
    """Writes the page. A report that is not given is the one beside this file, if there is one."""
    found = {name: _read(reports.get(name, HERE / f"{name}.json")) for name in SECTIONS}
    page.write_text(performance_page(found), encoding="utf-8")


def _read(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def performance_page(reports: Mapping[str, Mapping[str, Any] | None]) -> str:
    """The page's text; the same results give the same text. What was not measured is left out."""
    aims: Aims = []
    body: list[str] = []
    for name, section in SECTIONS.items():
        report = reports.get(name)
        if report is not None:
            body += section(report, aims)
    verdicts = _table(
        ("aim", "came out", "met"), ([text, f"{value:.2f}", "yes" if met else "no"] for text, value, met in aims)
    )  # fmt: skip
    return "\n".join([*_INTRODUCTION, *verdicts, "", *body]) + "\n"


_INTRODUCTION = """# What a trial costs

Everything on this page is written by commands, from what they measured:

```sh
python benchmarks/sweep.py        # the same sweep three ways
python benchmarks/dead_time.py    # before the first step, and between waves
python benchmarks/stacked.py      # students stepped together beside one after the other
python benchmarks/workers.py      # two data-parallel workers beside one
python benchmarks/scale.py        # book-keeping for many trials beside bare Ray Tune; --trials 10000 for the largest
python benchmarks/many_nodes.py   # a plan larger than a cluster of 64 nodes that only say what they have
```

Figures are medians, with the smallest and the largest of the repeats in brackets. Ratios are taken within a repeat, whose
sides follow each other, and then their median. A load average before the start that is not near 0 means that other work
was running: such figures are worth little.

""".splitlines()


def _sweep(sweep: Mapping[str, Any], aims: Aims) -> list[str]:
    return [*_sides(sweep, aims), *_parts(sweep), *_memory(sweep), *_curve(sweep)]


def _sides(sweep: Mapping[str, Any], aims: Aims) -> list[str]:
    machine, versions = sweep["machine"], sweep["versions"]
    pairs: Mapping[str, Mapping[str, Rows]] = sweep["pairs"]
    lines = [
        "## The same sweep three ways",
        "",
        f"{sweep['trials']} trials of one pair, {sweep['steps']} steps of {sweep['batch']} pictures of 64×64 each: the student alone, and "
        f"distillation under {sweep['trials'] - 1} settings; nothing is searched or pruned. The student is `{sweep['student']}`. {machine['cpus']} "
        f"{machine['machine']} cores, no GPU, load average {machine['load_before']:g} before the start, {_count(sweep['repeats'], 'repeat')}, "
        f"{sweep['minutes']:g} minutes in all, Ray {versions['ray']}, torch {versions['torch']}.",
        "",
        "* **plain**: the pattern of Ray's documentation, [benchmarks/plain_sweep.py](../benchmarks/plain_sweep.py): a Tune trial makes a `TorchTrainer` "
        "with a loader and a teacher of its own; one CPU and one thread each, as many at once as there are cores.",
        f"* **ours**: `python -m orchestrator.sweep`, {_count(sweep['workers'], 'worker')} of {_count(sweep['threads'], 'thread')}.",
        "* **again**: ours once more, on a machine that kept what the teacher said in an earlier run (`operation.teacher_outputs`).",
        f"* **bound**: nothing but the students' steps, in one process of {_count(sweep['workers'] * sweep['threads'], 'thread')}, batches and teacher outputs "
        "in memory ([benchmarks/bound.py](../benchmarks/bound.py)). Students on cores of their own may be faster than one on several threads.",
        "",
        "Start-up counted: the whole command, which for ours scores the teacher and makes gallery and board too. Not counted: from the first "
        "student's first step to the last one's scores (plain: the trials' own spans, over how many train at once).",
        "",
    ]
    table = []
    for pair, sides in pairs.items():
        lines.append(
            f"Pair {pair}: teacher `{sweep['teachers'][pair]}`, whose forward takes {_teacher_ratio(sides['bound']):.1f} times a student's step."
        )
        for side in ("plain", "ours", "again"):
            found = sides[side]
            table.append([
                pair, side, _spread(found, "samples_per_second"), _spread(found, "samples_per_second_training"), _spread(found, "seconds"),
                _spread(found, "peak_mib", 0),
            ])  # fmt: skip
        table.append([pair, "bound", "", _spread(sides["bound"], "samples_per_second"), "", ""])
        crowded = sweep["all_at_once"][pair]
        table.append(
            [
                f"{pair}, {crowded['steps']} steps",
                f"plain, {crowded['at_once']} trials at once",
                "",
                "",
                "",
                f"{crowded['peak_mib']:.0f}",
            ]
        )
    lines += ["", *_table(
        ("pair", "side", "samples per second, start-up counted", "not counted", "seconds of the command", "peak memory (MiB)"), table
    ), ""]  # fmt: skip
    ratios = []
    for pair, sides in pairs.items():
        counted = _ratios(sides["ours"], sides["plain"], "samples_per_second")
        not_counted = _ratios(sides["ours"], sides["plain"], "samples_per_second_training")
        of_bound, again_of_bound = (
            [
                mine["samples_per_second_training"] / bound["samples_per_second"]
                for mine, bound in zip(sides[side], sides["bound"], strict=True)
            ]
            for side in ("ours", "again")
        )
        memory = _ratios(sides["ours"], sides["plain"], "peak_mib")
        crowded = sweep["all_at_once"][pair]
        all_at_once = [row["peak_mib"] / crowded["peak_mib"] for row in sides["ours"]]
        ratios.append(
            [pair, *(_range(values) for values in (counted, not_counted, of_bound)), f"{_ceiling(sweep, sides['bound']):.2f}",
             _range(again_of_bound), _range(memory), _range(all_at_once)]
        )  # fmt: skip
        if pair == "heavy":
            teacher = _teacher_ratio(sides["bound"])
            aims.append(
                ("heavy pair: teacher's forward / student's step, at least 4", teacher, teacher >= HEAVY)
            )
            _at_least(aims, f"{pair} pair: ours / plain, start-up counted, at least 5", counted, COUNTED)
            _at_least(
                aims,
                f"{pair} pair: ours / plain, start-up not counted, at least 3.5",
                not_counted,
                NOT_COUNTED,
            )
        _at_least(aims, f"{pair} pair: ours / bound, at least 0.85", of_bound, OF_BOUND)
        _at_least(aims, f"{pair} pair: the same where teacher outputs were kept", again_of_bound, OF_BOUND)
        for beside, values in (
            ("plain", memory),
            (f"plain with {crowded['at_once']} trials at once", all_at_once),
        ):
            middle = statistics.median(values)
            aims.append(
                (f"{pair} pair: peak memory, ours / {beside}, at most 0.33", middle, middle <= MEMORY)
            )
    header = (
        "pair",
        "ours / plain, start-up counted",
        "not counted",
        "ours / bound",
        "of that possible",
        "again / bound",
        "memory, ours / plain",
        "plain with all trials at once",
    )
    return [*lines, *_table(header, ratios), "",
            "*Of that possible*: what one teacher pass and one batch per step leave of the bound if nothing else took time.", ""]  # fmt: skip


def _at_least(aims: Aims, text: str, values: Sequence[float], wanted: float) -> None:
    middle = statistics.median(values)
    aims.append((text, middle, middle >= wanted))


def _teacher_ratio(bound: Rows) -> float:
    return statistics.median(row["teacher_ms"] / row["student_ms"] for row in bound)


def _ceiling(sweep: Mapping[str, Any], bound: Rows) -> float:
    return statistics.median(
        sweep["trials"] * row["student_ms"]
        / (sweep["trials"] * row["student_ms"] + row["teacher_ms"] + row["data_ms"])
        for row in bound
    )  # fmt: skip


def _parts(sweep: Mapping[str, Any]) -> list[str]:
    """Where the command's seconds go."""
    pairs: Mapping[str, Mapping[str, Rows]] = sweep["pairs"]
    names = list(next(iter(pairs.values()))["ours"][0]["parts"])
    table = [
        [name, *(_spread([row["parts"] for row in sides["ours"]], name) for sides in pairs.values())] for name in names
    ]  # fmt: skip
    table += [
        ["for comparison, bound: students' steps", *(_bound_seconds(sweep, sides["bound"]) for sides in pairs.values())],
        ["plain: start-up per trial", *(_spread(sides["plain"], "start_seconds_per_trial") for sides in pairs.values())],
    ]  # fmt: skip
    return ["## Where our seconds go", "", *_table(("seconds", *pairs), table), ""]


def _bound_seconds(sweep: Mapping[str, Any], bound: Rows) -> str:
    steps = sweep["trials"] * sweep["steps"]
    return _range([steps * row["student_ms"] / 1000 for row in bound])


def _memory(sweep: Mapping[str, Any]) -> list[str]:
    """Which processes hold the memory at the peak, in the first repeat of the last pair."""
    pair, sides = list(sweep["pairs"].items())[-1]
    lines = ["## Where memory goes", "", f"Pair {pair}, at the peak of a repeat: processes by name.", ""]
    table = [
        [side, name, str(count), str(mib)]
        for side in ("plain", "ours")
        for name, (count, mib) in sides[side][0]["processes"].items()
        if mib >= 20
    ]
    return [*lines, *_table(("side", "processes", "how many", "MiB"), table), ""]


def _curve(sweep: Mapping[str, Any]) -> list[str]:
    curve = sweep["curve"]
    table = []
    bound = statistics.median(row["samples_per_second"] for row in sweep["pairs"][curve["pair"]]["bound"])
    for taught, found in curve["taught"].items():
        mine = found["samples_per_second_training"]
        table.append([
            taught, f"{mine:.1f}", f"{mine / bound:.2f}", f"{found['seconds']:.1f}", f"{found['peak_mib']:.0f}",
        ])  # fmt: skip
    header = ("taught seats", "ours, samples per second", "over the bound of 8 trials", "seconds of the command", "peak memory (MiB)")  # fmt: skip
    return [
        "## Seats",
        "",
        f"Pair {curve['pair']}; beside the taught students sits the student alone, as in every sweep, and counts. Start-up is not counted in the rates. One run each.",
        "",
        *_table(header, table),
        "",
    ]


def _dead_time(found: Mapping[str, Any], aims: Aims) -> list[str]:
    start, between = found["start"], found["between_waves"]
    aims.append(
        ("from the command to the first training step, over what starting Ray, a TorchTrainer, torch and timm takes, at most 1.5",
         start["ratio"], start["ratio"] <= START)
    )  # fmt: skip
    lines = [
        "## Time in which nothing is trained",
        "",
        f"{_where(found['machine'])} From the command to the first trial's seat: {_range(start['seconds'], 1)} s; Ray, one `TorchTrainer` of one worker, "
        f"torch and timm there, and nothing else: {_range(start['bare_seconds'], 1)} s.",
        "",
    ]
    if between is not None:
        waited = between["to_last_seat"]
        aims.append(
            ("seconds from the end of a wave to the last seat of the next, at most 1", waited, waited <= 1)
        )
        lines += [
            f"Between two waves of a cohort, median of {between['waves']} in a run of the preset `scenes`, 15 or 16 students each: {between['to_first_seat']:.2f} s "
            f"until the first of the next wave has its seat, {waited:.2f} s until the last one has.",
            "",
        ]
    return lines


def _workers(found: Mapping[str, Any], aims: Aims) -> list[str]:
    table = [
        [pair, _range(sides["training_seconds"]["1"], 1), _range(sides["training_seconds"]["2"], 1),
         _range(sides["speed_up"]), f"{sides['efficiency']:.2f}"]
        for pair, sides in found["pairs"].items()
    ]  # fmt: skip
    return [
        "## A second data-parallel worker",
        "",
        f"The sweep above, {found['steps']} steps, by one worker of one thread and by two with half of each batch. {_where(found['machine'])}",
        "",
        *_table(("pair", "1 worker, seconds", "2 workers, seconds", "speed-up", "efficiency"), table),
        "",
    ]


def _many_nodes(found: Mapping[str, Any], aims: Aims) -> list[str]:
    return [
        "## A plan larger than the cluster",
        "",
        f"{found['nodes']} nodes of 4 CPUs and a GPU each, all of them Ray daemons on one machine and none with what it says. {found['cohorts']} cohorts of one "
        f"GPU, {found['trials']} trials, {found['wave']} of a cohort at once, placed as a sweep places them; a wave is answered after some seconds and not trained. {_where(found['machine'])}",
        "",
        f"All came to an end; no plan waited for itself. Beside the answers there are {found['nodes']} nodes' daemons to run and a process to start for every trial "
        f"and every cohort, by {found['machine']['cpus']} cores: what that costs on a head with nodes elsewhere is not in these figures.",
        "",
        *_table(
            ("cohorts at once, at most", "nodes used", "seconds", "if nothing cost anything", "ms per trial",
             "a node between two cohorts (s)", "driver's memory (MiB)"),
            [[str(found["cohorts_at_once"]), str(found["nodes_used"]), f"{found['seconds']:.0f}",
              f"{found['seconds_if_nothing_cost_anything']:.0f}", f"{found['ms_per_trial']:.0f}",
              f"{found['seconds_between_cohorts']:.1f}", f"{found['driver_start_mib']:.0f} → {found['driver_peak_mib']:.0f}"]],
        ),
        "",
    ]  # fmt: skip


def _stacked(found: Mapping[str, Any], aims: Aims) -> list[str]:
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
        f"{found['device'].upper() if found['device'] == 'cpu' else found['device']}, {_count(found['threads'], 'thread')}, torch {found['torch']}. "
        f"{_where(found['machine'])} It is not built into a cohort: a result would depend on its company, and where it is not faster "
        "there is nothing to weigh against that.",
        "",
        *_table(
            ("model", "students", "in turn (ms)", "stacked (ms)", "stacked is faster by", "gradients apart, relative to the largest"),
            table,
        ),
        "",
    ]  # fmt: skip


def _where(machine: Mapping[str, Any]) -> str:
    return f"{machine['cpus']} {machine['machine']} cores, load average {machine['load_before']:g} before the start."


def _scale(scale: Mapping[str, Any], aims: Aims) -> list[str]:
    by_side = {side: _by_size(scale["rows"], side) for side in ("bare", "ours")}
    table = []
    for count, mine in by_side["ours"].items():
        tune = by_side["bare"][count]
        ratios = _ratios(mine, tune, "ms_per_trial")
        table.append([
            str(count), _spread(mine, "ms_per_trial", 1), _spread(tune, "ms_per_trial", 1), _range(ratios),
            _tenths(mine), _tenths(tune), _memories(mine), _memories(tune),
        ])  # fmt: skip
    largest = max(by_side["ours"])
    overhead = statistics.median(_ratios(by_side["ours"][largest], by_side["bare"][largest], "ms_per_trial"))
    aims.append(
        (f"{largest} trials: time per trial, ours / bare Tune, at most 1.5", overhead, overhead <= OVERHEAD)
    )
    header = (
        "trials planned", "ours, ms per trial", "bare Tune", "ours / bare", "ours, first → last tenth", "bare, first → last tenth",
        "our driver's memory, start → peak (MiB)", "bare Tune's",
    )  # fmt: skip
    keeping = [
        [str(count), *(_spread(rows, key, digits) for key, digits in
                       (("plan_seconds", 2), ("ledger_files", 0), ("ledger_mib", 1), ("resume_seconds", 2), ("board_seconds", 1)))]
        for count, rows in by_side["ours"].items()
    ]  # fmt: skip
    machine = scale["machine"]
    return [
        "## Many trials that take no time",
        "",
        "The sweep's own book-keeping (searcher, scheduler, wave book, desk, ledger, progress), with a cohort that answers every wave at once; "
        "beside it Ray Tune with a function that returns at once, as many at a time, which records nothing. "
        f"{machine['cpus']} {machine['machine']} cores, load average {machine['load_before']:g} before the start; Ray's start is left out.",
        "",
        *_table(header, table),
        "",
        *_growth(by_side),
        *_table(
            ("trials planned", "planning (s)", "files of the ledger", "its size (MiB)", "reading it to resume (s)", "board (s)"), keeping
        ),
    ]  # fmt: skip


def _growth(by_side: Mapping[str, Mapping[int, Rows]]) -> list[str]:
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


def _by_size(rows: Rows, side: str) -> dict[int, list[Mapping[str, Any]]]:
    found: dict[int, list[Mapping[str, Any]]] = {}
    for row in rows:
        if row["side"] == side:
            found.setdefault(row["planned"], []).append(row)
    return dict(sorted(found.items()))


def _tenths(rows: Rows) -> str:
    return " → ".join(
        f"{statistics.median(row[key] for row in rows):.1f}" for key in ("ms_first_tenth", "ms_last_tenth")
    )


def _memories(rows: Rows) -> str:
    return " → ".join(
        f"{statistics.median(row[key] for row in rows):.0f}"
        for key in ("driver_start_mib", "driver_peak_mib")
    )


def _ratios(rows: Rows, others: Rows, key: str) -> list[float]:
    return [row[key] / other[key] for row, other in zip(rows, others, strict=True)]


def _spread(rows: Rows, key: str, digits: int = 1) -> str:
    return _range([row[key] for row in rows], digits)


def _range(values: Sequence[float], digits: int = 2) -> str:
    middle = f"{statistics.median(values):.{digits}f}"
    return middle if len(values) == 1 else f"{middle} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (header, ["---"] * len(header), *rows)]


SECTIONS: dict[str, Callable[[Mapping[str, Any], Aims], list[str]]] = {
    "sweep": _sweep,
    "dead_time": _dead_time,
    "stacked": _stacked,
    "workers": _workers,
    "scale": _scale,
    "many_nodes": _many_nodes,
}
"""What stands on the page, by the name of its report, in order."""


if __name__ == "__main__":
    write(PAGE)
