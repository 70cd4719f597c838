"""When a cohort ends, and whether one more worker_group helps."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.controller.makespan import MakespanEstimate, ProgressSample, estimate_makespan


def test_waves_go_to_whichever_worker_group_is_free_first() -> None:
    assert MakespanEstimate((10.0,), 2, 30.0).seconds() == 70.0
    assert MakespanEstimate((10.0,), 2, 30.0).seconds(20.0) == 50.0  # one wave each
    assert MakespanEstimate((10.0, 25.0), 3, 30.0).seconds() == 70.0
    assert MakespanEstimate((10.0, 25.0), 0, 30.0).seconds(5.0) == 25.0


@pytest.mark.parametrize(
    ("unopened", "start", "sooner"),
    [
        (1, 5.0, True),  # the wave to come ends at 35 instead of 40
        (1, 15.0, False),  # it would end at 45
        (0, 0.0, False),  # nothing is left to take over
        (4, 25.0, True),
    ],
)
def test_one_more_worker_group_is_worth_it_only_where_the_cohort_ends_sooner_with(
    unopened: int, start: float, sooner: bool
) -> None:
    assert MakespanEstimate((10.0,), unopened, 30.0).ends_sooner_with(start) is sooner


@given(
    rest=st.lists(st.floats(0, 1e3), min_size=1, max_size=5),
    unopened=st.integers(0, 40),
    wave=st.floats(0.1, 1e3),
    start=st.floats(0, 1e4),
)
def test_one_more_worker_group_never_makes_it_later(
    rest: list[float], unopened: int, wave: float, start: float
) -> None:
    found = MakespanEstimate(tuple(rest), unopened, wave)
    assert found.seconds(start) <= max(found.seconds(), start + wave)


def test_a_pace_leaves_out_what_came_before_training() -> None:
    sample = ProgressSample(seconds=30.0, step=60, steps=100, first_seconds=20.0, first_step=10)
    assert sample.wave_seconds == pytest.approx(20.0)
    found = estimate_makespan([sample], [], unopened=3)
    assert found is not None
    assert (found.remaining_seconds, found.wave_seconds) == (pytest.approx((8.0,)), pytest.approx(20.0))


def test_a_wave_just_opened_is_taken_to_last_as_the_one_before() -> None:
    fresh = ProgressSample(seconds=2.0, step=10, steps=100, first_seconds=2.0, first_step=10)
    assert estimate_makespan([fresh], [], unopened=3) is None
    assert estimate_makespan([fresh], [40.0, 20.0], unopened=3) == MakespanEstimate((18.0,), 3, 20.0)
