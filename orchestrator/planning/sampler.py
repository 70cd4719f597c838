"""Configurations of a bracket: a pure function of the search space, the seed and the results of earlier brackets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

from distill.errors import UsageError
from search_spaces import Domain, Space
from search_spaces.space import Value

if TYPE_CHECKING:
    import optuna

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
    sampler: Literal["sobol", "tpe"],
    space: Space,
    *,
    seed: int,
    index: int,
    size: int,
    bracket: int,
    history: History,
) -> list[Params]:
    """Sample the configurations of bracket `index`.

    The first trial of each study has no parameters: it is the method with its published defaults.

    Args:
        sampler: `sobol` for a scrambled Sobol sequence, `tpe` for Optuna's TPE.
        space: search space of the study.
        seed: seed of the sampler.
        index: number of the bracket in its study.
        size: number of trials in this bracket.
        bracket: number of trials in a full bracket. It determines where this bracket starts in the Sobol sequence.
        history: trials of all earlier brackets. Only `tpe` uses them.

    Raises:
        UsageError: `tpe` needs Optuna, which is not installed.
    """
    defaults: list[Params] = [{}] if index == 0 else []
    count = size - len(defaults)
    if not space.parameters:
        return [{}] * size
    if sampler == "sobol":
        start = 0 if index == 0 else index * bracket - 1
        drawn: list[Params] = [
            space.at(point) for point in _sobol(len(space.parameters), seed, start + count)[start:]
        ]
    else:
        drawn = _tpe(space, seed, index, count, history)
    return defaults + drawn


@lru_cache(maxsize=64)
def _sobol(dimensions: int, seed: int, count: int) -> list[tuple[float, ...]]:
    from scipy.stats import qmc

    points = qmc.Sobol(dimensions, scramble=True, rng=seed).random_base2(max(1, (count - 1).bit_length()))
    return [tuple(float(x) for x in point) for point in points[:count]]


def _tpe(space: Space, seed: int, index: int, count: int, history: History) -> list[Params]:
    try:
        import optuna
    except ImportError:
        raise UsageError(
            "search.sampler is 'tpe', which needs Optuna: pip install 'heteroakd[optuna]'"
        ) from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    sampler = optuna.samplers.TPESampler(
        seed=seed * 100_003 + index, multivariate=True, constant_liar=True, n_startup_trials=8
    )
    study = optuna.create_study(direction="maximize", sampler=sampler)
    distributions = {name: optuna_distribution(domain) for name, domain in space.parameters.items()}
    for past in history:
        if not past.scores or set(past.params) != set(distributions):
            continue  # a trial that failed has no score, and the default is no point of the space
        state = optuna.trial.TrialState.COMPLETE if past.completed else optuna.trial.TrialState.PRUNED
        study.add_trial(
            optuna.trial.create_trial(
                params=dict(past.params),
                distributions=distributions,
                value=past.scores[max(past.scores)] if past.completed else None,
                intermediate_values=dict(past.scores),
                state=state,
            )
        )
    return [dict(study.ask(distributions).params) for _ in range(count)]


def optuna_distribution(domain: Domain) -> optuna.distributions.BaseDistribution:
    """The Optuna distribution of a domain."""
    from optuna import distributions

    if domain.choice is not None:
        return distributions.CategoricalDistribution(domain.choice)
    if domain.int_uniform is not None:
        return distributions.IntDistribution(*domain.int_uniform)
    bounds: Any = domain.bounds()
    return distributions.FloatDistribution(bounds[0], bounds[1], log=domain.logarithmic)
