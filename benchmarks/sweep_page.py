"""The sections of `docs/performance.md` that tell what `benchmarks/sweep.py` measured."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import cells

HEAVY, COUNTED, NOT_COUNTED, OF_BOUND, MEMORY = 4.0, 5.0, 3.5, 0.85, 1 / 3


def sweep_section(sweep: Mapping[str, Any], aims: cells.Aims) -> list[str]:
    return [*_sides(sweep, aims), *_parts(sweep), *_memory(sweep), *_curve(sweep)]


def _sides(sweep: Mapping[str, Any], aims: cells.Aims) -> list[str]:
    machine, versions = sweep["machine"], sweep["versions"]
    pairs: Mapping[str, Mapping[str, cells.Rows]] = sweep["pairs"]
    lines = [
        "## The same sweep three ways",
        "",
        f"{sweep['trials']} trials of one pair, {sweep['steps']} steps of {sweep['batch']} pictures of 64×64 each: the student alone, and "
        f"distillation under {sweep['trials'] - 1} settings; nothing is searched or pruned. The student is `{sweep['student']}`. {machine['cpus']} "
        f"{machine['machine']} cores, no GPU, load average {machine['load_before']:g} before the start, {cells.counted(sweep['repeats'], 'repeat')}, "
        f"{sweep['minutes']:g} minutes in all, Ray {versions['ray']}, torch {versions['torch']}.",
        "",
        "* **plain**: the pattern of Ray's documentation, [benchmarks/plain_sweep.py](../benchmarks/plain_sweep.py): a Tune trial makes a `TorchTrainer` "
        "with a loader and a teacher of its own; one CPU and one thread each, as many at once as there are cores.",
        f"* **ours**: `python -m orchestrator.sweep`, {cells.counted(sweep['workers'], 'worker')} of {cells.counted(sweep['threads'], 'thread')}"
        + (", which divide the students (`compute.divide: students`)." if sweep["workers"] > 1 else "."),
        "* **again**: ours once more, on a machine that kept what the teacher said in an earlier run (`operation.teacher_outputs`).",
        f"* **bound**: nothing but the students' steps, batches and teacher outputs in memory ([benchmarks/bound.py](../benchmarks/bound.py)): in one process "
        f"of {cells.counted(sweep['workers'] * sweep['threads'], 'thread')}, and divided among {sweep['workers']} processes of "
        f"{cells.counted(sweep['threads'], 'thread')}. The faster of the two is the bound; a student's step below is that in one process.",
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
            if side not in sides:
                continue
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
    lines += ["", *cells.table(
        ("pair", "side", "samples per second, start-up counted", "not counted", "seconds of the command", "peak memory (MiB)"), table
    ), ""]  # fmt: skip
    ratios = []
    for pair, sides in pairs.items():
        counted = cells.ratios(sides["ours"], sides["plain"], "samples_per_second")
        not_counted = cells.ratios(sides["ours"], sides["plain"], "samples_per_second_training")
        of_bound, again_of_bound = (
            [
                mine["samples_per_second_training"] / bound["samples_per_second"]
                for mine, bound in zip(sides.get(side, ()), sides["bound"], strict=side in sides)
            ]
            for side in ("ours", "again")
        )
        memories = {"plain": cells.ratios(sides["ours"], sides["plain"], "peak_mib")}
        if crowded := sweep["all_at_once"].get(pair):
            beside = f"plain with {crowded['at_once']} trials at once"
            memories[beside] = [row["peak_mib"] / crowded["peak_mib"] for row in sides["ours"]]
        columns = (counted, not_counted, of_bound, again_of_bound, *memories.values())
        texts = [cells.interval(values) if values else "" for values in columns]
        texts += [""] * (6 - len(texts))
        ratios.append([pair, *texts[:3], f"{_ceiling(sweep, sides['bound']):.2f}", *texts[3:]])
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
        if again_of_bound:
            kept = f"{pair} pair: the same where teacher outputs were kept"
            _at_least(aims, kept, again_of_bound, OF_BOUND)
        for beside, values in memories.items():
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
    return [*lines, *cells.table(header, ratios), "",
            "*Of that possible*: what one teacher pass and one batch per step leave of the bound if nothing else took time.", ""]  # fmt: skip


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
    return ["## Where our seconds go", "", *cells.table(("seconds", *pairs), table), ""]


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
    header = ("taught seats", "ours, samples per second", "over the bound of 8 trials", "seconds of the command", "peak memory (MiB)")  # fmt: skip
    return [
        "## Seats",
        "",
        f"Pair {curve['pair']}; beside the taught students sits the student alone, as in every sweep, and counts. Start-up is not counted in the rates. One run each.",
        "",
        *cells.table(header, table),
        "",
    ]
