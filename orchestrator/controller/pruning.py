"""Which trials of a bracket continue beyond a rung, by the name of the rule in `search.pruning`. Pure functions.

A rule sees the scores of those trials that have one at the rung, in the order of the plan. Scores after the rung do not
count: a run that was interrupted knows some of them already.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping

from orchestrator.planning.search_config import Pruning

Scores = Mapping[str, Mapping[int, float]]
"""Trial id -> step -> tune mIoU."""
Kept = tuple[tuple[str, ...], tuple[str, ...]]
"""Ids of the trials that continue, and of those that stop."""

FEWEST_OTHERS = 3
"""Trials that a median needs, as in Ray Tune's `MedianStoppingRule`."""


def halve(scores: Scores, rung: int) -> Kept:
    """The better half at a rung, rounded up, and the others. Ties go to the smaller trial id."""
    ranked = sorted(scores, key=lambda trial_id: (-scores[trial_id][rung], trial_id))
    kept = math.ceil(len(ranked) / 2)
    return tuple(ranked[:kept]), tuple(ranked[kept:])


def stop_below_median(scores: Scores, rung: int) -> Kept:
    """The median-stopping rule of Google Vizier (Golovin et al. 2017), as Ray Tune's `MedianStoppingRule` has it.

    A trial stops if its best score so far is below the median of the other trials' mean scores so far. With fewer than
    three others all continue. Tune's rule is asked at each report, so its answer depends on who reports first; here all
    trials of the bracket are compared at once.
    """
    so_far = {
        trial_id: [value for step, value in known.items() if step <= rung]
        for trial_id, known in scores.items()
    }
    means = {trial_id: statistics.fmean(values) for trial_id, values in so_far.items()}
    dropped = []
    for trial_id, values in so_far.items():
        others = [mean for other, mean in means.items() if other != trial_id]
        if len(others) >= FEWEST_OTHERS and max(values) < statistics.median(others):
            dropped.append(trial_id)
    return tuple(trial_id for trial_id in scores if trial_id not in dropped), tuple(dropped)


def keep_all(scores: Scores, rung: int) -> Kept:
    """All trials."""
    return tuple(scores), ()


RULES: Mapping[Pruning, Callable[[Scores, int], Kept]] = {
    "halving": halve,
    "median": stop_below_median,
    "none": keep_all,
}
