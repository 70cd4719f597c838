"""The sections of `docs/performance.md` that tell what `benchmarks/sweep.py` measured."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import cells

OURS = ("ours", "views", "again")
HEAVY, COUNTED, NOT_COUNTED, OF_BOUND, MEMORY = 4.0, 5.0, 3.5, 0.85, 1 / 3


def sweep_section(sweep: Mapping[str, Any], aims: cells.Aims) -> list[str]:
    return [
        "## The same sweep three ways",
        "",
        *_measured(sweep),
        *_sides(sweep),
        *_ratios(sweep, aims),
        "## Where our seconds go",
        "",
        *_parts(sweep),
        *_memory(sweep),
        *_curve(sweep),
    ]


def long_section(sweep: Mapping[str, Any], aims: cells.Aims) -> list[str]:
    return [
        "## A longer sweep",
        "",
        *_measured(sweep),
        f"The sides are those above; the stream that comes round has {sweep['views']} views of each picture.",
        "",
        *_table(sweep),
        *_ratios(sweep, aims),
        *_parts(sweep),
    ]


def _measured(sweep: Mapping[str, Any]) -> list[str]:
    machine, versions = sweep["machine"], sweep["versions"]
    return [
        f"{sweep['trials']} trials of one pair, {sweep['steps']} steps of {sweep['batch']} pictures of 64×64 each: the student alone, and "
        f"distillation under {sweep['trials'] - 1} settings; nothing is searched or pruned. The student is `{sweep['student']}`. {machine['cpus']} "
        f"{machine['machine']} cores, no GPU, load average {machine['load_before']:g} before the start, {cells.counted(sweep['repeats'], 'repeat')}, "
        f"{sweep['minutes']:g} minutes in all, Ray {versions['ray']}, torch {versions['torch']}.",
        "",
    ]


def _sides(sweep: Mapping[str, Any]) -> list[str]:
    return [
        "* **plain**: the pattern of Ray's documentation, [benchmarks/plain_sweep.py](../benchmarks/plain_sweep.py): a Tune trial makes a `TorchTrainer` "
        "with a loader and a teacher of its own; one CPU and one thread each, as many at once as there are cores.",
        f"* **ours**: `python -m orchestrator.sweep`, {cells.counted(sweep['workers'], 'worker')} of {cells.counted(sweep['threads'], 'thread')}"
        + (", which divide the students (`compute.parallelism: students`)." if sweep["workers"] > 1 else "."),
        "* **views** (of the longer sweep below): ours with a stream of few views of each picture that comes round (`augmentation.views`), and what the teacher says kept "
        "from the first round on (`operation.teacher_outputs`), in a folder that is empty before.",
        "* **again**: ours once more, on a machine that kept what the teacher said in an earlier run (`operation.teacher_outputs`).",
        f"* **bound**: nothing but the students' steps, batches and teacher outputs in memory ([benchmarks/bound.py](../benchmarks/bound.py)): in one process "
        f"of {cells.counted(sweep['workers'] * sweep['threads'], 'thread')}, and divided among {sweep['workers']} processes of "
        f"{cells.counted(sweep['threads'], 'thread')}. The faster of the two is the bound; a student's step below is that in one process.",
        "",
        "Start-up counted: the whole command, which for ours scores the teacher and makes gallery and board too. Not counted: from the first "
        "student's first step to the last one's scores (plain: the trials' own spans, over how many train at once).",
        "",
        *_table(sweep),
    ]


def _table(sweep: Mapping[str, Any]) -> list[str]:
    """What every side took."""
    lines, table = [], []
    for pair, sides in sweep["pairs"].items():
        lines.append(
            f"Pair {pair}: teacher `{sweep['teachers'][pair]}`, whose forward takes {_teacher_ratio(sides['bound']):.1f} times a student's step."
        )
        for side in (side for side in ("plain", *OURS) if side in sides):
            found = sides[side]
            table.append([
                pair, side, cells.spread(found, "samples_per_second"), cells.spread(found, "samples_per_second_training"), cells.spread(found, "seconds"),
                cells.spread(found, "peak_mib", 0),
            ])  # fmt: skip
        for side, rate in (("bound, one process", "one_process"), ("bound, divided", "divided")):
            table.append([pair, side, "", cells.spread(sides["bound"], rate), "", ""])
        if crowded := sweep["all_at_once"].get(pair):
            named = (f"{pair}, {crowded['steps']} steps", f"plain, {crowded['at_once']} trials at once")
            table.append([*named, "", "", "", f"{crowded['peak_mib']:.0f}"])
    return [*lines, "", *cells.table(
        ("pair", "side", "samples per second, start-up counted", "not counted", "seconds of the command", "peak memory (MiB)"), table
    ), ""]  # fmt: skip


def _ratios(sweep: Mapping[str, Any], aims: cells.Aims) -> list[str]:
    """Ours, and the ways in which its teacher need not compute, beside plain and bound."""
    table = []
    for pair, sides in sweep["pairs"].items():
        plain, bound, crowded = sides["plain"], sides["bound"], sweep["all_at_once"].get(pair)
        if pair == "heavy":
            teacher = _teacher_ratio(bound)
            aims.append(
                (
                    f"heavy pair, {sweep['steps']} steps: teacher's forward / student's step, at least 4",
                    teacher,
                    teacher >= HEAVY,
                )
            )
        for side in (side for side in OURS if side in sides):
            mine = sides[side]
            counted, not_counted = (
                cells.ratios(mine, plain, rate)
                for rate in ("samples_per_second", "samples_per_second_training")
            )
            of_bound = [
                one["samples_per_second_training"] / other["samples_per_second"]
                for one, other in zip(mine, bound, strict=True)
            ]
            memory = cells.ratios(mine, plain, "peak_mib")
            beside = [row["peak_mib"] / crowded["peak_mib"] for row in mine] if crowded else []
            table.append([
                pair, side, cells.interval(counted), cells.interval(not_counted), cells.interval(of_bound),
                f"{_ceiling(sweep, bound):.2f}" if side == "ours" else "", cells.interval(memory),
                cells.interval(beside) if crowded else "",
            ])  # fmt: skip
            name = f"{pair} pair, {sweep['steps']} steps: {side}"
            if pair == "heavy":
                _at_least(aims, f"{name} / plain, start-up counted, at least 5", counted, COUNTED)
                _at_least(aims, f"{name} / plain, start-up not counted, at least 3.5", not_counted, NOT_COUNTED)  # fmt: skip
            _at_least(aims, f"{name} / bound, at least 0.85", of_bound, OF_BOUND)
            if side != "ours":
                continue
            _at_most_a_third(aims, f"{name} / plain", memory)
            if crowded:
                _at_most_a_third(aims, f"{name} / plain with {crowded['at_once']} trials at once", beside)
    header = (
        "pair", "side", "/ plain, start-up counted", "not counted", "/ bound", "of that possible", "memory / plain's",
        "/ plain's with all trials at once",
    )  # fmt: skip
    return [*cells.table(header, table), "",
            "*Of that possible*: what one teacher pass and one batch per step leave of the bound if nothing else took time.", ""]  # fmt: skip


def _at_most_a_third(aims: cells.Aims, beside: str, memory: Sequence[float]) -> None:
    middle = statistics.median(memory)
    aims.append((f"{beside}: peak memory, at most 0.33", middle, middle <= MEMORY))


def _at_least(aims: cells.Aims, text: str, values: Sequence[float], wanted: float) -> None:
    middle = statistics.median(values)
    aims.append((text, middle, middle >= wanted))


def _teacher_ratio(bound: cells.Rows) -> float:
    return statistics.median(row["teacher_ms"] / row["student_ms"] for row in bound)


def _ceiling(sweep: Mapping[str, Any], bound: cells.Rows) -> float:
    return statistics.median(
        _students_ms(sweep, row) / (_students_ms(sweep, row) + row["teacher_ms"] + row["data_ms"])
        for row in bound
    )


def _students_ms(sweep: Mapping[str, Any], bound: Mapping[str, float]) -> float:
    """What one step of all students takes at the bound."""
    return 1000 * sweep["trials"] * sweep["batch"] / bound["samples_per_second"]


def _parts(sweep: Mapping[str, Any]) -> list[str]:
    """Where the command's seconds go."""
    pairs: Mapping[str, Mapping[str, cells.Rows]] = sweep["pairs"]
    names = list(next(iter(pairs.values()))["ours"][0]["parts"])
    table = [
        [name, *(cells.spread([row["parts"] for row in sides["ours"]], name) for sides in pairs.values())] for name in names
    ]  # fmt: skip
    table += [
        ["for comparison, bound: students' steps", *(_bound_seconds(sweep, sides["bound"]) for sides in pairs.values())],
        ["plain: start-up per trial", *(cells.spread(sides["plain"], "start_seconds_per_trial") for sides in pairs.values())],
    ]  # fmt: skip
    return [*cells.table(("seconds of ours", *pairs), table), ""]


def _bound_seconds(sweep: Mapping[str, Any], bound: cells.Rows) -> str:
    return cells.interval([sweep["steps"] * _students_ms(sweep, row) / 1000 for row in bound])


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
    return [*lines, *cells.table(("side", "processes", "how many", "MiB"), table), ""]


def _curve(sweep: Mapping[str, Any]) -> list[str]:
    curve = sweep["curve"]
    if not curve["taught"]:
        return []
    table = []
    bound = statistics.median(row["samples_per_second"] for row in sweep["pairs"][curve["pair"]]["bound"])
    for taught, found in curve["taught"].items():
        mine = found["samples_per_second_training"]
        table.append([
            taught, f"{mine:.1f}", f"{mine / bound:.2f}", f"{found['seconds']:.1f}", f"{found['peak_mib']:.0f}",
        ])  # fmt: skip
    header = ("taught students", "ours, samples per second", "over the bound of 8 trials", "seconds of the command", "peak memory (MiB)")  # fmt: skip
    return [
        "## Seats",
        "",
        f"Pair {curve['pair']}; beside the taught students sits the student alone, as in every sweep, and counts. Start-up is not counted in the rates. One run each.",
        "",
        *cells.table(header, table),
        "",
    ]
