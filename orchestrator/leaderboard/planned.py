"""What a run's config asked for: so a board can say what is missing, and which best values lie on an edge."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from distill.errors import UsageError

Bounds = tuple[float, float, bool]
"""Lower end, upper end, and whether the parameter is searched in its logarithm."""

Spaces = Mapping[str, Mapping[str, Bounds]]
"""Method → parameter → its bounds."""


@dataclass(frozen=True)
class Planned:
    """Pairs by data set, each pair's options of its student, and what all of them share: methods, seeds, trials, device."""

    protocol: str
    pairs: Mapping[str, tuple[str, ...]]
    students: Mapping[str, Mapping[str, Any]]
    methods: tuple[str, ...]
    seeds: tuple[int, ...]
    trials: int
    device: str
    adaptive: bool
    spaces: Spaces


def planned(config_yaml: str) -> Planned | None:
    """The plan behind a stored config; None where this version of the program cannot read it."""
    # The config's schema imports pydantic models of three packages: a board without a config need not wait.
    from orchestrator.planning.plan import method_space
    from orchestrator.planning.renamed import read_recorded_config

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
        pairs=pairs,
        students={pair.label: pair.student.options() for pair in config.pairs},
        methods=tuple(method.title for method in config.methods),
        seeds=config.final.seeds,
        trials=config.search.trials,
        device=config.compute.device,
        adaptive=config.search.sampler != "sobol",
        spaces=bounds,
    )
