"""Letter boxes of a phase's trials: the desks put reports in, Tune's one process fetches them.

One for all desks of an office, so that whoever waits for one trial's reports hears of every other's.
"""

from __future__ import annotations

from typing import NamedTuple

from orchestrator.controller.condition import Condition
from orchestrator.protocol import Report


class PolledReport(NamedTuple):
    """What a visit brings back."""

    report: Report | None
    follow: str | None
    """The trial to visit next: the same one where it has a further report; None where nobody has one unread."""


class ReportQueue:
    """Every report of every trial, and which trials have some that were not fetched."""

    def __init__(self) -> None:
        self.news = Condition()
        self._told: dict[str, list[Report]] = {}
        self._unread: dict[str, None] = {}  # in the order in which they came to have some

    def put(self, report: Report) -> None:
        """A desk, within `news.told()`: one more report; passed over where it was told, or the trial has ended."""
        told = self._told.setdefault(report.trial_id, [])
        is_new = all((other.step, other.status) != (report.step, report.status) for other in told)
        if is_new and not self.has_ended(report.trial_id):
            told.append(report)
            self._unread[report.trial_id] = None

    def of(self, trial_id: str) -> list[Report]:
        """What was told of a trial so far."""
        return self._told.get(trial_id, [])

    def has_ended(self, trial_id: str) -> bool:
        """Whether the last report of a trial is there."""
        return any(report.status is not None for report in self.of(trial_id)[-1:])

    async def visit(self, trial_id: str, seen: int) -> PolledReport:
        """Tune's process: the report after the first `seen` of this trial; waits for that, or for another trial's.

        It may come back with nothing. What a process took along and lost with its life is unread again once another
        says that it has seen less.
        """
        await self.news.when(lambda: bool(self.of(trial_id)[seen:] or self._unread) or None)
        rest = self.of(trial_id)[seen:]
        if rest[1:]:
            self._unread[trial_id] = None
            return PolledReport(rest[0], trial_id)
        self._unread.pop(trial_id, None)
        return PolledReport(rest[0] if rest else None, next(iter(self._unread), None))
