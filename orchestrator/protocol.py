"""What a cohort tells of a student. Imports nothing slow: every Tune trial's process reads it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Status = Literal["ok", "pruned", "failed", "stopped"]


@dataclass(frozen=True)
class Costs:
    """What a trial has cost so far, in seconds of one worker unless its name says otherwise."""

    student_seconds: float = 0.0
    shared_seconds: float = 0.0
    teacher_seconds: float = 0.0
    wall_seconds: float = 0.0
    peak_memory_bytes: int = 0


@dataclass(frozen=True)
class Report:
    """What a cohort tells of one student at one step; `status` ends the trial."""

    trial_id: str
    step: int
    status: Status | None = None
    tune_miou: float | None = None
    test_miou: float | None = None
    lr: float | None = None
    terms_raw: dict[str, float] = field(default_factory=dict)
    terms_weighted: dict[str, float] = field(default_factory=dict)
    costs: Costs = field(default_factory=Costs)
    checkpoint: str | None = None
    error: str | None = None
    remark: str | None = None
    started_at: float = 0.0
    finished_at: float = 0.0
