"""Progress of a running sweep: a live view on a terminal, a line a minute elsewhere."""

from __future__ import annotations

import time
from collections import Counter
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from orchestrator.planning.plan import PHASES

if TYPE_CHECKING:  # they import Ray Tune
    from orchestrator.controller.phase_runner import PhaseView
    from orchestrator.controller.wave_scheduler import TrialState

LINE_SECONDS = 60.0


class ProgressView:
    """Shows phases: redrawn in place on a terminal; in a log, a line at the start, every minute, and at the end."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = (
            Live(console=console, refresh_per_second=2, transient=True) if console.is_terminal else None
        )
        self._begun: dict[str, float] = {}
        self._lined_at = 0.0
        self._ended: set[str] = set()

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def say(self, message: str) -> None:
        """Print one line."""
        self._console.print(message, highlight=False, soft_wrap=True, markup=False)

    def watch(self, view: PhaseView) -> None:
        """Show the state of a phase."""
        now = time.monotonic()
        first = view.name not in self._begun
        begun = self._begun.setdefault(view.name, now)
        done = _done(view) and view.name not in self._ended
        if self._live is not None:
            self._live.update(Group(Text(_line(view, now - begun)), _studies(view), *_cohorts(view)))
        if done:
            self._ended.add(view.name)
        if first or done or (self._live is None and now - self._lined_at >= LINE_SECONDS):
            self._lined_at = now
            self.say(_line(view, now - begun))


def _done(view: PhaseView) -> bool:
    return sum(s.status is not None for s in view.scheduler.trials.values()) >= view.planned


def _share(view: PhaseView) -> float:
    """Share of the phase's steps that is done. A trial that has ended counts as done."""
    reached = 0.0
    at = {name: progress.step for name, progress in view.progress.items()}
    for state in view.scheduler.trials.values():
        steps = state.trial.recipe.steps
        here = max(max(state.scores, default=0), min(at.values(), default=0))
        reached += 1.0 if state.status is not None else min(1.0, here / steps)
    return reached / view.planned if view.planned else 1.0


def _line(view: PhaseView, elapsed: float) -> str:
    states = list(view.scheduler.trials.values())
    parts = []
    for phase in PHASES:
        tally = Counter(
            "running" if s.status is None else str(s.status) for s in states if s.trial.phase == phase
        )
        planned = sum(
            wave.trials for c in view.scheduler.cohorts.values() for wave in c.waves if wave.phase == phase
        )
        if planned:
            told = ", ".join(f"{tally[key]} {word}" for key, word in _WORDS if tally[key]) or "none yet"
            parts.append(f"{phase} {told} of {planned}")
    at = [f"{p.activity} {p.step}/{p.steps}" for p in view.progress.values() if p.steps]
    share = _share(view)
    left = [f"about {_span(elapsed * (1 - share) / share)} left"] if 0.05 < share < 1 else []
    spent = [s.reports[-1].costs for s in states if s.reports]
    hours = sum(costs.student_seconds + costs.shared_seconds for costs in spent) / 3600
    return f"{' | '.join(parts)} · " + " · ".join([*at, _span(elapsed), *left, f"{hours:.3f} worker-hours"])


_WORDS = (
    ("ok", "done"),
    ("running", "running"),
    ("pruned", "pruned"),
    ("failed", "failed"),
    ("stopped", "stopped"),
)


def _studies(view: PhaseView) -> Table:
    table = Table("study", "done", "running", "pruned", "failed", "best tune mIoU", box=None, pad_edge=False)
    studies: dict[str, list[TrialState]] = {}
    for state in view.scheduler.trials.values():
        studies.setdefault(f"{state.trial.pair} {state.trial.title}", []).append(state)
    for name, members in studies.items():
        tally = Counter(s.status for s in members)
        best = max((max(s.scores.values()) for s in members if s.scores), default=None)
        shown = "" if best is None else f"{100 * best:.1f}"
        table.add_row(Text(name), *(str(tally[key]) for key in ("ok", None, "pruned", "failed")), shown)
    return table


def _cohorts(view: PhaseView) -> list[Text]:
    return [
        Text(f"{name}: wave {p.wave + 1}, {p.activity}, step {p.step} of {p.steps}, {p.students} students")
        for name, p in view.progress.items()
        if p.steps
    ]


def _span(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
