"""Where a worker was when it died, as the coordinator's failure policy counts it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from orchestrator.controller.failure_policy import FailurePolicy
from orchestrator.protocol import WorkerPosition
from orchestrator.worker.watchdog import Watchdog


class Channel:
    """The failure policy, without an actor in between."""

    def __init__(self) -> None:
        self.policy = FailurePolicy(limit=100)

    def announce(self, position: WorkerPosition | None) -> None:
        self.policy.position = position


class LateDevice:
    """Reports a fault when the host waits for it, not when the faulty work is launched."""

    def __init__(self) -> None:
        self.faulty = False

    def settle(self) -> None:
        if self.faulty:
            raise torch.AcceleratorError("CUDA error: device-side assert triggered")


def test_a_fault_that_the_device_reports_late_convicts_the_trial_that_caused_it() -> None:
    channel: Any = Channel()
    channel.policy.start()
    while not (start := channel.policy.start()).verdicts:
        device = LateDevice()
        watchdog = Watchdog(
            channel,
            speaks=True,
            limit_seconds=None,
            careful=start.careful,
            settle=device.settle,
            runs_ahead=True,
        )
        watchdog.move_to("innocent before", 3)
        watchdog.move_to("guilty", 3)
        device.faulty = True
        with pytest.raises(torch.AcceleratorError):
            watchdog.move_to("innocent after", 3)
    assert set(start.verdicts) == {"guilty"}


def test_waiting_for_the_device_and_the_other_workers_costs_once_per_position_and_nothing_without_care() -> (
    None
):
    channel: Any = Channel()
    waits: list[str] = []
    for careful in (False, True):
        watchdog = Watchdog(
            channel, speaks=True, limit_seconds=None, careful=careful,
            settle=lambda: waits.append("x"), runs_ahead=True,
        )  # fmt: skip
        for _ in range(3):
            watchdog.move_to("trial", 0)
        watchdog.rest()
        assert len(waits) == (2 if careful else 0)
