"""Groups trials into boards: one data set, one protocol, equal steps or equal seconds, and one recipe per pair."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

from orchestrator.leaderboard.planned import Bounds, Planned, Selection, Spaces, planned
from orchestrator.leaderboard.run_records import ProvenanceRecord, RunRecords, TrialRecord
from orchestrator.planning.equal_seconds import STEPS

STUDENT = "student"
_BASELINE_FAMILY = "baseline"

Place = tuple[str, str]
"""A pair and a recipe hash."""


@dataclass(frozen=True)
class Group:
    """The trials of one board.

    `short` has the name of each pair on pages. `finals` has the latest final run of a study's choice by (method, pair, seed);
    `superseded` has the earlier ones.
    """

    dataset: str
    protocol: str
    compare: str
    recipes: Mapping[str, str]
    short: Mapping[str, str]
    trials: tuple[TrialRecord, ...]
    teachers: tuple[TrialRecord, ...]
    finals: Mapping[tuple[str, str, int], TrialRecord]
    superseded: tuple[TrialRecord, ...]
    plans: tuple[Planned, ...]

    @property
    def pairs(self) -> tuple[str, ...]:
        """Names of the pairs with a trial, sorted."""
        return tuple(sorted(self.recipes))

    @property
    def planned_pairs(self) -> frozenset[str]:
        """The pairs with a trial, and those that its runs will come to."""
        return frozenset(self.recipes).union(*(plan.pairs[self.dataset] for plan in self.plans))

    @property
    def families(self) -> Mapping[str, str]:
        """The family of each method with a trial."""
        return {trial.method: trial.method_family for trial in self.trials}

    @property
    def methods(self) -> tuple[str, ...]:
        """Names of the methods with a trial, sorted."""
        return tuple(sorted(self.families))

    @property
    def baseline(self) -> str | None:
        """The student alone: the method named `student`, otherwise the only method of the baseline family."""
        if STUDENT in self.families:
            return STUDENT
        found = [method for method, family in self.families.items() if family == _BASELINE_FAMILY]
        return found[0] if len(found) == 1 else None

    @property
    def spaces(self) -> Spaces:
        """Search spaces by method, from the config of the first run that has the method."""
        found: dict[str, Mapping[str, Bounds]] = {}
        for plan in self.plans:
            for method, space in plan.spaces.items():
                found.setdefault(method, space)
        return found

    @property
    def untuned(self) -> Mapping[str, tuple[str, ...]]:
        """The recipe's parameters, by method, that it does not search as the student alone does, in any run."""
        found: dict[str, tuple[str, ...]] = {}
        for plan in self.plans:
            for method in plan.untuned.keys() & self.families.keys():
                names = plan.untuned[method]
                found[method] = tuple(sorted({*found.get(method, ()), *names}))
        return dict(sorted(found.items()))

    @property
    def selections(self) -> Mapping[tuple[str, str], frozenset[Selection]]:
        """How the configuration of each searched study was chosen, by pair and method; more than one if its runs differ."""
        found: dict[tuple[str, str], frozenset[Selection]] = {}
        for plan in self.plans:
            way = plan.selection
            if way is None:
                continue
            for study in product(plan.pairs[self.dataset], plan.methods):
                if study[0] in self.recipes and study[1] in self.families:
                    found[study] = found.get(study, frozenset()) | {way}
        return found

    def student_options(self, pair: str) -> Mapping[str, Any]:
        """The options that a config gives for the pair's student."""
        return next((plan.students[pair] for plan in self.plans if pair in plan.students), {})

    def teacher_of(self, pair: str) -> TrialRecord | None:
        """The scored teacher of a pair: the one that its trials name, otherwise the latest of the same model."""
        of_pair = [trial for trial in self.trials if trial.pair == pair]
        ids = {trial.teacher_id for trial in of_pair}
        done = [teacher for teacher in self.teachers if teacher.status == "ok"]
        named = [t for t in done if ids & ({t.trial_id, t.study_id, t.teacher_id} - {""})]
        same = [t for t in done if not t.teacher_id and t.student == of_pair[0].teacher and t.pair == pair]
        return max(named or same, key=lambda t: t.time_key, default=None)


def groups_of(records: RunRecords) -> Iterator[Group]:
    """The trials of each board, sorted by data set, protocol, steps before seconds, and recipes."""
    plans = _plans(records)
    students = [t for t in records.trials if t.phase != "teacher"]
    settings = {(t.dataset, t.protocol, t.compare) for t in students}
    for dataset, protocol, compare in sorted(settings, key=lambda key: (*key[:2], key[2] != STEPS)):
        here = [t for t in records.trials if (t.dataset, t.protocol) == (dataset, protocol)]
        equal = [t for t in here if t.phase != "teacher" and t.compare == compare]
        for places in _boards(equal):
            mine = tuple(t for t in equal if (t.pair, t.recipe_hash) in places)
            finals, superseded = _latest_finals(mine)
            runs = {t.run for t in mine}
            yield Group(
                dataset=dataset,
                protocol=protocol,
                compare=compare,
                recipes=dict(sorted(places)),
                short=records.short_pairs,
                trials=mine,
                teachers=tuple(t for t in here if t.phase == "teacher"),
                finals=finals,
                superseded=superseded,
                plans=tuple(
                    plan
                    for run, plan in plans
                    if run in runs
                    and plan.protocol == protocol
                    and compare in plan.compare
                    and dataset in plan.pairs
                ),
            )


def _boards(trials: list[TrialRecord]) -> list[list[Place]]:
    """Pairs with recipes, by board. There is one board unless a pair has two recipes.

    Otherwise runs that have a pair and recipe in common share a board. If that board would still have two recipes of
    one pair, each pair and recipe gets a board of its own.
    """
    places = sorted({(t.pair, t.recipe_hash) for t in trials})
    if _one_recipe_per_pair(places):
        return [places]
    by_run: dict[int, set[Place]] = {}
    for trial in trials:
        by_run.setdefault(trial.run, set()).add((trial.pair, trial.recipe_hash))
    boards: list[set[Place]] = []
    for mine in by_run.values():
        joined = [board for board in boards if board & mine]
        boards = [board for board in boards if not board & mine] + [set(mine).union(*joined)]
    return sorted(
        split
        for board in boards
        for split in (
            [sorted(board)] if _one_recipe_per_pair(board) else [[place] for place in sorted(board)]
        )
    )


def _one_recipe_per_pair(places: list[Place] | set[Place]) -> bool:
    return len({pair for pair, _ in places}) == len(places)


def _latest_finals(
    trials: tuple[TrialRecord, ...],
) -> tuple[dict[tuple[str, str, int], TrialRecord], tuple[TrialRecord, ...]]:
    finals: dict[tuple[str, str, int], TrialRecord] = {}
    superseded = []
    for trial in sorted((t for t in trials if t.phase == "final" and not t.former), key=lambda t: t.time_key):
        place = (trial.method, trial.pair, trial.seed)
        if place in finals:
            superseded.append(finals[place])
        finals[place] = trial
    return dict(sorted(finals.items())), tuple(superseded)


def _plans(records: RunRecords) -> list[tuple[int, Planned]]:
    """(Run, plan) for the newest config of every run, as far as this version can read it. A run may have grown."""
    newest: dict[int, ProvenanceRecord] = {}
    for record in records.provenance.values():
        known = newest.get(record.run)
        if record.config_yaml and (known is None or _time_of(record) > _time_of(known)):
            newest[record.run] = record
    found = [(run, planned(record.config_yaml)) for run, record in sorted(newest.items())]
    return [(run, plan) for run, plan in found if plan is not None]


def _time_of(record: ProvenanceRecord) -> tuple[bool, str, str]:
    """Sort key: the start of the command; of equal ones the id decides."""
    return record.created_at is not None, str(record.created_at), record.provenance_id
