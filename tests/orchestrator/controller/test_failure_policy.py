"""When a cohort's workers died: which trial is held responsible, and when to give up."""

from __future__ import annotations

from orchestrator.controller.failure_policy import FailurePolicy, RestartBudget
from orchestrator.protocol import GivenUpError, WorkerPosition


def test_deaths_at_ever_other_steps_convict_nobody_and_end_when_nothing_is_reached_any_more() -> None:
    policy = FailurePolicy(limit=3)
    assert not policy.start().careful
    for step in range(3):
        policy.position = WorkerPosition("a", step)
        start = policy.start()
        assert start.careful
        assert not start.verdicts
        assert not start.given_up
    policy.last_error = "OSError: gone"
    assert policy.start().given_up
    assert isinstance(policy.fatal_error, GivenUpError)
    assert "died 4 times in a row" in str(policy.fatal_error)
    assert "OSError: gone" in str(policy.fatal_error)


def test_a_checkpoint_that_stands_further_starts_the_count_anew_and_one_that_does_not_leaves_it() -> None:
    policy = FailurePolicy(limit=1)
    policy.start()
    for position in ((0, 10), (0, 20), (1, 0)):
        policy.start()
        assert not policy.checkpointed(position)
    policy.start()
    assert policy.checkpointed((0, 500))
    assert policy.start().given_up


def test_two_deaths_at_the_same_step_of_a_trial_convict_it_and_the_others_get_new_attempts() -> None:
    policy = FailurePolicy(limit=2)
    policy.start()
    policy.start()  # the first death: nobody knew where it was
    for _ in range(2):
        policy.position = WorkerPosition("b", 7)
        start = policy.start()
    assert set(start.verdicts) == {"b"}
    assert start.verdicts["b"].step == 7
    assert not start.given_up
    assert start.careful


def test_a_hang_outside_of_any_trial_convicts_none() -> None:
    policy = FailurePolicy(limit=2)
    for _ in range(3):
        policy.start()
        policy.count_death(WorkerPosition(None, 4), "no progress")
        policy.position = None
    assert not policy.verdicts
    assert policy.start().given_up


def test_lost_processes_of_ray_are_replaced_five_times_without_a_recorded_trial_in_between() -> None:
    budget = RestartBudget()
    assert [budget.take() for _ in range(6)] == [True] * 5 + [False]
    budget.refill()
    assert budget.take()
