"""Which configuration of a study goes on: the best search trials, and the best of them on fresh seeds. Pure functions."""

from __future__ import annotations

import math

from orchestrator.planning.sampler import History, Params


def winner(history: History) -> Params | None:
    """Parameters of the best finished trial, the earlier one if two are equal; None if no trial finished."""
    best = finalists(history, 1)
    return best[0] if best else None


def finalists(history: History, count: int) -> list[Params]:
    """Parameters of the best finished trials, best first, the earlier one if two are equal. Equal parameters count once."""
    finished = [scored for scored in history if scored.completed]
    finished.sort(key=lambda scored: -scored.last_score)  # stable
    different: list[Params] = []
    for scored in finished:
        if scored.params not in different:
            different.append(scored.params)
    return different[:count]


def best_finalist(searched: History, selected: History) -> Params | None:
    """Parameters of the finalist with the best mean score; None if no finalist has a score of the selection.

    The mean is over the fresh seeds and the search trial that made it a finalist: in `benchmarks/selection.py` this chooses
    better than the fresh seeds alone. A finalist that failed with a seed is behind all that finished with more seeds. Of
    two that are equal, the earlier one.
    """
    candidates = [scored.params for scored in selected if scored.completed]

    def rank(params: Params) -> tuple[int, float]:
        of_search = [s.last_score for s in searched if s.completed and s.params == params]
        scores = [s.last_score for s in selected if s.completed and s.params == params]
        return len(scores), math.fsum([*scores, max(of_search)]) / (len(scores) + 1)

    return max(candidates, key=rank, default=None)
