"""The order in which configurations of earlier studies are tried."""

from __future__ import annotations

from orchestrator.planning.portfolio import portfolio, ranks

A, B, C, D = ({"w": value} for value in (1.0, 2.0, 3.0, 4.0))


def test_the_first_is_good_everywhere_and_the_next_where_the_first_is_not() -> None:
    studies = {"one": ranks([A, C, D, B]), "two": ranks([B, C, D, A])}
    assert portfolio(studies, 3) == [C, A, B]


def test_when_every_study_has_its_best_it_goes_on_with_the_rest() -> None:
    assert portfolio({"one": ranks([A, B, C, D])}, 3) == [A, B, C]


def test_configurations_that_each_study_drew_for_itself_are_taken_in_turn() -> None:
    studies = {"one": ranks([A, B]), "two": ranks([C, D])}
    assert portfolio(studies, 2) == [A, C]


def test_a_configuration_that_was_trained_twice_counts_once() -> None:
    assert portfolio({"one": ranks([A, B, A])}, 5) == [A, B]
