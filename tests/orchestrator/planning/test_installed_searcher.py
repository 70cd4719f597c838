"""A searcher from another package, by an entry point: no Ray cluster, and no package is installed for it."""

from __future__ import annotations

from importlib.metadata import EntryPoint, EntryPoints
from typing import Any

import pytest

from distill.errors import UsageError
from orchestrator.planning import tune_searchers
from orchestrator.planning.sampler import Scored, sample_bracket
from orchestrator.planning.search_config import SearchConfig
from search_spaces import load_space

SPACE = load_space("kd")


def make(seed: int, step: float = 0.1) -> Any:
    """A searcher that moves each coordinate on from the best point that it was told."""
    from ray.tune.search import Searcher

    class Walk(Searcher):
        def set_search_properties(self, metric: Any, mode: Any, config: dict[str, Any], **spec: Any) -> bool:
            self._names, self._told, self._asked, self._best = list(config), {}, {}, 0.0
            return True

        def suggest(self, trial_id: str) -> dict[str, float]:
            at = max(self._told, key=lambda name: self._told[name], default=None)
            start = self._asked[at] if at else seed % 7 / 10
            self._asked[trial_id] = (start + step * (1 + len(self._asked))) % 1
            return dict.fromkeys(self._names, self._asked[trial_id])

        def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
            self._told[trial_id] = result["tune_miou"] if result else 0.0

    return Walk()


@pytest.fixture(autouse=True)
def _installed(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = EntryPoints([EntryPoint("walk", f"{__name__}:make", tune_searchers.GROUP)])
    monkeypatch.setattr(tune_searchers, "entry_points", lambda **by: entries.select(**by))


def test_a_searcher_of_another_package_is_a_sampler() -> None:
    search = SearchConfig(sampler="walk", bracket=4, sampler_options={"step": 0.05})
    first = sample_bracket(search, SPACE, seed=1, index=0, size=4)
    history = [Scored(point, {8: 0.1 * n}, completed=n != 2) for n, point in enumerate(first)]
    second = sample_bracket(search, SPACE, seed=1, index=1, size=4, history=history)
    other = [Scored(point, {8: 0.9 - 0.1 * n}, completed=True) for n, point in enumerate(first)]
    assert second != sample_bracket(search, SPACE, seed=1, index=1, size=4, history=other)
    assert second == sample_bracket(search, SPACE, seed=1, index=1, size=4, history=history)


def test_its_options_and_its_name_are_checked() -> None:
    with pytest.raises(UsageError, match=r"'walk' refuses search.sampler_options \{'stride': 1\}"):
        sample_bracket(
            SearchConfig(sampler="walk", sampler_options={"stride": 1}), SPACE, seed=1, index=0, size=8
        )
    with pytest.raises(UsageError, match="did you mean 'walk'"):
        tune_searchers.check_sampler_name("walks")
