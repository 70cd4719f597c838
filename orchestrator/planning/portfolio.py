"""Which configurations of earlier studies to try first: a greedy portfolio by rank. Pure functions."""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping, Sequence

from orchestrator.planning.sampler import Params

Ranks = Mapping[Hashable, Mapping[str, float]]
"""Study -> configuration, as `key_of` writes it -> its rank, from 0 for the best to 1 for the worst."""


def key_of(params: Params) -> str:
    """A configuration as text, the same for equal ones."""
    return json.dumps(dict(params), sort_keys=True)


def ranks(best_first: Sequence[Params]) -> dict[str, float]:
    """The rank of each configuration of one study; of one that was trained twice, the better."""
    last = max(1, len(best_first) - 1)
    found: dict[str, float] = {}
    for position, params in enumerate(best_first):
        found.setdefault(key_of(params), position / last)
    return found


def portfolio(studies: Ranks, count: int) -> list[Params]:
    """Up to so many configurations, in the order in which to try them.

    Each next one lowers most the mean over the studies of the best rank so far. So the first one is good everywhere, and the
    next ones are good where those before them are not. When each study's best is in it, it begins again with the rest. A
    study that did not try a configuration counts as if it had been the worst there. Of equals the one with the better
    mean rank is first.
    """
    left = sorted({key for found in studies.values() for key in found})
    chosen: list[str] = []
    covered = dict.fromkeys(studies, 1.0)
    while left and len(chosen) < count:
        best = min(left, key=lambda key: (_total(studies, key, covered), _total(studies, key, None), key))
        if (
            chosen
            and _total(studies, best, covered) >= sum(covered.values())
            and any(c < 1 for c in covered.values())
        ):
            covered = dict.fromkeys(studies, 1.0)
            continue
        covered = {study: min(covered[study], found.get(best, 1.0)) for study, found in studies.items()}
        chosen.append(best)
        left.remove(best)
    return [json.loads(key) for key in chosen]


def _total(studies: Ranks, key: str, covered: Mapping[Hashable, float] | None) -> float:
    """Sum over the studies of a configuration's rank, or of the better of it and what is covered."""
    own = {study: found.get(key, 1.0) for study, found in studies.items()}
    return sum(own[study] if covered is None else min(own[study], covered[study]) for study in studies)
