"""Configurations of a bracket: a pure function of the search space, the seed and the results of earlier brackets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from orchestrator.planning.search_config import SearchConfig
from orchestrator.planning.sequences import SEQUENCES
from search_spaces import Space
from search_spaces.space import Value

Params = Mapping[str, Value]


@dataclass(frozen=True)
class Scored:
    """Result of one trial of an earlier bracket of the same study."""

    params: Params
    scores: Mapping[int, float]  # tune mIoU by step
    completed: bool

    @property
    def last_score(self) -> float:
        """Tune mIoU at its last scored step."""
        return self.scores[max(self.scores)]


History = Sequence[Scored]


def sample_bracket(
    search: SearchConfig,
    space: Space,
    *,
    seed: int,
    index: int,
    size: int,
    first: Sequence[Params] = (),
    history: History = (),
) -> list[Params]:
    """Sample the configurations of bracket `index`.

    The first trial of each study has no parameters: it is the method with its published defaults. The configurations of
    `first` follow, and then those that are drawn.

    Args:
        search: settings of the search: sampler, its options, and the size of a full bracket.
        space: search space of the study.
        seed: seed of the sampler.
        index: number of the bracket in its study.
        size: number of trials in this bracket.
        first: configurations to try before any is drawn.
        history: trials of all earlier brackets in the order of the plan. Only adaptive samplers use them.

    Raises:
        UsageError: the sampler cannot be used.
    """
    if not space.parameters:
        return [{}] * size
    start = index * search.bracket
    if search.is_adaptive:
        from orchestrator.planning.tune_searchers import draw_bracket  # Ray

        return draw_bracket(search, space, seed, index, size, first, history)
    given: list[Params] = [{}, *first][start : start + size]
    return given + _continued(search, space, seed, max(0, start - 1 - len(first)), size - len(given), first)


def _continued(
    search: SearchConfig, space: Space, seed: int, position: int, count: int, first: Sequence[Params]
) -> list[Params]:
    """Points of a sequence from a position on, without those that are tried first.

    Configurations of an earlier run with the same seed are points of the same sequence.
    """
    draw = SEQUENCES[search.sampler]
    if not first:
        return list(draw(space, seed, position, count, search.sampler_options))
    points = draw(space, seed, 0, position + count + len(first), search.sampler_options)
    others = [point for point in points if point not in first]
    return others[position : position + count]
