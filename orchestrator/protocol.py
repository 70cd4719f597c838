"""What crosses processes: jobs, waves, reports and decisions as frozen dataclasses, and the messages of the coordinator.

Imports nothing slow: Tune's report poller reads it, and so does every worker before it imports torch.
"""

from __future__ import annotations

import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from distill.data import Role, SegmentationDataset, Split
    from orchestrator.planning.config import ComputeConfig, OperationConfig, SweepConfig
    from orchestrator.planning.plan import Cohort, Trial, Wave

Status = Literal["ok", "pruned", "failed", "stopped"]
STARTING, READY = "starting", "ready"
"""Activities of a worker group before it trains: its processes are being started; they have reported."""
SKIPPED_PICTURES = "logs/skipped"
"""Folder of a run with one file for each picture that could not be read."""


@dataclass(frozen=True)
class Costs:
    """What a trial has cost so far, in seconds of one worker unless its name says otherwise.

    `peak_memory_bytes` is None where it is not measured: on a CPU.
    """

    student_seconds: float = 0.0
    shared_seconds: float = 0.0
    teacher_seconds: float = 0.0
    wall_seconds: float = 0.0
    peak_memory_bytes: int | None = None


@dataclass(frozen=True)
class Report:
    """State of one trial at one step. A `status` ends the trial."""

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


class PolledReport(NamedTuple):
    """Answer of the report queue to one poll."""

    report: Report | None
    next_trial_id: str | None
    """Trial to poll next: the same one if it has another unread report, None if no trial has one."""


@dataclass(frozen=True)
class WaveOrder:
    """A wave with those of its trials that are still to be trained."""

    wave: Wave
    trials: tuple[Trial, ...]
    retried: frozenset[str] = frozenset()
    """Trials that failed in an earlier command: a failure recorded in a checkpoint no longer counts."""

    @property
    def index(self) -> int:
        """Number of the wave in its cohort."""
        return self.wave.index


@dataclass(frozen=True)
class CohortProgress:
    """Where a worker group is in its cohort, for the progress display and the budget."""

    wave: int = -1
    step: int = 0
    steps: int = 0
    students: int = 0
    activity: str = STARTING
    worker_seconds: float = 0.0
    """Cost so far of the students that are still training."""


@dataclass(frozen=True)
class WorkerPosition:
    """What a worker works on: one trial at a step, or what all trials share (`trial_id` is None)."""

    trial_id: str | None
    step: int


@dataclass(frozen=True)
class CrashVerdict:
    """Why a trial is held responsible for the end of its workers, at which step, and the stack if it is known."""

    reason: str
    step: int
    stack: str


@dataclass(frozen=True)
class WorkerStart:
    """The coordinator's answer to workers that start, for the first time or after a crash."""

    careful: bool
    """An earlier attempt died: announce every position before working on it."""
    verdicts: Mapping[str, CrashVerdict]
    """Trials that ended earlier attempts."""
    given_up: bool


class ChannelClosedError(Exception):
    """The phase of this cohort channel is over."""


class RayLostError(Exception):
    """A process of Ray has died that a sweep cannot do without. Everything that is recorded stays.

    Args:
        reason: what was lost, as a sentence without its full stop.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(f"{reason}. What is recorded stays; the same command goes on from here")


class CoordinatorLostError(RayLostError):
    """The coordinator's process has died."""

    def __init__(self) -> None:
        super().__init__(
            "Ray lost the coordinator of this sweep (its process died; is the head node out of memory?)"
        )


class GivenUpError(Exception):
    """The workers of a cohort died again and again without progress."""


class CohortChannelClient(typing.Protocol):
    """Messages that the workers of one worker group send. The client of the coordinator implements them."""

    def start(self) -> WorkerStart:
        """The workers start, for the first time or after a crash."""

    def next_wave(self, finished: int) -> WaveOrder | Literal["closed"] | None:
        """Next wave after wave `finished`; `closed` if none follows; None if there is no news yet."""

    def post(self, reports: Sequence[Report]) -> None:
        """Send reports, in order. A report that was sent before is ignored."""

    def survivors(self, rung: int, trial_ids: Sequence[str]) -> list[str] | None:
        """Those of the trials that continue beyond a rung; None while that is undecided, at once if the sweep stops."""

    def heartbeat(self, progress: CohortProgress) -> bool:
        """Send progress; returns whether the cohort must stop."""

    def announce(self, position: WorkerPosition | None) -> None:
        """Say what the workers are about to do. Used after a crash."""

    def checkpointed(self, position: tuple[int, int]) -> bool:
        """A checkpoint was written at (wave, sum of steps); returns whether positions must still be announced."""

    def report_hang(self, position: WorkerPosition, seconds: float, stack: str, *, timeout: float) -> None:
        """No progress for so many seconds; the workers exit after this message."""

    def note_error(self, text: str) -> None:
        """The error that ends a worker."""

    def give_up(self, error: Exception) -> None:
        """An error that a restart does not mend."""

    def fatal_error(self) -> Exception | None:
        """The error that a restart does not mend, or None. Raises `ChannelClosedError` once the phase is over."""


@dataclass(frozen=True)
class CohortJob:
    """A worker group's part in one cohort.

    Attributes:
        run: root of the ledger.
        channel: client of the group's cohort channel, whose name is `name`.
    """

    run: str
    config: SweepConfig
    cohort: Cohort
    channel: CohortChannelClient
    name: str

    @property
    def compute(self) -> ComputeConfig:
        """Workers, threads, device."""
        return self.config.compute

    @property
    def operation(self) -> OperationConfig:
        """Settings that change no result."""
        return self.config.operation

    def dataset(self, split: Split, role: Role = "student") -> SegmentationDataset:
        """The pictures of one split that one role may see, read through the caches of the sweep file."""
        from distill.data import build_dataset
        from distill.data.picture_cache import PictureCache

        settings = self.operation.cache
        cache = (
            None
            if settings is None
            else PictureCache(Path(settings.folder).expanduser(), int(settings.gigabytes * 10**9))
        )
        return build_dataset(
            self.config.data[self.cohort.data],
            split,
            protocol=self.config.protocol,
            role=role,
            cache=cache,
            copies=self.operation.remote_copies,
        )


@dataclass(frozen=True)
class GalleryJob:
    """Draw the gallery of the run whose ledger is at `run`, in a process that has torch, the data and the device."""

    run: str
    name: str = "gallery"


Job = CohortJob | GalleryJob


class AssignmentsClient(typing.Protocol):
    """Messages by which workers learn what their worker group does. The client of the coordinator implements them."""

    def current(self, group: str, done: str | None) -> Job | Literal["closed"] | None:
        """The job of a group after job `done`; `closed` if none follows; None if there is no news yet."""

    def claim_once(self, group: str) -> bool:
        """Whether the caller is the first to begin what must be begun only once."""

    def finish(self, group: str, notes: list[str] | None = None) -> None:
        """The current job of a group is over; `notes` are for the person who runs the sweep."""
