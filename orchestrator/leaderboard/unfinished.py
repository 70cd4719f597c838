"""What the page of a run says while trainings are still to come."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from orchestrator.leaderboard.run_records import RunRecords
from orchestrator.leaderboard.training_curves import TrialCurve

WRITING_SECONDS = 60.0
"""Time between two writings of the page of a running sweep, if writing takes little time."""

MISSED = 3
"""After so many missed writings the page says that the sweep may have died."""

SELDOM = 10
"""It then loads itself again after so many times the pause: the sweep may still go on."""


@dataclass(frozen=True)
class LivePage:
    """When the page of a running sweep was written, and how often it is written.

    Attributes:
        pause_seconds: time between two writings, and until a browser loads the page again.
        missed: number of missed writings after which the page says that the sweep may have died.
        written_ms: when the page was written, in milliseconds since 1970.
        since: the same as a time of day.
    """

    pause_seconds: float
    missed: int
    written_ms: int
    since: str

    @property
    def how_often(self) -> str:
        """How often the page is written, in words."""
        minutes = round(self.pause_seconds / 60)
        return "about once a minute" if minutes < 2 else f"about every {minutes} minutes"

    @property
    def seldom_minutes(self) -> int:
        """Minutes between two loads of a page that is not written any more."""
        return max(1, round(SELDOM * self.pause_seconds / 60))


@dataclass(frozen=True)
class Unfinished:
    """A run with trainings to come.

    Attributes:
        planned: number of trainings, at most.
        written: when the page was written, for a page that is written again and again; it then reloads itself.
        running: curves of the trainings that have not ended.
        pause_seconds: time until the page is written again.
        short_pairs: the short names of the pairs, for those that have no recorded trial yet.
    """

    planned: int
    written: datetime | None = None
    running: tuple[TrialCurve, ...] = ()
    pause_seconds: float = WRITING_SECONDS
    short_pairs: Mapping[str, str] = field(default_factory=dict)

    @property
    def live(self) -> LivePage | None:
        """What a page that is written again needs to load itself again; None for the page of a stopped run."""
        if self.written is None:
            return None
        since = f"{self.written:%H:%M %Z}".rstrip()
        return LivePage(self.pause_seconds, MISSED, round(1000 * self.written.timestamp()), since)

    def sentence(self, records: RunRecords) -> str:
        """How far the run is."""
        ended = sum(not trial.former for trial in records.trials)
        count = f"unfinished: {min(ended, self.planned)} of {self.planned} trainings"
        if self.written is None:
            return f"{count}; the command of the run goes on from here"
        return f"{count}, written {self.written:%H:%M %Z}".rstrip()
