"""What can be wrong with a sampler before it draws: its name, its options, a grid that is too small, a missing package."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import ValidationError

from distill.errors import UsageError, unknown
from orchestrator.planning.config import SweepConfig
from orchestrator.planning.method_settings import method_space
from orchestrator.planning.plan import Plan
from orchestrator.planning.sampler import sample_bracket
from orchestrator.planning.search_config import SearchConfig
from orchestrator.planning.sequences import LEVELS, grid_size
from orchestrator.planning.tune_searchers import check_sampler_name


def sampler_faults(config: SweepConfig) -> Iterator[tuple[str, str]]:
    """What is wrong with the settings of the sampler: the setting's name below `search`, and a sentence.

    The options of a searcher of Ray Tune are checked when it is made (`check_first_brackets`).
    """
    search = config.search
    try:
        check_sampler_name(search.sampler)
    except UsageError as error:
        yield "sampler", str(error)
        return
    yield from _first_faults(config)
    if search.is_adaptive:
        return
    known = {"levels"} if search.sampler == "grid" else set()
    for option in sorted(set(search.sampler_options) - known):
        allowed = "only the option levels" if known else "no options"
        yield (
            "sampler_options",
            f"search.sampler_options has {option!r}; sampler '{search.sampler}' has {allowed}",
        )
    if search.sampler == "grid":
        yield from _grid_faults(config, search)


def _grid_faults(config: SweepConfig, search: SearchConfig) -> Iterator[tuple[str, str]]:
    levels = search.sampler_options.get("levels", LEVELS)
    if not isinstance(levels, int) or isinstance(levels, bool) or not 1 <= levels <= 1000:
        yield (
            "sampler_options",
            f"search.sampler_options.levels is {levels!r}, must be a whole number from 1 to 1000",
        )
        return
    for method in config.methods:
        try:
            space = method_space(method)
        except (UsageError, ValidationError):
            continue  # reported as a fault of the method
        size = grid_size(space, search.sampler_options)
        if space.parameters and size < search.trials - 1:
            yield (
                "trials",
                f"search.trials is {search.trials}, and the grid of method '{method.title}' has {size} points for the trials "
                f"besides its defaults; raise search.sampler_options.levels, which is {levels}, or lower search.trials",
            )


def _first_faults(config: SweepConfig) -> Iterator[tuple[str, str]]:
    methods = {method.title: method for method in config.methods}
    for title, points in config.search.first.items():
        if title not in methods:
            yield "first", f"search.first: {unknown('method', title, methods)}"
            continue
        try:
            parameters = method_space(methods[title]).parameters
        except (UsageError, ValidationError):
            continue  # reported as a fault of the method
        for number, point in enumerate(points):
            place = f"search.first.{title}.{number}"
            if set(point) != set(parameters):
                yield (
                    "first",
                    f"{place} has {', '.join(point)}; must have the searched parameters {', '.join(parameters)}",
                )
                continue
            for name, domain in parameters.items():
                if not domain.holds(point[name]):
                    yield (
                        "first",
                        f"{place}.{name} is {point[name]!r}, must be in {domain.model_dump(exclude_none=True)}",
                    )


def check_first_brackets(plan: Plan) -> None:
    """Draw the first bracket of each search space from an adaptive sampler.

    Raises:
        UsageError: its package is missing, or it refuses its options or a search space.
    """
    search, checked = plan.config.search, []
    for study in plan.studies if search.is_adaptive else ():
        if search.trials and study.space not in checked:
            checked.append(study.space)
            size = min(search.bracket, search.trials)
            first = search.first.get(study.title, ())
            sample_bracket(search, study.space, seed=search.seed, index=0, size=size, first=first)
