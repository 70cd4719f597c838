"""What the page of a run says while trainings are still to come."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from orchestrator.leaderboard.run_records import RunRecords
from orchestrator.leaderboard.training_curves import TrialCurve

REFRESH_SECONDS = 60


@dataclass(frozen=True)
class Unfinished:
    """A run with trainings to come.

    Attributes:
        planned: number of trainings, at most.
        written: when the page was written, for a page that is written again and again; it then reloads itself.
        running: curves of the trainings that have not ended.
    """

    planned: int
    written: datetime | None = None
    running: tuple[TrialCurve, ...] = ()

    @property
    def refresh_seconds(self) -> int | None:
        """Seconds after which a browser loads the page again; None for never."""
        return None if self.written is None else REFRESH_SECONDS

    def sentence(self, records: RunRecords) -> str:
        """How far the run is."""
        ended = sum(not trial.former for trial in records.trials)
        count = f"unfinished: {min(ended, self.planned)} of {self.planned} trainings"
        if self.written is None:
            return f"{count}; the command of the run goes on from here"
        return f"{count}, written {self.written:%H:%M %Z}".rstrip()
