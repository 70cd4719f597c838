"""Finds the missing entries of a board with their reasons, and writes notes about what a reader must know."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass

from orchestrator.leaderboard.groups import Group
from orchestrator.leaderboard.run_records import RunRecords, TrialRecord
from orchestrator.leaderboard.scores import Scores, final_score, pair_miou
from orchestrator.planning.equal_seconds import SECONDS
from orchestrator.planning.replay import is_hopeless

# Sums in another order differ by less than this; a larger difference means another evaluation.
_SCORE_TOLERANCE = 1e-4
_SHOWN_CLASSES = 10


@dataclass(frozen=True)
class Missing:
    """The seeds of one method on one pair that have no score of their own, and the reason."""

    pair: str
    method: str
    seeds: tuple[int, ...]
    reason: str


@dataclass(frozen=True)
class UnfinishedStudy:
    """A planned study with final runs that are still to come: how many have ended, and how many are planned."""

    pair: str
    method: str
    ended: int
    planned: int


def unfinished_studies(records: RunRecords, group: Group) -> tuple[UnfinishedStudy, ...]:
    """The planned studies without all of their final runs, sorted by pair and method.

    A study that was stopped, because its trials failed, is finished. A pair that another board has is not counted here.
    """
    wanted: dict[tuple[str, str], set[int]] = {}
    for plan in group.plans:
        for place in itertools.product(plan.pairs[group.dataset], plan.methods):
            wanted.setdefault(place, set()).update(plan.seeds)
    elsewhere = {t.pair for t in records.trials if t.phase != "teacher"} - set(group.pairs)
    statuses: dict[tuple[str, str], list[str]] = {}
    for trial in group.trials:
        statuses.setdefault((trial.pair, trial.method), []).append(trial.status)
    found = []
    for (pair, method), seeds in sorted(wanted.items()):
        runs = [run for seed in seeds if (run := group.finals.get((method, pair, seed))) is not None]
        is_done = len(runs) == len(seeds) and not any(run.undecided for run in runs)
        if not is_done and pair not in elsewhere and not is_hopeless(statuses.get((pair, method), [])):
            found.append(UnfinishedStudy(pair, method, len(runs), len(seeds)))
    return tuple(found)


def missing_entries(group: Group, scores: Scores) -> tuple[Missing, ...]:
    """Every (method, pair, seed) without a score that the plan or another method has."""
    pairs, methods, seeds = set(group.pairs), set(group.methods), set(scores.seeds)
    for plan in group.plans:
        pairs |= set(plan.pairs[group.dataset])
        methods |= set(plan.methods)
        seeds |= set(plan.seeds)
    found = []
    for pair in sorted(pairs):
        for method in sorted(methods):
            reasons: dict[str, list[int]] = {}
            for seed in sorted(seeds):
                reason = _reason(group, scores, method, pair, seed)
                if reason is not None:
                    reasons.setdefault(reason, []).append(seed)
            if not seeds:
                reasons[_without_final(group, method, pair)] = []
            found += [Missing(pair, method, tuple(where), reason) for reason, where in reasons.items()]
    return tuple(found)


def _reason(group: Group, scores: Scores, method: str, pair: str, seed: int) -> str | None:
    run = group.finals.get((method, pair, seed))
    if run is None:
        return _without_final(group, method, pair)
    if run.status == "ok":
        place = scores.methods.index(method), scores.pairs.index(pair), scores.seeds.index(seed)
        return (
            "the final run ended without a test score" if scores.miou[place] != scores.miou[place] else None
        )
    place = scores.methods.index(method), scores.pairs.index(pair), scores.seeds.index(seed)
    if scores.imputed[place]:
        return f"{_failure(run)}; scored as the student alone"
    return f"{_failure(run)}; the student alone has no score to stand in"


def _failure(run: TrialRecord) -> str:
    where = "" if run.error_step is None else f" at step {run.error_step}"
    why = f": {_last_line(run.error)}" if run.error else ""
    return f"the final run {'was pruned' if run.status == 'pruned' else 'failed'}{where}{why}"


def _without_final(group: Group, method: str, pair: str) -> str:
    searched = [t for t in group.trials if (t.method, t.pair, t.phase) == (method, pair, "search")]
    if not searched:
        return "not started: no trial is recorded"
    states = Counter(trial.status for trial in searched)
    if states["failed"] == len(searched):
        errors = [_last_line(trial.error) for trial in searched if trial.error]
        return f"all {len(searched)} search trials failed" + (f"; the first: {errors[0]}" if errors else "")
    counts = ", ".join(f"{states[s]} {s}" for s in ("ok", "pruned", "failed") if states[s])
    return f"no final run is recorded yet; search trials so far: {counts}"


def notes_of(records: RunRecords, group: Group, scores: Scores) -> tuple[str, ...]:
    """Notes above the table: unequal budgets, repeated runs, scores that disagree."""
    notes = []
    if scores.baseline is None:
        notes.append("There is no final run of the student alone, so no gain can be computed.")
    unscored = [pair for p, pair in enumerate(scores.pairs) if p not in scores.ranked_pairs]
    if unscored:
        notes.append(
            f"Not in means and ranks, for want of a score of the student alone: {', '.join(unscored)}."
        )
    notes += _equal_seconds_notes(group)
    notes += _teacher_notes(records, group, scores)
    notes += _budget_notes(group)
    notes += _tuning_notes(group)
    notes += _repeat_notes(group)
    notes += _choice_notes(group)
    for run in group.superseded:
        notes.append(
            f"{run.method} on {group.short[run.pair]}, seed {run.seed}: final run {run.trial_id} was followed by a "
            "later one, which counts."
        )
    pictures: Counter[tuple[int, ...]] = Counter()
    for run in group.finals.values():
        found = records.counts.get(run.trial_id)
        if found is None:
            continue
        pictures[tuple(found.images.tolist())] += 1
        if run.test_miou is not None and abs(found.miou() - run.test_miou) > _SCORE_TOLERANCE:
            notes.append(
                f"{run.method} on {group.short[run.pair]}, seed {run.seed}: the trial says {100 * run.test_miou:.2f}, "
                f"its counts give {100 * found.miou():.2f}, which stands here."
            )
    notes += _class_notes(records, group)
    if len(pictures) > 1:
        notes.append(
            f"Runs were scored on {len(pictures)} different sets of pictures; those not on the most common "
            "one have no interval over pictures, and their scores do not compare."
        )
    scored = [run for run in group.finals.values() if final_score(run, records.counts) is not None]
    bare = sum(run.trial_id not in records.counts for run in scored)
    if bare:
        notes.append(
            f"{bare} of {len(scored)} final runs have no counts: no interval over pictures for them."
        )
    return tuple(notes)


def _class_notes(records: RunRecords, group: Group) -> list[str]:
    """A note on the classes that no test label has: mIoU is the mean over the others."""
    found = [records.counts[run.trial_id] for run in group.finals.values() if run.trial_id in records.counts]
    if not found:
        return []
    classes = max(counts.classes for counts in found)
    scored = {label for counts in found for label in counts.labelled()}
    absent = [label for label in range(classes) if label not in scored]
    if not absent:
        return []
    names = records.class_names.get(group.dataset, {})
    shown = [names.get(label, str(label)) for label in absent[:_SHOWN_CLASSES]]
    more = f" and {len(absent) - _SHOWN_CLASSES} more" if absent[_SHOWN_CLASSES:] else ""
    return [
        f"{len(scored)} of {classes} classes are scored. No test label has {', '.join(shown)}{more}: a pixel predicted "
        "as such a class is an error of its own class."
    ]


def _teacher_notes(records: RunRecords, group: Group, scores: Scores) -> list[str]:
    """A note for each pair whose teacher scores below its student alone."""
    notes = []
    for pair in scores.pairs if scores.baseline is not None else ():
        teacher = group.teacher_of(pair)
        reached = None if teacher is None else final_score(teacher, records.counts)
        alone = pair_miou(scores, scores.baseline, pair) if scores.baseline is not None else None
        if reached is not None and alone is not None and reached < alone.mean:
            notes.append(
                f"The teacher is worse than its student on {group.short[pair]}: {100 * reached:.1f} mIoU against "
                f"{100 * alone.mean:.1f} of the student alone. Gains and losses there say little about the methods."
            )
    return notes


def other_budgets(group: Group) -> set[tuple[str, str]]:
    """(Pair, method) of the studies with another number of search trials than most methods of the pair, or chosen otherwise.

    Of two numbers that as many methods have, the larger one is the usual one.
    """
    searched = Counter((t.pair, t.method) for t in group.trials if t.phase == "search")
    selections = group.selections
    found: set[tuple[str, str]] = set()
    for pair in group.pairs:
        budgets = Counter(searched[pair, method] for method in group.methods)
        usual = max(budgets, key=lambda trials: (budgets[trials], trials))
        found |= {(pair, method) for method in group.methods if searched[pair, method] != usual}
        ways = Counter(selections[pair, method] for method in group.methods if (pair, method) in selections)
        most = max(ways, key=lambda way: (ways[way], max(way)), default=None)
        found |= {
            (pair, method)
            for method in group.methods
            if (pair, method) in selections and selections[pair, method] != most
        }
    return found


def _budget_notes(group: Group) -> list[str]:
    """A note for each pair on which methods have unequal numbers of search trials."""
    notes = []
    searched = Counter((t.pair, t.method) for t in group.trials if t.phase == "search")
    for pair in group.pairs:
        budgets: dict[int, list[str]] = {}
        for method in group.methods:
            budgets.setdefault(searched[pair, method], []).append(method)
        if len(budgets) > 1:
            listed = "; ".join(
                f"{count}: {', '.join(budgets[count])}" for count in sorted(budgets, reverse=True)
            )
            notes.append(f"Unequal search budgets on {group.short[pair]} (trials: methods): {listed}.")
    return notes


def _tuning_notes(group: Group) -> list[str]:
    """A note on methods that do not search the recipe as the student alone does."""
    if not group.untuned:
        return []
    # Imported here: a board seldom needs the schema of configs.
    from orchestrator.planning.method_settings import untuned_sentences

    return [f"Unequal search spaces: {sentence}." for sentence in untuned_sentences(group.untuned)]


def _equal_seconds_notes(group: Group) -> list[str]:
    """A note for each pair on the steps that its methods have at equal seconds."""
    notes = []
    for pair in group.pairs if group.compare == SECONDS else ():
        steps: dict[str, set[tuple[int, float]]] = {}
        for trial in group.trials:
            if trial.pair == pair and trial.steps_planned is not None:
                steps.setdefault(trial.method, set()).add((trial.steps_planned, trial.step_cost or 1.0))
        listed = "; ".join(
            f"{method} " + " and ".join(f"{number:,} ({cost:g})" for number, cost in sorted(found))
            for method, found in sorted(steps.items())
        )
        notes.append(
            f"Equal seconds on {group.short[pair]}: every method has as many steps as fit into the seconds of the student alone. Steps "
            f"(measured cost of a step over that of the student alone): {listed}."
        )
    return notes


def _choice_notes(group: Group) -> list[str]:
    """Notes on runs that have grown: final runs that do not count any more, or may not count at the end."""
    notes = []
    for pair in group.pairs:
        finals = [t for t in group.trials if (t.pair, t.phase) == (pair, "final")]
        former = Counter(t.method for t in finals if t.former)
        if former:
            counts = ", ".join(f"{method} {number}" for method, number in sorted(former.items()))
            notes.append(
                f"On {group.short[pair]} a longer search chose another configuration. Final runs of the former one are in the tables "
                f"and not here: {counts}."
            )
        open_methods = sorted({t.method for t in finals if t.undecided})
        if open_methods:
            notes.append(
                f"On {group.short[pair]} the search of {', '.join(open_methods)} goes on: the final runs are of the choice so far."
            )
    return notes


def _repeat_notes(group: Group) -> list[str]:
    """A note if a final seed was used by several searches of a study, or if the methods have unequal searches."""
    notes = []
    used: dict[int, set[int]] = {}
    searches: dict[str, set[int]] = {method: set() for method in group.methods}
    for (method, _, seed), run in group.finals.items():
        used.setdefault(seed, set()).add(run.repeat)
        searches[method].add(run.repeat)
    shared = [str(seed) for seed, repeats in used.items() if len(repeats) > 1]
    if shared:
        notes.append(
            f"Final seeds {', '.join(shared)} were used after several searches of a study. Each search needs final "
            "seeds of its own; here a seed counts for one search only, so the intervals are wrong."
        )
    if len({len(found) for found in searches.values() if found}) > 1:
        counts = ", ".join(f"{method} {len(found)}" for method, found in searches.items() if found)
        notes.append(f"The methods have unequal numbers of searches with a final run: {counts}.")
    return notes


def _last_line(text: str | None) -> str:
    lines = (text or "").strip().splitlines()
    return lines[-1].strip()[:200] if lines else ""
