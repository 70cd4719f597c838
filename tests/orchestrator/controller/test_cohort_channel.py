"""What workers that wait at the coordinator are answered, and when."""

from __future__ import annotations

import asyncio

import pytest

from orchestrator.controller import condition
from orchestrator.controller.cohort_channel import CohortChannel
from orchestrator.controller.report_queue import ReportQueue


def test_workers_that_wait_at_a_rung_are_woken_by_a_stop_and_by_the_decision(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(condition, "POLL_SECONDS", 600.0)

    async def scene() -> None:
        channel = CohortChannel(1, ReportQueue())
        waiting = asyncio.create_task(channel.survivors(8, ["a", "b"]))
        await asyncio.sleep(0)
        await channel.stop()
        assert await asyncio.wait_for(waiting, 60) is None
        await channel.decide(8, ["a", "b"], [])
        assert await asyncio.wait_for(channel.survivors(8, ["a", "b"]), 60) == ["a", "b"]

    asyncio.run(scene())
