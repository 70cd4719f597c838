"""What a longer sweep file adds to a run, what of the run it keeps, and what it could not keep. Pure functions.

The ids of trials decide. A recorded trial that the new plan has too is kept. The names of settings only serve to say why a
trial is not in the new plan.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from orchestrator.planning.config import SweepConfig
from orchestrator.planning.equal_seconds import SECONDS, STEPS
from orchestrator.planning.plan import Phase, Plan
from orchestrator.planning.replay import RecordedTrial, Replay, replay
from orchestrator.planning.search_config import REPEAT_OFFSET
from orchestrator.planning.weight_contents import with_contents

Row = Mapping[str, Any]
"""A row of `trials`: `trial_id`, `study_id`, `phase`, `pair`, `method` and `seed` are read."""

_LATER: tuple[Phase, ...] = ("selection", "final")
# Ids do not have these, but they decide with whom a trial competed, and at which steps it was scored.
_COMPETITION: dict[str, Any] = {
    "sampler": "sobol",
    "sampler_options": {},
    "pruning": "halving",
    "rungs": None,
    "evaluations": None,
}
"""Settings with their defaults, which a plan file leaves out."""
# These may change without a change of what is recorded, or have a sentence of their own.
_HARMLESS = {("name",), *(("search", name) for name in ("trials", "wave", "repeats", "finalists"))}
_ENTRIES = ("methods", "pairs", "data", "recipes")
_SHOWN = 12


@dataclass(frozen=True)
class Growth:
    """A plan compared with what a run has recorded under an earlier plan.

    Attributes:
        added: what the new plan has more, such as `1 method`.
        trainings: trainings that are certainly left.
        perhaps: further trainings, if a longer search chooses other configurations.
        kept: recorded trials of the new plan.
        lost: why recorded trials are not in the new plan, a sentence for each reason; nothing may be lost.
        resized: whether a bracket has another size than before.
    """

    added: tuple[str, ...]
    trainings: int
    perhaps: int
    kept: int
    lost: tuple[str, ...]
    resized: bool

    def sentence(self) -> str:
        """What changes, in one line: `+ 1 method, 2 studies, 37 trainings; 112 kept`."""
        parts = [*self.added, _number(self.trainings, "training")]
        more = f" (up to {self.perhaps} more where the search chooses another configuration)"
        return f"+ {', '.join(parts)}{more if self.perhaps else ''}; {self.kept} kept"


def growth_of(
    config: SweepConfig,
    plan: Plan,
    rows: Sequence[Row],
    recorded: Mapping[str, RecordedTrial],
    contents: Mapping[str, str] = MappingProxyType({}),
) -> Growth:
    """Compare a plan with the records of a run.

    Args:
        config: the settings that the run had before.
        plan: the new plan.
        rows: the recorded trials.
        recorded: the same trials with their scores, by id.
        contents: of the files of weights that the run had before (`weight_contents`).
    """
    earlier = with_contents(config.decisive(), contents)
    now = with_contents(plan.config.decisive(), plan.contents)
    found = replay(plan, recorded)
    kept = {row["trial_id"] for row in rows if row["trial_id"] in found.trials}
    lost = [
        row for row in rows if row["trial_id"] not in kept and not _may_come_back(row, config, plan, found)
    ]
    places = {(row["study_id"], row["phase"], row["seed"]) for row in rows}
    undecided = [
        (b.bracket.size, (b.bracket.study.study_id, b.wave.phase, b.wave.stream_seed) in places)
        for b in found.open
    ]
    untrained = {teacher.teacher_id for teacher in plan.teachers if teacher.recipe is None}
    certain = sum(t not in recorded and trial.study_id not in untrained for t, trial in found.trials.items())
    return Growth(
        added=tuple(_added(earlier, now)),
        trainings=certain + sum(size for size, is_recorded in undecided if not is_recorded),
        perhaps=sum(size for size, is_recorded in undecided if is_recorded),
        kept=len(kept),
        lost=(*_competition(earlier, now, found, kept), *_reasons(earlier, now, plan, lost)),
        resized=bool(_resized(earlier, now)),
    )


def _may_come_back(row: Row, config: SweepConfig, plan: Plan, found: Replay) -> bool:
    """Whether a recorded trial that is not in the new plan is no loss.

    That is a final run of a configuration that is not the study's choice any more, or not yet again, and the score of a
    loaded teacher, whose trial has the recipe of the first pair that uses it.
    """
    if row["phase"] == "teacher":
        return any(teacher.teacher_id == row["study_id"] for teacher in plan.teachers)
    study = next((study for study in plan.studies if study.study_id == row["study_id"]), None)
    if row["phase"] not in _LATER or study is None:
        return False
    is_open = any(each.bracket.study.study_id == row["study_id"] for each in found.open)
    place = (row["study_id"], row["phase"])
    is_chosen = any((trial.study_id, trial.phase) == place for trial in found.trials.values())
    seed = row["seed"] - study.repeat * REPEAT_OFFSET
    before, after = (_seeds(each, row["phase"]) for each in (config, plan.config))
    # The id of a later trial has the position of its seed.
    return (is_open or is_chosen) and seed in after and before.index(seed) == after.index(seed)


def _seeds(config: SweepConfig, phase: Phase) -> list[int]:
    return list(config.final.seeds if phase == "final" else config.search.finalist_seeds)


def _added(earlier: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """What the new settings have more than the earlier ones, each with its number."""
    before, after = _named(earlier), _named(now)
    for section, name in (("methods", "method"), ("pairs", "pair"), ("data", "data set")):
        if new := after[section].keys() - before[section].keys():
            yield _number(len(new), name)
    for basis in set(after["compare"]) - set(before["compare"]):
        yield f"compare: {basis}"
    more = _repeats(now) - _repeats(earlier)
    if more > 0:
        yield _number(more, "repeat")
    studies = _study_count(after) - _study_count(before)
    if studies > 0:
        yield f"{studies} {'study' if studies == 1 else 'studies'}"
    if new := set(now["final"]["seeds"]) - set(earlier["final"]["seeds"]):
        yield _number(len(new), "final seed")
    more = now["search"]["trials"] - earlier["search"]["trials"]
    if more > 0:
        yield f"{_number(more, 'search trial')} per study"
    more = now["search"].get("finalists", 0) - earlier["search"].get("finalists", 0)
    if more > 0:
        yield f"{_number(more, 'finalist')} per study"


def _competition(
    earlier: Mapping[str, Any], now: Mapping[str, Any], found: Replay, kept: Set[str]
) -> Iterator[str]:
    """Reasons why trials with the same ids cannot be kept: they competed under other rules, or with fewer others."""
    trained = [
        found.trials[trial_id] for trial_id in kept if found.trials[trial_id].phase in ("teacher", "search")
    ]
    searched = [trial for trial in trained if trial.phase == "search"]
    for name, default in _COMPETITION.items():
        old, new = earlier["search"].get(name, default), now["search"].get(name, default)
        affected = trained if name == "evaluations" else searched
        if old != new and affected:
            yield f"search.{name} is {new!r}, was {old!r}: {_number(len(affected), 'trial')}"
    resized = _resized(earlier, now)
    affected = [trial for trial in searched if trial.bracket in resized]
    if affected and now["search"]["rungs"] and now["search"].get("pruning") != "none":
        index = min(trial.bracket for trial in affected)
        old, new = resized[index]
        yield (
            f"search.trials was {earlier['search']['trials']}, so bracket {index + 1} of each study had {old} trials and "
            f"would have {new} now: {_number(len(affected), 'trial')} competed at the rungs without the new ones. Only a "
            f"search of whole brackets (search.bracket is {earlier['search']['bracket']}) can get longer"
        )


def _resized(earlier: Mapping[str, Any], now: Mapping[str, Any]) -> dict[int, tuple[int, int]]:
    """Brackets of the earlier search that have another size in the new one: both sizes, by number."""
    old, new = _bracket_sizes(earlier["search"]), _bracket_sizes(now["search"])
    return {n: (a, b) for n, (a, b) in enumerate(zip(old, new, strict=False)) if a != b}


def _bracket_sizes(search: Mapping[str, Any]) -> list[int]:
    return [
        min(search["bracket"], search["trials"] - start)
        for start in range(0, search["trials"], search["bracket"])
    ]


def _reasons(
    earlier: Mapping[str, Any], now: Mapping[str, Any], plan: Plan, lost: Sequence[Row]
) -> list[str]:
    """Why recorded trials are not in the new plan, a sentence for each reason, with the number of trials."""
    if not lost:
        return []
    changes = changed_settings(earlier, now)
    changed = "; ".join(changes[:_SHOWN]) or "made by another version of this program"
    more = f"; and {len(changes) - _SHOWN} more" if changes[_SHOWN:] else ""
    counts = Counter(_reason(row, earlier, now, plan) or f"{changed}{more}" for row in lost)
    return [f"{reason}: {_number(number, 'trial')}" for reason, number in counts.items()]


def _reason(row: Row, earlier: Mapping[str, Any], now: Mapping[str, Any], plan: Plan) -> str | None:
    """Which entry of the earlier sweep file is gone; None if a setting changed."""
    before, after = _named(earlier), _named(now)
    for section, column in (("pairs", "pair"), ("methods", "method")):
        name = row[column]
        if name in before[section] and name not in after[section]:
            return f"{column} {name} is not in the sweep file any more"
    study = next((study for study in plan.studies if study.study_id == row["study_id"]), None)
    old, new = earlier["search"]["trials"], now["search"]["trials"]
    if row["phase"] == "search" and study is not None and new < old:
        return f"search.trials is {new}, was {old}"
    if row["phase"] == "final" and row["seed"] not in {
        seed + repeat * REPEAT_OFFSET for seed in now["final"]["seeds"] for repeat in range(_repeats(now))
    }:
        return f"final seed {row['seed']} is not in the sweep file any more"
    if _repeats(now) < _repeats(earlier) and (row.get("repeat") or 0) >= _repeats(now):
        return f"search.repeats is {_repeats(now)}, was {_repeats(earlier)}"
    return None


def changed_settings(earlier: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Settings that have another value than before, as `KEY: there OLD, here NEW`. What is only longer is left out."""
    return [
        f"{'.'.join(path)}: there {old!r}, here {new!r}"
        for path, old, new in _differences(_named(earlier), _named(now))
        if path not in _HARMLESS and not _is_root(path) and not _is_longer(path, old, new)
    ]


def _differences(old: Any, new: Any, *path: str) -> Iterator[tuple[tuple[str, ...], Any, Any]]:
    """(Path, old value, new value) for every value that differs; None for what is not there."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in sorted({*old, *new}):
            yield from _differences(old.get(key), new.get(key), *path, key)
    elif old != new:
        yield path, old, new


def _named(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings with methods and pairs by their names on the leaderboard."""
    return {
        **settings,
        "compare": settings.get("compare", [STEPS]),
        "step_costs": settings.get("step_costs", {}),
        "methods": _by(settings["methods"], lambda method: method["label"] or method["name"]),
        "pairs": _by(
            settings["pairs"],
            lambda pair: pair["name"] or f"{pair['teacher']['model']}_to_{pair['student']['model']}",
        ),
    }


def _study_count(named: Mapping[str, Any]) -> int:
    """Number of studies of the settings by `_named`. At equal seconds a method has one only where its cost is known."""
    by_pair = [
        sum(
            method["name"] == "student" or title in named["step_costs"].get(pair, {})
            for pair in named["pairs"]
        )
        for title, method in named["methods"].items()
    ]
    counts: dict[str, int] = {STEPS: len(named["methods"]) * len(named["pairs"]), SECONDS: sum(by_pair)}
    return sum(counts[basis] for basis in named["compare"]) * _repeats(named)


def _by(entries: Sequence[Mapping[str, Any]], name: Callable[[Mapping[str, Any]], str]) -> dict[str, Any]:
    return {name(entry): entry for entry in entries}


def _repeats(settings: Mapping[str, Any]) -> int:
    return int(settings["search"].get("repeats", 1))


def _is_longer(path: Sequence[str], old: Any, new: Any) -> bool:
    """Whether this is a further entry, or a list with further values at its end."""
    is_entry = len(path) == 2 and path[0] in _ENTRIES and old is None
    return is_entry or (isinstance(old, list) and isinstance(new, list) and new[: len(old)] == old)


def _is_root(path: Sequence[str]) -> bool:
    """Whether this is the folder of a data set: two copies of the same data are the same data set."""
    return path[0] == "data" and path[2:] == ("root",)


def _number(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
