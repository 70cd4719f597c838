"""Configurations of a bracket."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill.errors import UsageError
from orchestrator.planning.sampler import Scored, sample_bracket
from orchestrator.planning.search_config import SearchConfig
from search_spaces import Domain, Space, load_space

SPACE = Space(
    method="kd",
    parameters={
        "kd_weight": Domain(log_uniform=(0.1, 10)),
        "where": Domain(choice=("logits", "features")),
        "pool": Domain(int_uniform=(1, 4)),
    },
)


def draw(
    sampler: str, index: int, size: int, history: Sequence[Scored] = (), seed: int = 0, **others: Any
) -> list[dict]:
    search = SearchConfig(sampler=sampler, bracket=others.pop("bracket", 8), **others.pop("search", {}))
    points = sample_bracket(search, SPACE, seed=seed, index=index, size=size, history=history, **others)
    return [dict(point) for point in points]


SAMPLERS = ["sobol", "random", "grid", "optuna", "hyperopt"]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_first_trial_of_every_study_is_the_methods_default(sampler: str) -> None:
    assert draw(sampler, 0, 4)[0] == {}
    assert all(draw(sampler, 0, 4)[1:])


@pytest.mark.parametrize("sampler", ["sobol", "random", "grid"])
def test_brackets_of_a_sequence_continue_it(sampler: str) -> None:
    assert draw(sampler, 0, 8) + draw(sampler, 1, 8) == draw(sampler, 0, 16, bracket=16)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_another_seed_gives_other_points(sampler: str) -> None:
    assert draw(sampler, 0, 8) != draw(sampler, 0, 8, seed=1)


def test_a_grid_has_every_choice_both_ends_of_each_range_and_no_point_twice() -> None:
    points = draw("grid", 0, 25, bracket=25, search={"sampler_options": {"levels": 3}, "wave": 25})[1:]
    assert len({tuple(point.values()) for point in points}) == len(points)
    assert {point["kd_weight"] for point in points} == {0.1, 1.0, 10.0}
    assert {point["where"] for point in points} == {"logits", "features"}


@given(unit=st.floats(0, 1, exclude_max=True))
def test_every_point_of_the_cube_is_in_the_domains(unit: float) -> None:
    for domain in SPACE.parameters.values():
        value = domain.at(unit)
        if domain.choice is not None:
            assert value in domain.choice
        else:
            low, high = domain.bounds()  # type: ignore[misc]
            assert low <= float(value) <= high


def test_log_domains_are_uniform_in_the_logarithm() -> None:
    assert math.isclose(float(Domain(log_uniform=(0.01, 100)).at(0.5)), 1.0)


@pytest.mark.parametrize("sampler", ["optuna", "hyperopt"])
def test_a_searcher_learns_from_earlier_brackets(sampler: str) -> None:
    def score(params: dict) -> float:
        return -abs(math.log(float(params["kd_weight"]) / 5.0))

    history: list[Scored] = []
    for index in range(4):
        drawn = draw(sampler, index, 8, history)
        history += [Scored(p, {8: score(p) if p else -9.0}, completed=True) for p in drawn]
    first = sum(score(dict(s.params)) for s in history[1:8]) / 7
    last = sum(score(dict(s.params)) for s in history[-8:]) / 8
    assert last > first


@pytest.mark.parametrize("sampler", ["optuna", "hyperopt"])
def test_a_searcher_is_told_pruned_and_failed_trials(sampler: str) -> None:
    drawn = draw(sampler, 0, 8)
    ended = [Scored(p, {2: 0.1 * n} if n % 3 else {}, completed=False) for n, p in enumerate(drawn)]
    other = [Scored(p, {2: 0.9 - 0.1 * n} if n % 3 else {}, completed=False) for n, p in enumerate(drawn)]
    assert draw(sampler, 1, 8, ended) != draw(sampler, 1, 8, other)


def test_a_searcher_leaves_the_global_random_state_alone() -> None:
    random.seed(3)
    np.random.seed(3)
    expected = random.random(), np.random.random()
    random.seed(3)
    np.random.seed(3)
    draw("hyperopt", 0, 8)
    assert (random.random(), np.random.random()) == expected


def test_a_searcher_whose_points_depend_on_something_else_is_refused() -> None:
    drawn = draw("optuna", 0, 8)
    history = [Scored({"kd_weight": 1.0}, {8: 0.5}, completed=True) for _ in drawn]
    with pytest.raises(UsageError, match="has drawn other configurations than before"):
        draw("optuna", 1, 8, history)


def test_an_option_that_a_searcher_does_not_have_is_refused_with_its_reason() -> None:
    with pytest.raises(UsageError, match=r"refuses search.sampler_options \{'gama': 2\}.*gama"):
        draw("hyperopt", 0, 8, search={"sampler_options": {"gama": 2}})
    with pytest.raises(UsageError, match="did you mean 'QMCSampler'"):
        draw("optuna", 0, 8, search={"sampler_options": {"sampler": "QMCSample"}})


@given(unit=st.floats(0, 1))
def test_a_value_is_what_its_position_means(unit: float) -> None:
    for domain in (*SPACE.parameters.values(), Domain(uniform=(-3, 7)), Domain(scale_log_uniform=(0.25, 4))):
        if domain.choice is None:
            value = domain.at(unit)
            assert domain.at(domain.position(value)) == value  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "domain",
    [{}, {"uniform": [2, 1]}, {"log_uniform": [0, 1]}, {"choice": []}, {"uniform": [0, 1], "choice": [1]}],
)
def test_an_invalid_domain_is_refused(domain: dict) -> None:
    with pytest.raises(ValueError, match=r"must|needs"):
        Domain.model_validate(domain)


def test_a_combined_method_has_the_spaces_of_both() -> None:
    names = set(load_space("kd+cwd").parameters)
    assert {"kd.kd_weight", "cwd.cwd_weight"} <= names


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_given_configurations_come_first_and_are_not_drawn_again(sampler: str) -> None:
    given = draw("sobol", 0, 8)[1:4]
    drawn = draw(sampler, 0, 8, first=given)
    assert drawn[:4] == [{}, *given]
    assert not [point for point in drawn[4:] if point in given]
    history = [Scored(params, {8: 0.1 * number}, completed=True) for number, params in enumerate(drawn)]
    assert not [point for point in draw(sampler, 1, 8, history, first=given) if point in (*given, {})]


def test_more_given_configurations_than_a_bracket_has_go_on_in_the_next() -> None:
    given = draw("sobol", 0, 16, bracket=16)[1:]
    apart = draw("sobol", 0, 8, first=given) + draw("sobol", 1, 8, first=given)
    assert apart == [{}, *given]
