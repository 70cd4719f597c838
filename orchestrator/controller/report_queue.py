"""Reports by trial, and waiting for them. Cohort channels put them in, Tune's report poller takes them out.

One queue serves all channels of the coordinator, so that a poll for one trial learns of reports of every other.
"""

from __future__ import annotations

from orchestrator.controller.condition import Condition
from orchestrator.protocol import PolledReport, Report


class ReportQueue:
    """Every report of every trial, and which trials have unread ones."""

    def __init__(self) -> None:
        self.condition = Condition()
        self._reports: dict[str, list[Report]] = {}
        self._unread: dict[str, None] = {}  # an ordered set

    def put(self, report: Report) -> None:
        """Add a report; call it within `condition.change()`. Ignored if the trial has ended.

        Workers that restart send the reports of their checkpoint again; the wave scheduler ignores what it knows.
        """
        if not self.has_ended(report.trial_id):
            self._reports.setdefault(report.trial_id, []).append(report)
            self._unread[report.trial_id] = None

    def reports_of(self, trial_id: str) -> list[Report]:
        """All reports of a trial so far."""
        return self._reports.get(trial_id, [])

    def has_ended(self, trial_id: str) -> bool:
        """Whether the last report of a trial has arrived."""
        return any(report.status is not None for report in self.reports_of(trial_id)[-1:])

    async def poll(self, trial_id: str, seen: int) -> PolledReport:
        """The report after the first `seen` ones of this trial; waits until it, or any trial's report, is there.

        The answer is empty after `POLL_SECONDS` or if only other trials have reports. A new poller starts with `seen` = 0,
        so it reads again what a poller that died had read.
        """
        await self.condition.wait_for(lambda: bool(self.reports_of(trial_id)[seen:] or self._unread) or None)
        rest = self.reports_of(trial_id)[seen:]
        if rest[1:]:
            self._unread[trial_id] = None
            return PolledReport(rest[0], trial_id)
        self._unread.pop(trial_id, None)
        return PolledReport(rest[0] if rest else None, next(iter(self._unread), None))
