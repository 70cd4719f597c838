"""Which cohort the workers of a worker group train: told to each of them, whenever it asks and however often it started."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.controller import condition
from orchestrator.controller.assignments import Assignments


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(condition, "POLL_SECONDS", 0.05)


def job(name: str) -> Any:
    return SimpleNamespace(name=name)


def test_a_worker_that_is_done_with_a_cohort_is_not_given_it_again_before_the_first_of_them_says_it_is_idle() -> (
    None
):
    async def scene() -> None:
        assignments = Assignments()
        first = job("teacher")
        await assignments.assign("group", first)
        assert await assignments.current("group", None) is first
        assert (
            await assignments.current("group", "teacher") is None
        )  # a worker of higher rank, a moment early
        assert not await assignments.is_idle("group")
        await assignments.finish("group")
        assert await assignments.is_idle("group")
        assert (
            await assignments.current("group", None) is None
        )  # a worker that started again has nothing to repeat
        second = job("students")
        await assignments.assign("group", second)
        assert await assignments.current("group", "teacher") is second
        assert await assignments.current("group", None) is second

    asyncio.run(scene())


def test_news_reach_a_worker_that_waits_and_only_its_own_group() -> None:
    async def scene() -> None:
        assignments = Assignments()
        waiting = asyncio.create_task(assignments.current("a", None))
        other = asyncio.create_task(assignments.current("b", None))
        await asyncio.sleep(0)
        given = job("students")
        await assignments.assign("a", given)
        assert await waiting is given
        assert await other is None

    asyncio.run(scene())


def test_a_group_that_is_sent_home_finishes_its_cohort_first() -> None:
    async def scene() -> None:
        assignments = Assignments()
        last = job("students")
        await assignments.assign("group", last)
        await assignments.close("group")
        assert await assignments.current("group", None) is last
        await assignments.finish("group")
        assert await assignments.current("group", "students") == "closed"

    asyncio.run(scene())


def test_the_gallery_is_begun_once_however_often_its_worker_dies_and_tells_what_it_leaves_out() -> None:
    async def scene() -> None:
        assignments = Assignments()
        await assignments.assign("group", job("gallery"))
        assert await assignments.claim_once("group")
        assert not await assignments.claim_once("group")  # the worker that was started in place of the first
        assert await assignments.claim_once("another")
        await assignments.finish("group", ["a pair without weights"])
        assert await assignments.is_idle("group")
        assert await assignments.notes("group") == ["a pair without weights"]

    asyncio.run(scene())
