"""The sections of `docs/performance.md` with the results of `benchmarks/sweep.py`."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import cells

OURS = ("ours", "views", "again")
HEAVY, COUNTED, NOT_COUNTED, OF_BOUND, MEMORY = 4.0, 5.0, 3.5, 0.85, 1 / 3


def sweep_section(sweep: Mapping[str, Any], aims: cells.Aims) -> list[str]:
    return [
        "## One sweep run in three ways",
        "",
        *_measured(sweep),
        *_sides(sweep),
        *_ratios(sweep, aims),
        "## Where the time goes",
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
        f"The variants are those above. In *views* the stream repeats after {sweep['views']} views of each picture.",
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
        "* **plain**: the pattern of Ray's documentation, [benchmarks/plain_sweep.py](../benchmarks/plain_sweep.py): each Tune trial creates a `TorchTrainer` "
        "with its own loader and teacher, with one CPU and one thread; as many trials run at a time as there are cores.",
        f"* **ours**: `python -m orchestrator.sweep`, {cells.counted(sweep['workers'], 'worker')} of {cells.counted(sweep['threads'], 'thread')}"
        + (", which divide the students (`compute.parallelism: students`)." if sweep["workers"] > 1 else "."),
        "* **views** (of the longer sweep below): ours with a stream that repeats after a few views of each picture (`augmentation.views`), and with a cache of the teacher's "
        "outputs (`operation.teacher_outputs`) that is empty at the start.",
        "* **again**: ours once more, with the teacher's outputs that an earlier run has cached (`operation.teacher_outputs`).",
        f"* **bound**: the students' steps and nothing else, with batches and teacher outputs in memory ([benchmarks/bound.py](../benchmarks/bound.py)): in one process "
        f"of {cells.counted(sweep['workers'] * sweep['threads'], 'thread')}, and divided among {sweep['workers']} processes of "
        f"{cells.counted(sweep['threads'], 'thread')}. The faster of the two is the bound. Where this page gives the time of a student's step, it is that in one process.",
        "",
        "With start-up counted, the time is that of the whole command; for ours it includes scoring the teacher, the gallery and the board. Otherwise it is the time "
        "from the first student's first step to the last student's scores (for plain: the sum of the trials' own times, divided by how many train at a time).",
        "",
        *_table(sweep),
    ]


def _table(sweep: Mapping[str, Any]) -> list[str]:
    """Speed and memory of every variant."""
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
        ("pair", "variant", "samples per second, start-up counted", "start-up not counted", "seconds of the command", "peak memory (MiB)"), table
    ), ""]  # fmt: skip


def _ratios(sweep: Mapping[str, Any], aims: cells.Aims) -> list[str]:
    """Ours, and its variants that read teacher outputs, compared with plain and bound."""
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
        "pair", "variant", "speed / plain, start-up counted", "start-up not counted", "/ bound", "possible / bound", "memory / plain's",
        "memory / plain's with all trials at once",
    )  # fmt: skip
    return [*cells.table(header, table), "",
            "*Possible / bound*: the speed that would be left if, beside the students' steps, only one teacher pass and one batch per step took time.", ""]  # fmt: skip


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
    return [*cells.table(("seconds of *ours*", *pairs), table), ""]


def _bound_seconds(sweep: Mapping[str, Any], bound: cells.Rows) -> str:
    return cells.interval([sweep["steps"] * _students_ms(sweep, row) / 1000 for row in bound])


def _memory(sweep: Mapping[str, Any]) -> list[str]:
    """Memory of each process at the peak, in the first repeat of the last pair."""
    pair, sides = list(sweep["pairs"].items())[-1]
    lines = [
        "## Where memory goes",
        "",
        f"Pair {pair}, at the peak of a repeat: processes by name.{_former_name(sides)}",
        "",
    ]
    table = [
        [side, name, str(count), str(mib)]
        for side in ("plain", "ours")
        for name, (count, mib) in sides[side][0]["processes"].items()
        if mib >= 20
    ]
    return [*lines, *cells.table(("variant", "processes", "how many", "MiB"), table), ""]


def _former_name(sides: Mapping[str, cells.Rows]) -> str:
    named = "ray::Office" in sides["ours"][0]["processes"]
    return " `ray::Office` is the coordinator, under its name when this was measured." if named else ""


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
    header = ("distilled students", "ours, samples per second", "/ bound of 8 trials", "seconds of the command", "peak memory (MiB)")  # fmt: skip
    return [
        "## Number of students",
        "",
        f"Pair {curve['pair']}; as in every sweep, the student alone is trained with the distilled students, and its samples count. The rates do not count start-up. One run each.",
        "",
        *cells.table(header, table),
        "",
    ]
