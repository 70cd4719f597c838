"""When a cohort's workers died: who is to blame, and when to give up."""

from __future__ import annotations

from orchestrator.controller.cohort_channel import FailurePolicy, GivenUpError, WorkerPosition


def test_deaths_at_ever_other_steps_blame_nobody_and_end_when_nothing_is_reached_any_more() -> None:
    attempts = FailurePolicy(limit=3)
    assert not attempts.begin().careful
    for step in range(3):
        attempts.at = WorkerPosition("a", step)
        beginning = attempts.begin()
        assert beginning.careful
        assert not beginning.blamed
        assert not beginning.given_up
    attempts.last_error = "OSError: gone"
    assert attempts.begin().given_up
    assert isinstance(attempts.fatal, GivenUpError)
    assert "died 4 times in a row" in str(attempts.fatal)
    assert "OSError: gone" in str(attempts.fatal)


def test_a_checkpoint_that_stands_further_starts_the_count_anew_and_one_that_does_not_leaves_it() -> None:
    attempts = FailurePolicy(limit=1)
    attempts.begin()
    for position in ((0, 10), (0, 20), (1, 0)):
        attempts.begin()
        assert not attempts.got_on(position)
    attempts.begin()
    assert attempts.got_on((0, 500))
    assert attempts.begin().given_up


def test_two_deaths_at_the_same_step_of_a_trial_blame_it_and_the_others_get_new_attempts() -> None:
    attempts = FailurePolicy(limit=2)
    attempts.begin()
    attempts.begin()  # the first death: nobody knew where it was
    for _ in range(2):
        attempts.at = WorkerPosition("b", 7)
        beginning = attempts.begin()
    assert set(beginning.blamed) == {"b"}
    assert beginning.blamed["b"].step == 7
    assert not beginning.given_up
    assert beginning.careful


def test_a_hang_outside_of_any_trial_blames_none() -> None:
    attempts = FailurePolicy(limit=2)
    for _ in range(3):
        attempts.begin()
        attempts.count(WorkerPosition(None, 4), "no progress")
        attempts.at = None
    assert not attempts.blamed
    assert attempts.begin().given_up
