"""What a searcher, and a start from earlier runs, are worth: both replayed on the selection table.

    python benchmarks/searchers.py searchers
    python benchmarks/searchers.py earlier

The table (`selection.parquet`) has 16 configurations of each of six studies. Searchers draw other ones, so each study is
replaced by a smooth surrogate: a Gaussian process in the coordinates of the search space, fitted to the configurations' mean
scores over the training seeds. The length scale and the noise are those with the largest likelihood. A trial's score
is the surrogate's mean plus noise with the spread of the table's training seeds. The chosen configuration is the one
with the best score so far; its regret is the largest mean of the surrogate less its own, in points of mIoU. All trials
train to the end, so pruning plays no part.

`searchers` prints the mean regret of each sampler after some numbers of trials. `earlier` compares Sobol points with
the portfolio of `search.from`, which comes from the study of the same method on the other pair, with one
training seed, and with Sobol points after it. It prints how many trials each needs for the regret that Sobol has
after 16.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import qmc

from orchestrator.ledger.earlier_runs import first_count
from orchestrator.planning.loader import load_sweep
from orchestrator.planning.method_settings import used_values
from orchestrator.planning.plan import make_plan
from orchestrator.planning.portfolio import portfolio, ranks
from orchestrator.planning.replay import replay
from orchestrator.planning.sampler import Params, Scored, sample_bracket
from orchestrator.planning.search_config import SearchConfig
from search_spaces import Space

FOLDER = Path(__file__).parent
BRACKET = 8
TRIALS = (4, 8, 16, 32)

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Surrogate:
    """One study of the table as a smooth function, with the points and scores it was fitted to."""

    pair: str
    method: str
    space: Space
    points: Sequence[Params]  # the first has the defaults
    scores: Floats  # [configurations, seeds], tune mIoU in points
    noise: float  # standard deviation over seeds
    mean: Callable[[Floats], Floats]
    best: float

    def value(self, params: Params) -> float:
        return float(self.mean(np.array([coordinates(self.space, params)]))[0])


def coordinates(space: Space, params: Params) -> list[float]:
    """Position of a configuration in the unit cube; a default is at 1, the recipe's value or the neutral weight."""
    return [domain.position(float(params.get(name, 1.0))) for name, domain in space.parameters.items()]


def surrogates() -> list[Surrogate]:
    """All studies of the table, with the seeds that have every configuration."""
    table = pd.read_parquet(FOLDER / "selection.parquet")
    last = table[table["step"] == table["steps_planned"]]
    plan = make_plan(load_sweep(str(FOLDER / "studies" / "selection.yaml")))
    spaces = {study.study_id: study.space for study in plan.studies}
    found: dict[tuple[str, str], list[tuple[Params, Floats]]] = {}
    for trial in replay(plan, {}).trials.values():
        if trial.phase == "search":
            used = used_values(trial.method, trial.method_config, trial.recipe)
            rows = last[(last["pair"] == trial.pair) & (last["method"] == trial.method)]
            mine = rows[[_is_of(text, used) for text in rows["configuration"]]].sort_values("seed")
            found.setdefault((trial.pair, trial.study_id), []).append(
                (trial.params, 100 * mine["tune_miou"].to_numpy())
            )
    return [_fitted(pair, study_id, spaces[study_id], trials) for (pair, study_id), trials in found.items()]


def _is_of(configuration: str, used: Mapping[str, object]) -> bool:
    """Whether a configuration of the table is the one with these settings; settings added since do not count."""
    known = {name: json.loads(text) for name, text in json.loads(configuration).items()}
    return all(known[name] == used[name] for name in known if name in used)


def _fitted(pair: str, study_id: str, space: Space, trials: Sequence[tuple[Params, Floats]]) -> Surrogate:
    scores = np.stack([values for _, values in trials])
    points = [params for params, _ in trials]
    x = np.array([coordinates(space, params) for params in points])
    y, offset = scores.mean(axis=1) - scores.mean(), scores.mean()
    spread = float(np.sqrt(scores.var(axis=1, ddof=1).mean()))
    variance = spread**2 / scores.shape[1]
    scale, signal = max(
        ((scale, signal) for scale in (0.15, 0.25, 0.4, 0.7, 1.2, 2.0) for signal in (0.5, 1, 2, 4, 8, 16)),
        key=lambda kind: _likelihood(x, y, *kind, variance),
    )
    weights = np.linalg.solve(_kernel(x, x, scale, signal) + variance * np.eye(len(x)), y)

    def mean(at: Floats) -> Floats:
        return offset + _kernel(at, x, scale, signal) @ weights

    cube = qmc.Sobol(x.shape[1], rng=0).random_base2(12)
    return Surrogate(
        pair,
        study_id.split(".")[1],
        space,
        points,
        scores,
        spread,
        mean,
        float(max(mean(cube).max(), mean(x).max())),
    )


def _kernel(a: Floats, b: Floats, scale: float, signal: float) -> Floats:
    return signal**2 * np.exp(-((a[:, None] - b[None]) ** 2).sum(axis=2) / (2 * scale**2))


def _likelihood(x: Floats, y: Floats, scale: float, signal: float, noise: float) -> float:
    covariance = _kernel(x, x, scale, signal) + noise * np.eye(len(x))
    _, size = np.linalg.slogdet(covariance)
    return float(-0.5 * y @ np.linalg.solve(covariance, y) - 0.5 * size)


def searched(
    study: Surrogate, search: SearchConfig, seed: int, trials: int, first: Sequence[Params] = ()
) -> Floats:
    """Regret of the chosen configuration after each trial."""
    generator = np.random.default_rng([seed, 7])
    history: list[Scored] = []
    for index in range(trials // BRACKET):
        drawn = sample_bracket(
            search, study.space, seed=seed, index=index, size=BRACKET, first=first, history=history
        )
        different: list[Params] = []
        for params in drawn:
            if params not in different:
                different.append(params)
        for params in different:
            score = (study.value(params) + study.noise * generator.normal()) / 100
            history.append(Scored(params, {1: score}, completed=True))
    history += history[-1:] * (trials - len(history))
    best = [max(history[: n + 1], key=lambda scored: scored.last_score) for n in range(trials)]
    return np.array([study.best - study.value(scored.params) for scored in best])


def searchers_table(studies: Sequence[Surrogate], repeats: int, samplers: Sequence[str]) -> Iterator[str]:
    """Markdown: mean regret of each sampler, with the standard error over its searches."""
    yield f"| sampler | {' | '.join(f'{n} trials' for n in TRIALS)} |"
    yield "| --- " * (1 + len(TRIALS)) + "|"
    options = {"grid": {"levels": 6}}
    for sampler in samplers:
        search = SearchConfig(sampler=sampler, bracket=BRACKET, sampler_options=options.get(sampler, {}))
        regrets = np.array(
            [[searched(study, search, seed, max(TRIALS)) for seed in range(repeats)] for study in studies]
        )
        by_search = regrets.mean(axis=0)  # over the studies
        errors = by_search.std(axis=0, ddof=1) / np.sqrt(repeats)
        cells = " | ".join(f"{by_search[:, n - 1].mean():.2f} ± {errors[n - 1]:.2f}" for n in TRIALS)
        yield f"| `{sampler}` | {cells} |"


def earlier_table(studies: Sequence[Surrogate], repeats: int) -> Iterator[str]:
    """Markdown: regret with and without a start from the other pair, and the trials needed for what Sobol has after 16."""
    search = SearchConfig(bracket=BRACKET)
    sobol, begun = [], []
    for study in studies:
        (other,) = (each for each in studies if each.method == study.method and each.pair != study.pair)
        for seed in range(repeats):
            one = seed % other.scores.shape[1]  # a run has one training seed
            order = [n for n in np.argsort(-other.scores[:, one]).tolist() if other.points[n]]
            first = portfolio({0: ranks([other.points[n] for n in order])}, first_count(BRACKET, 16))
            sobol.append(searched(study, search, seed, 32))
            begun.append(searched(study, search, seed, 32, first))
    plain, prior = np.mean(sobol, axis=0), np.mean(begun, axis=0)
    yield f"| start | {' | '.join(f'{n} trials' for n in (2, 3, 5, *TRIALS[1:]))} | trials for what Sobol has after 16 |"
    yield "| --- " * 8 + "|"
    for name, curve in (("Sobol points", plain), ("`search.from` the other pair", prior)):
        needed = next((n + 1 for n, regret in enumerate(curve) if regret <= plain[15]), None)
        cells = " | ".join(f"{curve[n - 1]:.2f}" for n in (2, 3, 5, *TRIALS[1:]))
        yield f"| {name} | {cells} | {needed or 'more than 32'} |"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("table", choices=["searchers", "earlier"])
    parser.add_argument("--repeats", type=int, default=8)
    parser.add_argument("--samplers", nargs="+", default=["sobol", "random", "grid", "optuna", "hyperopt"])
    options = parser.parse_args()
    studies = surrogates()
    lines = (
        searchers_table(studies, options.repeats, options.samplers)
        if options.table == "searchers"
        else earlier_table(studies, options.repeats)
    )
    for line in lines:
        print(line, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
