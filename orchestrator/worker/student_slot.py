"""One student's place in a wave, and what a checkpoint keeps of it."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch.utils._pytree import tree_map

from distill.training import State, Student
from orchestrator.controller.cohort_channel import CrashVerdict
from orchestrator.planning.plan import Trial
from orchestrator.protocol import Costs, Report
from orchestrator.worker.evaluator import LoadedTeacher


@dataclass(eq=False)  # a seat is itself, whatever it holds
class StudentSlot:
    """One student's place: its training, what it has cost, what it has told."""

    trial: Trial
    student: Student | LoadedTeacher | None = None
    step: int = 0
    costs: Costs = field(default_factory=Costs)
    reports: list[Report] = field(default_factory=list)
    started_at: float = field(default_factory=time.time)
    accumulate: int = 1
    """By how much more the batch is divided than the recipe says, after the student ran out of memory."""
    remark: str | None = None
    alone: bool = False
    """Whether it is trained with no other student on the device, after it ran out of memory beside others."""
    waiting: State | None = None
    """What the student needs to go on, on the host, while it is not on the device."""

    def wait_on_host(self) -> None:
        """Takes the student off the device; `waiting` is what it goes on from."""
        if isinstance(self.student, Student):
            self.waiting = tree_map(_on_host, self.student.state_dict())
        self.student = None

    def begin_anew(self, remark: str) -> None:
        """Back to step 0, with a student that is still to be built."""
        self.student, self.waiting, self.step, self.remark = None, None, 0, remark

    def leave(self) -> None:
        """The trial has ended: nothing of its student is needed any more."""
        self.student = self.waiting = None

    @property
    def ended(self) -> bool:
        """Whether the last report ended the trial."""
        return bool(self.reports) and self.reports[-1].status is not None

    @property
    def needs(self) -> frozenset[str]:
        """What this student's loss reads, in the words of its method's card."""
        return frozenset(self.student.method.card.needs if isinstance(self.student, Student) else ())

    @property
    def needs_teacher(self) -> bool:
        """Whether this student's loss reads the teacher's output."""
        return "teacher" in self.needs

    def reported_at(self, step: int) -> bool:
        """Whether this step has been reported."""
        return any(report.step == step for report in self.reports)

    def step_of(self, error: Exception) -> int:
        """Where it went wrong: the error may know, or the student."""
        failed_at = self.student.failed_at if isinstance(self.student, Student) else None
        known: int | None = getattr(error, "step", failed_at)
        return self.step if known is None else known

    def entry(self) -> dict[str, Any]:
        """What a checkpoint keeps: plain values and tensors."""
        return {
            "step": self.step,
            "costs": asdict(self.costs),
            "reports": [asdict(report) for report in self.reports],
            "started_at": self.started_at,
            "accumulate": self.accumulate,
            "remark": self.remark,
            "alone": self.alone,
            "student": self.waiting if self.student is None else self.student.state_dict(),
        }

    @classmethod
    def restored(cls, trial: Trial, entry: Mapping[str, Any]) -> StudentSlot:
        """The seat of `entry`; its student waits to be built."""
        reports = [Report(**{**report, "costs": Costs(**report["costs"])}) for report in entry["reports"]]
        plain = {key: entry[key] for key in ("step", "started_at", "accumulate", "remark")}
        costs = Costs(**entry["costs"])
        alone = entry.get("alone", False)  # older checkpoints do not say
        return cls(trial, costs=costs, reports=reports, alone=alone, waiting=entry["student"], **plain)


def _on_host(value: Any) -> Any:
    return value.cpu() if isinstance(value, torch.Tensor) else value


class CrashVerdictError(RuntimeError):
    """A trial that ended the worker it was trained in, more than once."""

    def __init__(self, blame: CrashVerdict) -> None:
        self.step = blame.step
        super().__init__(blame.reason)
        self.add_note(blame.stack)


def is_out_of_memory(error: Exception) -> bool:
    """Whether an allocation failed, on a GPU or on the host."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


def explained(error: Exception) -> str:
    """The error for the ledger; of a failed allocation with its figure and what to do."""
    text = str(error) if isinstance(error, CrashVerdictError) else f"{type(error).__name__}: {error}"
    if not is_out_of_memory(error):
        return text
    found = re.search(r"tried to allocate ([\d.]+ ?\w+)", str(error), re.IGNORECASE)
    figure = "" if found is None else f" (asked for {_readable(found[1])})"
    return (
        f"out of memory{figure}: lower recipe.batch_size, divide the batch by recipe.accumulate (or allow it where it is "
        f"needed by recipe.accumulate_if_out_of_memory); {text}"
    )


def _readable(amount: str) -> str:
    """`1234567 bytes` in GiB; what has a unit already stays."""
    number, _, unit = amount.partition(" ")
    return f"{float(number) / 2**30:.3g} GiB" if unit.startswith("byte") else amount
