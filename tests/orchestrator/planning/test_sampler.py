"""Configurations of a bracket."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.planning.sampler import Scored, sample_bracket
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
    sampler: str, index: int, size: int, history: list[Scored] | None = None, seed: int = 0
) -> list[dict]:
    return [
        dict(p)
        for p in sample_bracket(
            sampler, SPACE, seed=seed, index=index, size=size, bracket=8, history=history or []
        )
    ]


@pytest.mark.parametrize("sampler", ["sobol", "tpe"])
def test_the_first_trial_of_every_study_is_the_methods_default(sampler: str) -> None:
    assert draw(sampler, 0, 4)[0] == {}
    assert all(draw(sampler, 0, 4)[1:])


def test_brackets_of_sobol_points_continue_one_sequence() -> None:
    apart = draw("sobol", 0, 8) + draw("sobol", 1, 8)
    whole = sample_bracket("sobol", SPACE, seed=0, index=0, size=16, bracket=16, history=[])
    assert apart == [dict(p) for p in whole]


def test_another_seed_gives_other_points() -> None:
    assert draw("sobol", 1, 8) != draw("sobol", 1, 8, seed=1)


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


def test_tpe_learns_from_earlier_brackets_and_is_deterministic() -> None:
    def score(params: dict) -> float:
        return -abs(math.log(float(params["kd_weight"]) / 5.0))

    history: list[Scored] = []
    for index in range(5):
        drawn = draw("tpe", index, 8, history)
        assert drawn == draw("tpe", index, 8, history)
        history += [Scored(p, {8: score(p)}, completed=True) for p in drawn if p]
    first = sum(score(dict(s.params)) for s in history[:7]) / 7
    last = sum(score(dict(s.params)) for s in history[-8:]) / 8
    assert last > first


def test_tpe_accepts_pruned_and_failed_trials() -> None:
    drawn = draw("tpe", 0, 8)[1:]
    history = [Scored(drawn[0], {2: 0.1}, completed=False), Scored(drawn[1], {}, completed=False)]
    assert len(draw("tpe", 1, 8, history)) == 8


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
