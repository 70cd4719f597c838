"""Samplers that ask for no result: point n of a study is a function of the search space, the seed and n alone.

These are ours, and not Ray Tune's. Tune has no Sobol searcher, and the points of its `BasicVariantGenerator` (random and
grid search) come from one generator for all trials of an experiment, so a point depends on what was drawn before it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from search_spaces import Domain, Space
from search_spaces.space import Value

Sequencer = Callable[[Space, int, int, int, Mapping[str, Any]], Sequence[Mapping[str, Value]]]
"""(Space, seed, number of the first point, number of points, options) -> points."""

LEVELS = 4
"""Values of a range in a grid, if the option `levels` is not set."""


def sobol_points(
    space: Space, seed: int, first: int, count: int, options: Mapping[str, Any]
) -> list[dict[str, Value]]:
    """Points of a scrambled Sobol sequence."""
    points = _sobol(len(space.parameters), seed, first + count) if count else []
    return [space.at(point) for point in points[first:]]


@lru_cache(maxsize=64)
def _sobol(dimensions: int, seed: int, count: int) -> list[tuple[float, ...]]:
    from scipy.stats import qmc

    points = qmc.Sobol(dimensions, scramble=True, rng=seed).random_base2(max(1, (count - 1).bit_length()))
    return [tuple(float(x) for x in point) for point in points[:count]]


def random_points(
    space: Space, seed: int, first: int, count: int, options: Mapping[str, Any]
) -> list[dict[str, Value]]:
    """Independent uniform points."""
    import numpy as np

    units = np.random.default_rng(seed).random((first + count, len(space.parameters)))
    return [space.at(point) for point in units[first:].tolist()]


def grid_points(
    space: Space, seed: int, first: int, count: int, options: Mapping[str, Any]
) -> list[dict[str, Value]]:
    """Points of a grid in random order, each once: every choice, and `levels` values of each range with both its ends."""
    import numpy as np

    axes = {
        name: grid_values(domain, options.get("levels", LEVELS)) for name, domain in space.parameters.items()
    }
    generator = np.random.default_rng(seed)
    sizes = [len(values) for values in axes.values()]
    drawn: dict[tuple[int, ...], None] = {}  # in the order of their first appearance
    while len(drawn) < min(first + count, grid_size(space, options)):
        drawn[tuple(generator.integers(0, sizes).tolist())] = None
    cells = list(drawn)[first:]
    return [
        {name: values[level] for (name, values), level in zip(axes.items(), cell, strict=True)}
        for cell in cells
    ]


def grid_values(domain: Domain, levels: int) -> list[Value]:
    """The values of one parameter in a grid."""
    if domain.choice is not None:
        return list(domain.choice)
    positions = [0.5] if levels == 1 else [level / (levels - 1) for level in range(levels)]
    return list(dict.fromkeys(domain.at(position) for position in positions))


def grid_size(space: Space, options: Mapping[str, Any]) -> int:
    """Number of points of a grid."""
    size = 1
    for domain in space.parameters.values():
        size *= len(grid_values(domain, options.get("levels", LEVELS)))
    return size


SEQUENCES: Mapping[str, Sequencer] = {"sobol": sobol_points, "random": random_points, "grid": grid_points}
