"""Ray Tune's searchers as samplers: which there are, and what they draw. Imports Ray when a searcher is made, not before.

A searcher is asked for a whole bracket, and told the results of a bracket in the order of the plan. It is made anew for
each bracket, and asked and told again what came before. So its points are a function of seed, space and results: a run that
was interrupted, and whose results come from the ledger, draws the same points. No pickle of a searcher is kept.
"""

from __future__ import annotations

import contextlib
import inspect
import logging
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from distill.errors import UsageError, unknown
from orchestrator.planning.sequences import SEQUENCES, random_points
from search_spaces import Domain, Space
from search_spaces.space import Value

if TYPE_CHECKING:
    from orchestrator.planning.sampler import History, Params, Scored
    from orchestrator.planning.search_config import SearchConfig

GROUP = "heteroakd.searchers"
"""Group of entry points: functions `(seed=…, **options)` that return a `ray.tune.search.Searcher`."""
METRIC = "tune_miou"
_SEEDS = 2**32


@dataclass(frozen=True)
class Request:
    """What a searcher is made for.

    Attributes:
        options: `search.sampler_options`, as keyword arguments of Tune's class where nothing else is said.
        seed: below 2³².
        startup: results before which a searcher draws at random: half of a first bracket, as some of its trials may fail.
        bracket: points that are drawn at a time.
        space: search space in Tune's terms.
        first: `points_to_evaluate`, in Tune's terms: what the searcher must suggest first.
    """

    options: Mapping[str, Any]
    seed: int
    startup: int
    bracket: int
    space: Mapping[str, Any]
    first: Sequence[Mapping[str, Any]] = ()

    @property
    def arguments(self) -> dict[str, Any]:
        """The options, and `points_to_evaluate` if there are any."""
        points = {"points_to_evaluate": [dict(point) for point in self.first]} if self.first else {}
        return {**self.options, **points}


@dataclass(frozen=True)
class TuneSearcher:
    """A searcher of Ray Tune.

    Attributes:
        modules: what it imports besides Ray.
        make: makes it.
        meaning: its method, in a few words.
        takes_pruned: whether a trial that was stopped at a rung is completed without a result. Optuna then counts its
            reports only, as those of a pruned trial. Others would take such a trial for one that never ended.
    """

    modules: tuple[str, ...]
    make: Callable[[Request], Any]
    meaning: str
    takes_pruned: bool = False


def _optuna(request: Request) -> Any:
    import optuna
    from ray.tune.search.optuna import OptunaSearch

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    options = dict(request.options)
    name = options.pop("sampler", "TPESampler")
    known = [each for each in optuna.samplers.__all__ if each.endswith("Sampler") and each != "BaseSampler"]
    if name not in known:
        raise unknown("sampler of Optuna", str(name), known)
    kind = getattr(optuna.samplers, name)
    if name == "TPESampler":
        # A bracket is asked for at once: with the liar, its points keep away from each other.
        options = {
            "multivariate": True,
            "constant_liar": True,
            "n_startup_trials": request.startup,
            **options,
        }
    seed = {"seed": request.seed} if "seed" in inspect.signature(kind).parameters else {}
    first = [dict(point) for point in request.first] or None
    return OptunaSearch(sampler=kind(**seed, **options), points_to_evaluate=first)


def _hyperopt(request: Request) -> Any:
    from ray.tune.search.hyperopt import HyperOptSearch

    options = {"n_initial_points": request.startup, **request.arguments}
    return HyperOptSearch(random_state_seed=request.seed, **options)


def _bayesopt(request: Request) -> Any:
    from ray.tune.search.bayesopt import BayesOptSearch

    # It would wait for the results of its random points, and end a search that proposes a point again. Without either, it
    # draws at random until it has a result.
    options = {"random_search_steps": 0, "skip_duplicate": False, "patience": 10**9, **request.arguments}
    return BayesOptSearch(random_state=request.seed, **options)


def _bohb(request: Request) -> Any:
    from ray.tune.search.bohb import TuneBOHB

    return TuneBOHB(seed=request.seed, **request.arguments)


def _nevergrad(request: Request) -> Any:
    import nevergrad
    import numpy as np
    from ray.tune.search.nevergrad import NevergradSearch

    options = dict(request.options)
    # Nevergrad's own choice, NGOpt, needs to know the number of trials, and then a longer search would draw other points.
    name = options.pop("optimizer", "TwoPointsDE")
    if name not in nevergrad.optimizers.registry:
        raise unknown("optimizer of Nevergrad", str(name), nevergrad.optimizers.registry)
    space: Any = NevergradSearch.convert_search_space(dict(request.space))
    space.random_state = np.random.RandomState(request.seed)
    kind = nevergrad.optimizers.registry[name]
    optimizer = kind(parametrization=space, num_workers=request.bracket, **{"budget": None, **options})
    first = [dict(point) for point in request.first] or None
    return NevergradSearch(optimizer=optimizer, metric=METRIC, mode="max", points_to_evaluate=first)


def _ax(request: Request) -> Any:
    from ray.tune.search.ax import AxSearch

    return AxSearch(**{"random_seed": request.seed, "verbose_logging": False, **request.arguments})


SEARCHERS: Mapping[str, TuneSearcher] = {
    "optuna": TuneSearcher(
        ("optuna",), _optuna, "Optuna: TPE, or another of its samplers", takes_pruned=True
    ),
    "hyperopt": TuneSearcher(("hyperopt",), _hyperopt, "HyperOpt: TPE"),
    "bayesopt": TuneSearcher(("bayes_opt",), _bayesopt, "bayesian-optimization: a Gaussian process"),
    "bohb": TuneSearcher(
        ("hpbandster", "ConfigSpace"), _bohb, "HpBandSter: kernel densities, scores at rungs too"
    ),
    "nevergrad": TuneSearcher(("nevergrad",), _nevergrad, "Nevergrad: evolution and other optimizers"),
    "ax": TuneSearcher(("ax",), _ax, "Ax: Bayesian optimization with BoTorch"),
}
"""Ray Tune's searchers by the name of their sampler, which is that of the extra with their package too."""


def known_samplers() -> dict[str, str]:
    """Every value of `search.sampler`, with its meaning."""
    own = {
        "sobol": "scrambled Sobol sequence",
        "random": "random points",
        "grid": "points of a grid, in random order",
    }
    installed = {entry.name: f"from {entry.value}" for entry in entry_points(group=GROUP)}
    return {**own, **{name: f"{each.meaning} (Ray Tune)" for name, each in SEARCHERS.items()}, **installed}


def check_sampler_name(name: str) -> None:
    """Check that there is such a sampler; its package may be missing.

    Raises:
        UsageError: there is none; the nearest name is in the message.
    """
    if name in SEQUENCES or name in SEARCHERS:
        return
    if name == "tpe":
        raise UsageError("search.sampler 'tpe' is called 'optuna' now")
    if name not in known_samplers():
        raise unknown("sampler", name, known_samplers())


def draw_bracket(
    search: SearchConfig,
    space: Space,
    seed: int,
    index: int,
    size: int,
    first: Sequence[Params],
    history: History,
) -> list[Params]:
    """The configurations of a bracket; arguments and errors as for `sample_bracket`.

    Where a searcher has no suggestion before it knows more results, the rest of the bracket is random.
    """
    with _own_random_state(seed), _quiet(), _named_errors(search.sampler):
        study = _SearchedStudy(search, space, seed, first)
        for number in range(index):
            points = study.ask(number, search.bracket)
            history = study.tell(points, history)
        return [params for _, params in study.ask(index, size)]


class _SearchedStudy:
    """One study, whose points come from a searcher."""

    def __init__(self, search: SearchConfig, space: Space, seed: int, first: Sequence[Params]) -> None:
        self._name = search.sampler
        self._space = space
        self._seed = seed
        self._first = first
        self._asked = 0
        startup = max(1, (search.bracket - 1) // 2)
        domains = {name: tune_domain(domain) for name, domain in space.parameters.items()}
        points = [
            {name: tune_value(space.parameters[name], value) for name, value in p.items()} for p in first
        ]
        self._searcher = make_searcher(
            search.sampler,
            Request(search.sampler_options, seed % _SEEDS, startup, search.bracket, domains, points),
        )

    def ask(self, index: int, size: int) -> list[tuple[str | None, Params]]:
        """The trials of a bracket, each with the name that the searcher knows it by; the defaults have none."""
        defaults: list[tuple[str | None, Params]] = [(None, {})] if index == 0 else []
        return defaults + [self._ask() for _ in range(size - len(defaults))]

    def _ask(self) -> tuple[str | None, Params]:
        number, name = self._asked, f"trial_{self._asked}"
        self._asked += 1
        found = self._searcher.suggest(name)
        if number < len(self._first):
            return name, self._first[number]  # what it was given, without its rounding
        if not isinstance(found, dict):
            return None, random_points(self._space, self._seed, number, 1, {})[0]
        return name, {key: from_tune(domain, found[key]) for key, domain in self._space.parameters.items()}

    def tell(self, asked: Sequence[tuple[str | None, Params]], history: History) -> History:
        """Tell the results of a bracket; returns the results of the brackets after it."""
        different: list[Params] = []
        for _, params in asked:
            if params not in different:
                different.append(params)  # equal configurations of a bracket are one trial
        results = history[: len(different)]
        if [scored.params for scored in results] != different:
            raise UsageError(
                f"search.sampler '{self._name}' has drawn other configurations than before from the same seed and results; "
                "its points must depend on nothing else"
            )
        for name, params in asked:
            if name is not None:
                self._tell(name, results[different.index(params)])
        return history[len(different) :]

    def _tell(self, name: str, scored: Scored) -> None:
        report: dict[str, Any] | None = None
        for step in sorted(scored.scores):
            report = {
                METRIC: scored.scores[step],
                "training_iteration": step,
                "hyperband_info": {"budget": step},
            }
            self._searcher.on_trial_result(name, report)
        known = SEARCHERS.get(self._name)
        is_pruned = report is not None and not scored.completed
        result = None if is_pruned and known is not None and known.takes_pruned else report
        self._searcher.on_trial_complete(name, result=result, error=report is None)


def make_searcher(name: str, request: Request) -> Any:
    """The searcher of a sampler's name.

    Raises:
        UsageError: its package is not installed, or it refuses its options or the search space.
    """
    known = SEARCHERS.get(name)
    missing = [module for module in (known.modules if known else ()) if find_spec(module) is None]
    if missing:
        raise UsageError(
            f"search.sampler is '{name}', which needs the package of {' and '.join(missing)}: pip install 'heteroakd[{name}]'"
        )
    check_sampler_name(name)
    try:
        make = known.make if known is not None else _installed(name)
        searcher = make(request)
        searcher.set_search_properties(METRIC, "max", dict(request.space))
    except (TypeError, ValueError, AssertionError, AttributeError, KeyError) as error:
        raise UsageError(
            f"search.sampler '{name}' refuses search.sampler_options {dict(request.options)} or the search space: {error}"
        ) from error
    return searcher


def _installed(name: str) -> Callable[[Request], Any]:
    (entry,) = entry_points(group=GROUP, name=name)
    try:
        make = entry.load()
    except Exception as error:
        raise UsageError(f"search.sampler '{name}' cannot be loaded from {entry.value}: {error}") from error
    return lambda request: make(seed=request.seed, **request.arguments)


def tune_domain(domain: Domain) -> Any:
    """A domain in Tune's terms: the position of a choice, or a number's position in the unit interval.

    `Domain.at` maps it to a value. So the scale is the same for all searchers, those too that ignore `tune.loguniform`.
    """
    from ray import tune

    if domain.choice is not None:
        return tune.choice(list(range(len(domain.choice))))
    return tune.uniform(0.0, 1.0)


def tune_value(domain: Domain, value: Any) -> int | float:
    """A value of a domain in Tune's terms."""
    return domain.choice.index(value) if domain.choice is not None else domain.position(value)


def from_tune(domain: Domain, value: Any) -> Value:
    """The value of a domain that a searcher's suggestion means."""
    return domain.choice[int(value)] if domain.choice is not None else domain.at(float(value))


@contextlib.contextmanager
def _own_random_state(seed: int) -> Iterator[None]:
    """Seed the global random state, which some searchers draw from, and put it back afterwards."""
    import numpy as np

    before, numpy_before = random.getstate(), np.random.get_state()
    random.seed(seed)
    np.random.seed(seed % _SEEDS)
    try:
        yield
    finally:
        random.setstate(before)
        np.random.set_state(numpy_before)


@contextlib.contextmanager
def _named_errors(sampler: str) -> Iterator[None]:
    """Name the sampler in what its package raises: an error of a searcher is one of its options or of its package."""
    try:
        yield
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(
            f"search.sampler '{sampler}' failed with {type(error).__name__}: {error}; change search.sampler_options, or choose "
            "another sampler"
        ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the warnings of Tune's searchers, which say what each of them ignores of a space, again for each bracket."""
    logger = logging.getLogger("ray.tune.search")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
