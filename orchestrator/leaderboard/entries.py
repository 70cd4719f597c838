"""The contents of a board: rows, cells and pair summaries, for all views."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.leaderboard.comparison import Comparison
from orchestrator.leaderboard.missing import Missing, UnfinishedStudy
from orchestrator.leaderboard.planned import Selection, Spaces
from orchestrator.leaderboard.scores import Estimate

FAILED, OFF_PROTOCOL, UNCOMMITTED, OTHER_BUDGET = "‡", "†", "✎", "≠"
NEVER_FOUND = 0.01
"""IoU below which a class is practically never found."""
MEASURED_COLUMNS = (
    "latency_ms",
    "train_seconds_alone",
    "train_cost_relative",
    "gpu_hours",
    "peak_memory_bytes",
)
"""Columns with measured times and memory; all other columns are equal if the same sweep is run again."""


@dataclass(frozen=True)
class BoardRow:
    """The row of one method; the fields are the columns of the written files. mIoU is from 0 to 1.

    `gain` is the difference to the student alone with an equal search, paired by pair and seed. `gain_image_*` is its
    bootstrap interval over test images. `p_differs_from_student` is two-sided and adjusted over all comparisons of the
    board. `surely` is `better` or `worse` than the student alone, or None. All other intervals are over `seeds`, or
    over `searches` if there are several. `train_seconds_alone` is the time of one final run that is trained alone: the
    student's own time plus the teacher's forward, if the method needs one. `compare` is what all methods of the board have equally
    much of: `steps` or `seconds`. None means unknown.
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
    p_differs_from_student: float | None
    surely: str | None
    teacher_gap_closed: float | None
    teacher_gap_closed_low: float | None
    teacher_gap_closed_high: float | None
    gain_per_pair: Mapping[str, float | None]
    pairs: int
    seeds: int
    searches: int
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
    compare: str


@dataclass(frozen=True)
class Cell:
    """One method on one pair.

    `p` and `surely` compare it with the student alone on this pair, adjusted over the comparisons on all pairs. `tuning` has
    the tune mIoU of the search trials that finished; `pruned` is the number of those that did not. `params` has the values
    used by the newest final run, `drawn` what the search drew for those that it searched.
    """

    pair: str
    method: str
    miou: Estimate | None
    gain: Estimate | None
    p: float | None
    surely: str
    gap_closed: Estimate | None
    seeds: int
    scored_as_student: int
    trials: int
    failures: int
    params: Mapping[str, object]
    drawn: Mapping[str, object]
    on_edge: Mapping[str, str]
    tuning: tuple[float, ...]
    pruned: int


@dataclass(frozen=True)
class PairSummary:
    """A pair with its two reference scores: the teacher's and that of the student alone; `short` is its name on pages."""

    pair: str
    short: str
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
    """IoU by class, mean over seeds, by method and for `teacher`; nan for a class that no test label has."""


@dataclass(frozen=True)
class Board:
    """Everything that the views of a leaderboard show.

    `hours_unit` is the unit of `gpu_hours`: GPU-hours, or worker-hours if the workers may use CPUs only.
    `searches` is the number of searches of each study, `selections` how the configurations were chosen. No claim is made
    about the methods of `unfinished` studies.
    `adaptive` is True if search trials depend on earlier ones or come from earlier runs; then the expected best of n trials
    is not known.
    """

    dataset: str
    protocol: str
    compare: str
    rows: tuple[BoardRow, ...]
    pairs: tuple[PairSummary, ...]
    cells: Mapping[tuple[str, str], Cell]
    comparison: Comparison
    baseline: str | None
    seeds: tuple[int, ...]
    searches: int
    trials: tuple[int, int]
    selections: tuple[Selection, ...]
    gpu_hours: float
    hours_unit: str
    missing: tuple[Missing, ...]
    unfinished: tuple[UnfinishedStudy, ...]
    notes: tuple[str, ...]
    commands: tuple[str, ...]
    provenance: Mapping[str, tuple[str, ...]]
    spaces: Spaces
    adaptive: bool

    @property
    def ranked(self) -> bool:
        """Whether the methods are ranked; only the protocol `clean` ranks them."""
        return self.protocol == "clean"

    def short(self, pair: str) -> str:
        """The name of a pair on pages."""
        return next((known.short for known in self.pairs if known.pair == pair), pair)

    @property
    def best(self) -> tuple[str, ...]:
        """Methods with a rank interval that begins at 1."""
        return tuple(row.method for row in self.rows if row.rank_low == 1)
