"""Computes the boards from the tables: one per data set, protocol, steps or seconds, and set of recipes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from orchestrator.leaderboard.comparison import Comparison, Standing, compare
from orchestrator.leaderboard.entries import (
    FAILED,
    NEVER_FOUND,
    OFF_PROTOCOL,
    OTHER_BUDGET,
    UNCOMMITTED,
    Board,
    BoardRow,
    Cell,
    PairSummary,
)
from orchestrator.leaderboard.groups import Group, groups_of
from orchestrator.leaderboard.missing import missing_entries, notes_of, other_budgets, unfinished_studies
from orchestrator.leaderboard.planned import Bounds, Spaces
from orchestrator.leaderboard.run_records import ModelRecord, RunRecords, TrialRecord
from orchestrator.leaderboard.scores import Estimate, Scores, final_score, pair_miou, score_table

# A parameter value this close to an end of its range, as a share of the range, is flagged.
EDGE = 0.05


def build_boards(records: RunRecords, spaces: Spaces | None = None) -> tuple[Board, ...]:
    """All boards of the records. `spaces` (method → parameter → bounds) replaces the search spaces of the configs."""
    return tuple(_board(records, group, spaces) for group in groups_of(records))


def _board(records: RunRecords, group: Group, spaces: Spaces | None) -> Board:
    scores = score_table(group.finals, group.baseline, records.counts)
    reached = {pair: _teacher_miou(records, group, pair) for pair in scores.pairs}
    teachers = {pair: miou for pair, miou in reached.items() if miou is not None}
    unfinished = unfinished_studies(records, group)
    comparison = compare(scores, teachers, {study.method for study in unfinished})
    on_pair = {
        pair: compare(
            scores.on(pair),
            teachers,
            {study.method for study in unfinished if study.pair == pair},
            families=len(group.planned_pairs),
        )
        for pair in scores.pairs
    }
    spaces = spaces or group.spaces
    cells = {
        (pair, method): _cell(records, group, scores, on_pair.get(pair), pair, method, spaces.get(method, {}))
        for pair in group.pairs
        for method in group.methods
    }
    pairs = tuple(_pair_summary(records, group, scores, pair) for pair in group.pairs)
    standings = {standing.method: standing for standing in comparison.standings}
    rows = [
        _row(records, group, scores, pairs, cells, method, standings.get(method)) for method in group.methods
    ]
    order = {standing.method: place for place, standing in enumerate(comparison.standings)}
    rows.sort(key=lambda row: (order.get(row.method, len(order)), row.method))
    trials = [cell.trials for cell in cells.values()] or [0]
    provenance = _provenance(records, group)
    return Board(
        dataset=group.dataset,
        protocol=group.protocol,
        compare=group.compare,
        rows=tuple(rows),
        pairs=pairs,
        cells=cells,
        comparison=comparison,
        baseline=scores.baseline,
        seeds=scores.seeds,
        searches=scores.searches,
        trials=(min(trials), max(trials)),
        selections=tuple(sorted(frozenset().union(*group.selections.values()))),
        gpu_hours=math.fsum(trial.gpu_seconds or 0.0 for trial in (*group.trials, *group.teachers)) / 3600,
        hours_unit=_hours_unit(group),
        missing=missing_entries(group, scores),
        unfinished=unfinished,
        notes=(*notes_of(records, group, scores), *_unfound_notes(pairs)),
        commands=tuple(
            dict.fromkeys(records.provenance[i].command for ids in provenance.values() for i in ids)
        ),
        provenance=provenance,
        spaces=spaces,
        adaptive=any(plan.adaptive for plan in group.plans),
    )


def _row(
    records: RunRecords,
    group: Group,
    scores: Scores,
    pairs: Sequence[PairSummary],
    cells: Mapping[tuple[str, str], Cell],
    method: str,
    standing: Standing | None,
) -> BoardRow:
    mine = {pair: cells[pair, method] for pair in group.pairs}
    gain = _gain(scores, standing)
    against = standing.gain if standing else None
    runs = [run for key, run in group.finals.items() if key[0] == method]
    finished = [run for run in runs if run.status == "ok"]
    trials = [cell.trials for cell in mine.values()]
    spent = [t.gpu_seconds for t in group.trials if t.method == method and t.gpu_seconds is not None]
    memory = [run.peak_memory_bytes for run in finished if run.peak_memory_bytes is not None]
    over_images = against.over_images if against else None
    rank = standing.rank if standing and group.protocol == "clean" else (None, None)
    closed = standing.gap_closed if standing else None
    return BoardRow(
        dataset=group.dataset,
        protocol=group.protocol,
        recipe=" ".join(sorted(set(group.recipes.values()))),
        rank_low=rank[0],
        rank_high=rank[1],
        method=method,
        family=group.families[method],
        marks=_marks(records, group, runs, tuple(mine.values())),
        miou=standing.miou.mean if standing else None,
        miou_low=standing.miou.low if standing else None,
        miou_high=standing.miou.high if standing else None,
        gain=gain.mean if gain else None,
        gain_low=gain.low if gain else None,
        gain_high=gain.high if gain else None,
        gain_image_low=over_images[0] if over_images else None,
        gain_image_high=over_images[1] if over_images else None,
        p_differs_from_student=against.probability if against else None,
        surely=(against.sure or None) if against else None,
        teacher_gap_closed=closed.mean if closed else None,
        teacher_gap_closed_low=closed.low if closed else None,
        teacher_gap_closed_high=closed.high if closed else None,
        gain_per_pair={pair: cell.gain.mean if cell.gain else None for pair, cell in mine.items()},
        pairs=sum(cell.seeds > 0 for cell in mine.values()),
        seeds=standing.seeds if standing else 0,
        searches=scores.searches,
        trials_min=min(trials, default=0),
        trials_max=max(trials, default=0),
        failures=sum(cell.failures for cell in mine.values()),
        params=_mean([pair.params for pair in pairs]),
        gflops=_mean([pair.gflops for pair in pairs]),
        latency_ms=_mean([pair.latency_ms for pair in pairs]),
        train_seconds_alone=_mean_over_pairs(finished, _seconds_alone),
        train_cost_relative=_relative_cost(group, scores, finished),
        gpu_hours=math.fsum(spent) / 3600 if spent else None,
        peak_memory_bytes=max(memory, default=None),
        compare=group.compare,
    )


def _gain(scores: Scores, standing: Standing | None) -> Estimate | None:
    """The gain over the student alone; that of the student itself is 0."""
    if standing is None:
        return None
    if standing.method == scores.baseline:
        return Estimate(0.0)
    return standing.gain.estimate if standing.gain else None


def _cell(
    records: RunRecords,
    group: Group,
    scores: Scores,
    comparison: Comparison | None,
    pair: str,
    method: str,
    space: Mapping[str, Bounds],
) -> Cell:
    searched = [t for t in group.trials if (t.pair, t.method, t.phase) == (pair, method, "search")]
    runs = [run for key, run in group.finals.items() if key[:2] == (method, pair)]
    standing = next((s for s in comparison.standings if s.method == method), None) if comparison else None
    against = standing.gain if standing else None
    miou, imputed = None, 0
    if pair in scores.pairs and method in scores.methods:
        miou = pair_miou(scores, method, pair)
        imputed = int(scores.imputed[scores.index(method), scores.pairs.index(pair)].sum())
    newest = max(runs, key=lambda run: run.time_key, default=None)
    params, drawn = (newest.params, newest.drawn) if newest else ({}, {})
    failed = [trial for trial in (*searched, *runs) if trial.status == "failed"]
    return Cell(
        pair=pair,
        method=method,
        miou=miou,
        gain=_gain(scores, standing),
        p=against.probability if against else None,
        surely=against.sure if against else "",
        gap_closed=standing.gap_closed if standing else None,
        seeds=sum(final_score(run, records.counts) is not None for run in runs),
        scored_as_student=imputed,
        trials=len(searched),
        failures=len(failed),
        params=dict(sorted(params.items())),
        drawn=dict(sorted(drawn.items())),
        on_edge=_on_edge(drawn, space),
        tuning=tuple(sorted(t.tune_miou for t in searched if t.tune_miou is not None and t.status == "ok")),
        pruned=sum(trial.status == "pruned" for trial in searched),
    )


def _pair_summary(records: RunRecords, group: Group, scores: Scores, pair: str) -> PairSummary:
    some = next(trial for trial in group.trials if trial.pair == pair)
    mine = {key: run for key, run in group.finals.items() if key[1] == pair}
    counts = {
        key: records.counts[run.trial_id] for key, run in mine.items() if run.trial_id in records.counts
    }
    classes = max((found.classes for found in counts.values()), default=0)
    model = _model(records, some.student, group.student_options(pair), classes)
    student = None
    if scores.baseline is not None and pair in scores.pairs:
        student = pair_miou(scores, scores.baseline, pair)
    per_class: dict[str, tuple[float, ...]] = {}
    for method in group.methods:
        found = [counts[key].per_class() for key in sorted(counts) if key[0] == method]
        if found:
            per_class[method] = tuple(_mean_where_present(np.stack(found)))
    teacher = group.teacher_of(pair)
    if teacher is not None and teacher.trial_id in records.counts:
        per_class["teacher"] = tuple(float(x) for x in records.counts[teacher.trial_id].per_class())
    names = records.class_names.get(group.dataset, {})
    return PairSummary(
        pair=pair,
        short=group.short[pair],
        teacher=some.teacher,
        student=some.student,
        recipe=group.recipes[pair],
        teacher_miou=_teacher_miou(records, group, pair),
        student_miou=student,
        params=model.params if model else None,
        gflops=model.flops / 1e9 if model and model.flops is not None else None,
        latency_ms=model.latency_ms if model else None,
        device=model.device if model else "",
        pictures=max((len(found.images) for found in counts.values()), default=0),
        class_names=tuple(names.get(k, str(k)) for k in range(classes)),
        class_iou=per_class,
    )


def _unfound_notes(pairs: Sequence[PairSummary]) -> list[str]:
    """A note for each pair with classes that no method finds."""
    notes = []
    for pair in pairs:
        iou = {method: np.array(values) for method, values in pair.class_iou.items()}
        students = [values for method, values in iou.items() if method != "teacher"]
        if not students:
            continue
        best = np.max(np.stack(students), axis=0)  # nan for a class that does not occur
        unfound = [name for name, value in zip(pair.class_names, best, strict=True) if value < NEVER_FOUND]
        if unfound:
            notes.append(
                f"On {pair.short} no method finds {', '.join(unfound)}: IoU below {100 * NEVER_FOUND:.0f} for all. Such "
                "classes lower every mIoU alike and make gains look smaller."
            )
    return notes


def _model(records: RunRecords, name: str, options: Mapping[str, object], classes: int) -> ModelRecord | None:
    """The measured model of that name and those options; None if several models match and differ in size."""
    named = [model for model in records.models if model.name == name]
    asked = {key: value for key, value in options.items() if key != "pretrained"}
    found = (
        [m for m in named if all(m.options.get(key) == value for key, value in asked.items())]
        if asked
        else named
    )
    found.sort(key=lambda m: (m.num_classes != classes, m.latency_ms is None, m.device))
    alike = [m for m in found if m.num_classes == found[0].num_classes]
    return found[0] if len({m.params for m in alike}) == 1 else None


def _teacher_miou(records: RunRecords, group: Group, pair: str) -> float | None:
    teacher = group.teacher_of(pair)
    return None if teacher is None else final_score(teacher, records.counts)


def _marks(records: RunRecords, group: Group, runs: Sequence[TrialRecord], cells: Sequence[Cell]) -> str:
    unequal = other_budgets(group)
    dirty = any(
        run.provenance_id in records.provenance and records.provenance[run.provenance_id].dirty
        for run in runs
    )
    marks = [
        FAILED if any(cell.scored_as_student for cell in cells) else "",
        OFF_PROTOCOL if group.protocol != "clean" else "",
        UNCOMMITTED if dirty else "",
        OTHER_BUDGET
        if any((cell.pair, cell.method) in unequal or cell.method in group.untuned for cell in cells)
        else "",
    ]
    return "".join(marks)


def _on_edge(params: Mapping[str, object], space: Mapping[str, Bounds]) -> dict[str, str]:
    """Parameters whose value is within `EDGE` of an end of the search space, with the name of that end."""
    found = {}
    for name, value in params.items():
        if name not in space or isinstance(value, bool) or not isinstance(value, int | float):
            continue
        low, high, logarithmic = space[name]
        place = (
            (math.log(value / low) / math.log(high / low)) if logarithmic else (value - low) / (high - low)
        )
        if place <= EDGE:
            found[name] = "lower"
        elif place >= 1 - EDGE:
            found[name] = "upper"
    return found


def _provenance(records: RunRecords, group: Group) -> dict[str, tuple[str, ...]]:
    """Provenance ids by method: those of its final runs, or of its search trials if it has no final run."""
    found = {}
    for method in group.methods:
        runs = [run for key, run in group.finals.items() if key[0] == method]
        trials = runs or [trial for trial in group.trials if trial.method == method]
        ids = {trial.provenance_id for trial in trials} & set(records.provenance)
        found[method] = tuple(sorted(ids))
    return found


def _hours_unit(group: Group) -> str:
    devices = {plan.device for plan in group.plans}
    return "GPU-hours" if devices == {"cuda"} else "worker-hours"


def _seconds_alone(run: TrialRecord) -> float | None:
    if run.student_seconds is None:
        return None
    return run.student_seconds + (run.teacher_seconds or 0.0)


def _relative_cost(group: Group, scores: Scores, finished: Sequence[TrialRecord]) -> float | None:
    """Training time of one final run over that of the student alone, on the pairs that both have."""
    students = [run for key, run in group.finals.items() if key[0] == scores.baseline and run.status == "ok"]
    shared = {run.pair for run in finished} & {run.pair for run in students}
    method = _mean_over_pairs([run for run in finished if run.pair in shared], _seconds_alone)
    student = _mean_over_pairs([run for run in students if run.pair in shared], _seconds_alone)
    return method / student if method is not None and student else None


def _mean_over_pairs(
    runs: Sequence[TrialRecord], measure: Callable[[TrialRecord], float | None]
) -> float | None:
    by_pair: dict[str, list[float]] = {}
    for run in runs:
        value = measure(run)
        if value is not None:
            by_pair.setdefault(run.pair, []).append(value)
    return _mean([math.fsum(values) / len(values) for values in by_pair.values()])


def _mean(values: Sequence[float | None]) -> float | None:
    present = [value for value in values if value is not None]
    return math.fsum(present) / len(present) if present and len(present) == len(values) else None


def _mean_where_present(values: np.ndarray) -> list[float]:
    present = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return [float(x) for x in np.where(present, values, 0.0).sum(axis=0) / present.sum(axis=0)]
