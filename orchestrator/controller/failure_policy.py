"""Restart budgets, and which trial crashed its worker. Pure: no Ray, no clock."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from orchestrator.protocol import CrashVerdict, GivenUpError, WorkerPosition, WorkerStart

CONVICTING_DEATHS = 2
"""Deaths at the same step of the same trial after which that trial is held responsible."""


@dataclass
class FailurePolicy:
    """Counts starts of the workers and decides what a death means.

    Deaths without a new checkpoint in between are counted against `limit`. At first it is unknown which trial crashes
    a worker. After the first death workers announce each step, so that two more deaths at one step of one trial
    convict it. Preempted nodes die at any step, so they convict no trial.
    """

    limit: int
    started: int = 0
    deaths_in_a_row: int = 0
    careful: bool = False
    checkpoint: tuple[int, int] = (-1, -1)
    position: WorkerPosition | None = None
    last_error: str = "killed, or its machine is gone"
    deaths_at: Counter[WorkerPosition] = field(default_factory=Counter)
    verdicts: dict[str, CrashVerdict] = field(default_factory=dict)
    fatal_error: Exception | None = None

    def start(self) -> WorkerStart:
        """The workers start. If they did so before, they have died since."""
        if self.started:
            self.deaths_in_a_row += 1
            self.careful = True
            if self.position is not None:
                self.count_death(
                    self.position,
                    f"its worker died {CONVICTING_DEATHS} times at this step; out of memory, or a fault in it",
                )
        self.started += 1
        self.position = None
        if self.deaths_in_a_row > self.limit and self.fatal_error is None:
            self.fatal_error = GivenUpError(
                f"its workers died {self.deaths_in_a_row} times in a row without getting further "
                f"(operation.max_failures is {self.limit}); the last one: {self.last_error}"
            )
        return WorkerStart(self.careful, dict(self.verdicts), self.fatal_error is not None)

    def count_death(self, position: WorkerPosition, reason: str, stack: str = "") -> None:
        """A death at this position; the second one convicts its trial."""
        self.deaths_at[position] += 1
        if position.trial_id is not None and self.deaths_at[position] >= CONVICTING_DEATHS:
            self.verdicts.setdefault(position.trial_id, CrashVerdict(reason, position.step, stack))
            self.deaths_in_a_row = 0

    def count_hang(self, position: WorkerPosition, seconds: float, stack: str) -> None:
        """The workers exit because nothing moved for so many seconds."""
        where = " ".join(line.strip() for line in stack.strip().splitlines()[-2:])
        reason = f"no progress within {seconds:g} s (operation.step_timeout_seconds) in {where}"
        self.last_error = reason
        self.count_death(position, f"{reason}, {CONVICTING_DEATHS} times at this step", stack)
        self.position = None

    def checkpointed(self, checkpoint: tuple[int, int]) -> bool:
        """A checkpoint was written; returns whether positions must still be announced."""
        if checkpoint > self.checkpoint:
            self.checkpoint, self.deaths_in_a_row, self.careful = checkpoint, 0, False
        return self.careful


@dataclass
class RestartBudget:
    """How often work that lost a process of Ray is started again without a trial recorded in between."""

    limit: int = 5
    used: int = 0

    def take(self) -> bool:
        """Whether one more restart is allowed."""
        self.used += 1
        return self.used <= self.limit

    def refill(self) -> None:
        """A trial was recorded."""
        self.used = 0
