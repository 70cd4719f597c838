"""The plan in a run's config, from which a board finds missing entries and parameters at an end of their range."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from distill.errors import UsageError

if TYPE_CHECKING:
    from orchestrator.planning.search_config import SearchConfig

Bounds = tuple[float, float, bool]
"""Lower end, upper end, and whether the parameter is sampled on a logarithmic scale."""

Spaces = Mapping[str, Mapping[str, Bounds]]
"""Method → parameter → its bounds."""


class Selection(NamedTuple):
    """How the configuration of a study is chosen.

    `finalists` of its trials train again with `fresh` seeds; if `finalists` is 0, the best trial is chosen.
    """

    finalists: int
    fresh: int


@dataclass(frozen=True)
class Planned:
    """The planned pairs by data set, the student options by pair, and the settings that all pairs share.

    `selection` is None if nothing is searched. `untuned` has the recipe's parameters, by method, that it does not search as
    the student alone does.
    """

    protocol: str
    compare: tuple[str, ...]
    pairs: Mapping[str, tuple[str, ...]]
    students: Mapping[str, Mapping[str, Any]]
    methods: tuple[str, ...]
    seeds: tuple[int, ...]
    trials: int
    selection: Selection | None
    device: str
    adaptive: bool
    spaces: Spaces
    untuned: Mapping[str, tuple[str, ...]]


def planned(config_yaml: str) -> Planned | None:
    """The plan of a stored config; None if this version of the program cannot read the config."""
    # Imported here: a board without a config does not need the schema of configs.
    from orchestrator.planning.method_settings import method_space, untuned
    from orchestrator.planning.renamed import read_recorded_config
    from orchestrator.planning.search_config import REPEAT_OFFSET

    try:
        config = read_recorded_config(config_yaml)
        spaces = {method.title: method_space(method).parameters for method in config.methods}
    except UsageError:
        return None
    pairs: dict[str, tuple[str, ...]] = {}
    for pair in config.pairs:
        pairs[pair.data] = (*pairs.get(pair.data, ()), pair.label)
    bounds = {
        title: {
            name: (*ends, domain.logarithmic)
            for name, domain in parameters.items()
            if (ends := domain.bounds()) is not None
        }
        for title, parameters in spaces.items()
    }
    return Planned(
        protocol=config.protocol,
        compare=config.compare,
        pairs=pairs,
        students={pair.label: pair.student.options() for pair in config.pairs},
        methods=tuple(method.title for method in config.methods),
        seeds=tuple(
            seed + repeat * REPEAT_OFFSET
            for repeat in range(config.search.repeats)
            for seed in config.final.seeds
        ),
        trials=config.search.trials,
        selection=_selection(config.search),
        device=config.compute.device,
        adaptive=config.search.is_adaptive or bool(config.search.first),
        spaces=bounds,
        untuned=untuned(config.methods) if config.search.trials else {},
    )


def _selection(search: SearchConfig) -> Selection | None:
    if not search.trials:
        return None
    finalists = search.trained_finalists
    return Selection(finalists, len(search.finalist_seeds) if finalists else 0)
