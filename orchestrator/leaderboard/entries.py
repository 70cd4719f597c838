"""What stands on a board: rows, cells and pair summaries, as every view shows them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.leaderboard.comparison import Comparison, Estimate
from orchestrator.leaderboard.missing import Missing
from orchestrator.leaderboard.planned import Spaces

FAILED, OFF_PROTOCOL, UNCOMMITTED = "‡", "†", "✎"
MEASURED_COLUMNS = (
    "latency_ms",
    "train_seconds_alone",
    "train_cost_relative",
    "gpu_hours",
    "peak_memory_bytes",
)
"""Columns of the written table that hold measured times and memory; all others repeat with the sweep."""


@dataclass(frozen=True)
class Row:
    """A method's line on a board; the fields are the columns of the written table. mIoU is 0 to 1.

    `gain` is over the equally tuned student alone, paired by pair and seed; `gain_image_*` is its bootstrap
    interval over test pictures. `train_seconds_alone` is what one final run costs without company: the
    student's own time and, for a method that needs it, the teacher's forward. None is "the data cannot say".
    """

    dataset: str
    protocol: str
    recipe: str
    rank_low: int | None
    rank_high: int | None
    method: str
    family: str
    marks: str
    miou: float | None
    miou_low: float | None
    miou_high: float | None
    gain: float | None
    gain_low: float | None
    gain_high: float | None
    gain_image_low: float | None
    gain_image_high: float | None
    p_better_than_student: float | None
    teacher_gap_closed: float | None
    gain_per_pair: Mapping[str, float | None]
    pairs: int
    seeds: int
    trials_min: int
    trials_max: int
    failures: int
    params: float | None
    gflops: float | None
    latency_ms: float | None
    train_seconds_alone: float | None
    train_cost_relative: float | None
    gpu_hours: float | None
    peak_memory_bytes: int | None


@dataclass(frozen=True)
class Cell:
    """One method on one pair. `tuning` holds the tune mIoU of its search trials, pruned ones as last seen."""

    pair: str
    method: str
    miou: Estimate | None
    gain: Estimate | None
    gap_closed: float | None
    seeds: int
    scored_as_student: int
    trials: int
    failures: int
    params: Mapping[str, object]
    on_edge: Mapping[str, str]
    tuning: tuple[float, ...]


@dataclass(frozen=True)
class PairSummary:
    """A pair with its two reference points: the teacher's own score and the student's alone."""

    pair: str
    teacher: str
    student: str
    recipe: str
    teacher_miou: float | None
    student_miou: Estimate | None
    params: int | None
    gflops: float | None
    latency_ms: float | None
    device: str
    pictures: int
    class_names: tuple[str, ...]
    class_iou: Mapping[str, tuple[float, ...]]
    """Method (and `teacher`) → mean IoU over seeds by class, nan where the class is absent."""


@dataclass(frozen=True)
class Board:
    """Everything that any view of a leaderboard shows.

    `hours_unit` names what `gpu_hours` counts: GPU-hours, or worker-hours where a worker may be CPU threads.
    `adaptive` tells that trials of the search depend on earlier ones, so that no expected best of n can be given.
    """

    dataset: str
    protocol: str
    rows: tuple[Row, ...]
    pairs: tuple[PairSummary, ...]
    cells: Mapping[tuple[str, str], Cell]
    comparison: Comparison
    baseline: str | None
    seeds: tuple[int, ...]
    trials: tuple[int, int]
    gpu_hours: float
    hours_unit: str
    missing: tuple[Missing, ...]
    notes: tuple[str, ...]
    commands: tuple[str, ...]
    provenance: Mapping[str, tuple[str, ...]]
    spaces: Spaces
    adaptive: bool

    @property
    def ranked(self) -> bool:
        """Whether the board ranks at all: boards off the protocol do not."""
        return self.protocol == "clean"

    @property
    def best(self) -> tuple[str, ...]:
        """Methods whose rank interval begins at 1."""
        return tuple(row.method for row in self.rows if row.rank_low == 1)
