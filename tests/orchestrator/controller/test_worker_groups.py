"""Which cohort the workers of a crew train: told to each of them, whenever it asks and however often it started."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.controller import condition as news
from orchestrator.controller.assignments import Assignments


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(news, "POLL_SECONDS", 0.05)


def job(name: str) -> Any:
    return SimpleNamespace(name=name)


def test_a_worker_that_is_done_with_a_cohort_is_not_given_it_again_before_the_first_of_them_says_it_is_over() -> (
    None
):
    async def scene() -> None:
        office = Assignments()
        first = job("teacher")
        await office.assign("crew", first)
        assert await office.current("crew", None) is first
        assert await office.current("crew", "teacher") is None  # a worker of higher rank, a moment early
        assert not await office.is_over("crew")
        await office.finish("crew")
        assert await office.is_over("crew")
        assert await office.current("crew", None) is None  # a worker that started again has nothing to repeat
        second = job("students")
        await office.assign("crew", second)
        assert await office.current("crew", "teacher") is second
        assert await office.current("crew", None) is second

    asyncio.run(scene())


def test_news_reach_a_worker_that_waits_and_only_its_own_crew() -> None:
    async def scene() -> None:
        office = Assignments()
        waiting = asyncio.create_task(office.current("a", None))
        other = asyncio.create_task(office.current("b", None))
        await asyncio.sleep(0)
        given = job("students")
        await office.assign("a", given)
        assert await waiting is given
        assert await other is None

    asyncio.run(scene())


def test_a_crew_that_is_sent_home_finishes_its_cohort_first() -> None:
    async def scene() -> None:
        office = Assignments()
        last = job("students")
        await office.assign("crew", last)
        await office.close("crew")
        assert await office.current("crew", None) is last
        await office.finish("crew")
        assert await office.current("crew", "students") == "closed"

    asyncio.run(scene())


def test_the_gallery_is_begun_once_however_often_its_worker_dies_and_tells_what_it_leaves_out() -> None:
    async def scene() -> None:
        office = Assignments()
        await office.assign("crew", job("gallery"))
        assert await office.takes_up("crew")
        assert not await office.takes_up("crew")  # the worker that was started in place of the first
        assert await office.takes_up("another")
        await office.finish("crew", ["a pair without weights"])
        assert await office.is_over("crew")
        assert await office.notes("crew") == ["a pair without weights"]

    asyncio.run(scene())
