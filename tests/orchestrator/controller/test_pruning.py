"""The rules by which trials stop at a rung, without Ray's cluster; Ray Tune's own class is the oracle of one of them."""

from __future__ import annotations

import random
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.controller.pruning import RULES, halve, stop_below_median
from orchestrator.planning.cost_estimate import estimate
from orchestrator.planning.plan import make_plan
from tests import examples
from tests.orchestrator.sweep_files import tiny_sweep

STEPS = (1, 2, 4)


@dataclass(frozen=True)
class TuneTrial:
    trial_id: str


scores = st.lists(
    st.lists(st.floats(0, 1, allow_nan=False), min_size=len(STEPS), max_size=len(STEPS)),
    min_size=1,
    max_size=8,
)


@given(curves=scores, rung=st.sampled_from(STEPS))
@settings(max_examples=examples(100), deadline=None)
def test_a_trial_stops_below_the_median_as_tune_would_stop_it_if_it_reported_last(
    curves: list[list[float]], rung: int
) -> None:
    from ray.tune.schedulers import MedianStoppingRule

    known = {f"t{n}": dict(zip(STEPS, curve, strict=True)) for n, curve in enumerate(curves)}
    trials = {trial_id: TuneTrial(trial_id) for trial_id in known}
    expected = []
    for asked in known:
        rule = MedianStoppingRule("step", metric="miou", mode="max", grace_period=0, min_samples_required=3)
        for trial_id, curve in known.items():
            before = [step for step in STEPS if step < rung or (step == rung and trial_id != asked)]
            rule._results[trials[trial_id]] += [{"step": step, "miou": curve[step]} for step in before]
        report = {"step": rung, "miou": known[asked][rung]}
        if rule.on_trial_result(SimpleNamespace(get_live_trials=list), trials[asked], report) == "STOP":
            expected.append(asked)
    kept, dropped = stop_below_median(known, rung)
    assert list(dropped) == expected
    assert sorted((*kept, *dropped)) == sorted(known)


def test_of_three_trials_none_stops_below_a_median() -> None:
    known = {"a": {1: 0.1}, "b": {1: 0.5}, "c": {1: 0.9}}
    assert stop_below_median(known, 1) == (("a", "b", "c"), ())
    assert stop_below_median({**known, "d": {1: 0.9}}, 1) == (("c", "d"), ("a", "b"))


@pytest.mark.parametrize("rule", [halve, stop_below_median])
def test_scores_after_the_rung_and_the_order_of_reports_do_not_count(rule: object) -> None:
    generator = random.Random(0)
    early = {f"t{n}": {1: generator.random(), 2: generator.random()} for n in range(8)}
    late = {trial: {4: generator.random(), **known} for trial, known in early.items()}
    assert RULES["halving"] is halve
    assert rule(late, 2) == rule(early, 2)  # type: ignore[operator]


def test_without_pruning_every_search_trial_trains_to_the_end() -> None:
    steps = {
        pruning: estimate(make_plan(tiny_sweep(search__pruning=pruning)))["phases"]["search"]["student_steps"]
        for pruning in ("halving", "median", "none")
    }
    assert steps["none"] == steps["median"] == 3 * 4 * 8  # studies, trials, steps: at most
    assert steps["halving"] < steps["none"]
    waves = make_plan(tiny_sweep(search__pruning="none")).students[0].waves
    assert {wave.rungs for wave in waves} == {()}
