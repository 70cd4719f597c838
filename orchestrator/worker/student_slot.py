"""One student of a wave: its training, its costs, its reports, and what a checkpoint has of it."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from distill.device_errors import is_out_of_memory
from distill.device_memory import copy_to_host
from distill.models.output import MapName
from distill.models.teachers import TeacherNetwork
from distill.training import State, Student
from orchestrator.planning.plan import Trial
from orchestrator.protocol import Costs, CrashVerdict, Report


@dataclass
class LoadedTeacher:
    """A loaded teacher in the slot of a student: it is evaluated like a student and not trained."""

    scored_model: TeacherNetwork

    def average_buffers(self) -> None:
        """Nothing to average: every worker has loaded the same."""

    def read_losses(self) -> tuple[dict[str, float], dict[str, float]]:
        """No losses."""
        return {}, {}

    def state_dict(self) -> None:
        """Nothing to resume: its weights are in the run."""


@dataclass(eq=False)  # slots are compared by identity
class StudentSlot:
    """One student of a wave.

    Attributes:
        accumulate: factor on the recipe's `accumulate`, after the student ran out of memory.
        most_together: students on the device, with this one, while it trains; None for no limit of its own.
        averaged_at: step at which the running statistics were averaged over the workers, so that it is not done twice.
        scored_in: 0: beside other students; n: alone, in n parts of a batch, after scoring it ran out of memory.
        host_state: state of the student, on the host, while it is not on the device.
    """

    trial: Trial
    student: Student | LoadedTeacher | None = None
    step: int = 0
    costs: Costs = field(default_factory=Costs)
    reports: list[Report] = field(default_factory=list)
    started_at: float = field(default_factory=time.time)
    accumulate: int = 1
    remark: str | None = None
    most_together: int | None = None
    averaged_at: int | None = None
    scored_in: int = 0
    host_state: State | None = None

    def move_to_host(self) -> None:
        """Take the student off the device; `host_state` is what it resumes from."""
        if isinstance(self.student, Student):
            self.host_state = copy_to_host(self.student.state_dict())
        self.student = None

    def rewind(self, saved: Mapping[str, Any] | None) -> None:
        """Back to a checkpoint's entry, or to step 0, with a student that is still to be built."""
        if saved is not None and saved["accumulate"] != self.accumulate:
            saved = None
        self.student = None
        self.host_state, self.step = (None, 0) if saved is None else (saved["student"], saved["step"])
        self.averaged_at = None if saved is None else saved.get("averaged_at")

    def release(self) -> None:
        """The trial has ended: its student is needed no more."""
        self.student = self.host_state = None

    @property
    def ended(self) -> bool:
        """Whether the last report ended the trial."""
        return bool(self.reports) and self.reports[-1].status is not None

    @property
    def needs(self) -> frozenset[MapName]:
        """The teacher's maps that this student's loss reads."""
        return self.student.method.needs if isinstance(self.student, Student) else frozenset()

    @property
    def needs_teacher(self) -> bool:
        """Whether this student's loss reads the teacher's output."""
        return bool(self.needs)

    def was_reported(self, step: int) -> bool:
        """Whether there is a report of this step."""
        return any(report.step == step for report in self.reports)

    def step_of(self, error: Exception) -> int:
        """The step at which an error happened: the error may know, or the student."""
        failed_at = self.student.failed_at if isinstance(self.student, Student) else None
        known: int | None = getattr(error, "step", failed_at)
        return self.step if known is None else known

    def entry(self) -> dict[str, Any]:
        """Entry of this student in a checkpoint: plain values and tensors."""
        return {
            "step": self.step,
            "costs": asdict(self.costs),
            "reports": [asdict(report) for report in self.reports],
            "started_at": self.started_at,
            "accumulate": self.accumulate,
            "remark": self.remark,
            "most_together": self.most_together,
            "averaged_at": self.averaged_at,
            "student": self.host_state if self.student is None else self.student.state_dict(),
        }

    @classmethod
    def restored(cls, trial: Trial, entry: Mapping[str, Any]) -> StudentSlot:
        """The slot of a checkpoint's entry; its student is still to be built."""
        reports = [Report(**{**report, "costs": Costs(**report["costs"])}) for report in entry["reports"]]
        plain = {key: entry[key] for key in ("step", "started_at", "accumulate", "remark")}
        plain |= {
            key: entry.get(key) for key in ("most_together", "averaged_at")
        }  # older checkpoints lack them
        costs = Costs(**entry["costs"])
        return cls(trial, costs=costs, reports=reports, host_state=entry["student"], **plain)


class CrashVerdictError(RuntimeError):
    """The trial ended its worker more than once."""

    def __init__(self, verdict: CrashVerdict) -> None:
        self.step = verdict.step
        super().__init__(verdict.reason)
        self.add_note(verdict.stack)


def explain_error(error: Exception) -> str:
    """Text of an error for the ledger. For a failed allocation: its size and what to do."""
    text = str(error) if isinstance(error, CrashVerdictError) else f"{type(error).__name__}: {error}"
    if not is_out_of_memory(error):
        return text
    found = re.search(r"tried to allocate ([\d.]+ ?\w+)", str(error), re.IGNORECASE)
    size = "" if found is None else f" (asked for {_in_gib(found[1])})"
    return (
        f"out of memory{size}: lower recipe.batch_size, divide the batch by recipe.accumulate (or allow it where it is "
        f"needed by recipe.accumulate_if_out_of_memory); {text}"
    )


def _in_gib(amount: str) -> str:
    """`1234567 bytes` in GiB; an amount that has another unit stays."""
    number, _, unit = amount.partition(" ")
    return f"{float(number) / 2**30:.3g} GiB" if unit.startswith("byte") else amount
