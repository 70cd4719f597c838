"""Progress of a running sweep: a live view on a terminal, a line a minute elsewhere."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from distill.errors import printable
from orchestrator.console.remaining_work import Work, work_of
from orchestrator.planning.equal_seconds import named
from orchestrator.planning.pair_names import short_names_of
from orchestrator.planning.plan import PHASES

if TYPE_CHECKING:  # they import Ray Tune
    from orchestrator.controller.phase_runner import PhaseView
    from orchestrator.controller.wave_scheduler import TrialState

LINE_SECONDS = 60.0
_NARROW = 79
"""Columns of a live view, at most."""
_METHOD_WIDTH = 14
"""Columns of a method's name, at most; the pair's name has what is left."""


class ProgressView:
    """Shows phases: redrawn in place on a terminal; in a log, a line at the start, every minute, and at the end."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = (
            Live(console=console, refresh_per_second=2, transient=True) if console.is_terminal else None
        )
        self._begun: dict[str, tuple[float, Work]] = {}
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
        work = work_of(view.scheduler, view.progress)
        first = view.name not in self._begun
        begun, start = self._begun.get(view.name, (now, work))
        if work.done == start.done:  # the pace is that since the first step
            begun, start = now, work
        self._begun[view.name] = begun, start
        done = _is_done(view) and view.name not in self._ended
        pace = _pace(view, work, start, now - begun)
        if self._live is not None:
            self._live.update(_live_view(view, work, pace))
        if done:
            self._ended.add(view.name)
        due = self._live is None and (first or now - self._lined_at >= LINE_SECONDS)
        if done or due:
            self._lined_at = now
            self.say(" · ".join([*_counts(view), *_positions(view), *pace]))


def _is_done(view: PhaseView) -> bool:
    return sum(s.status is not None for s in view.scheduler.trials.values()) >= view.planned


def _live_view(view: PhaseView, work: Work, pace: Sequence[str]) -> RenderableType:
    """Bar, counts, pace, and a table of the studies; no line is longer than a terminal of 80 columns."""
    bar = Table.grid(padding=(0, 1))
    share = work.share
    bar.add_row(Text(view.name), ProgressBar(100.0, 100 * share, width=40), Text(f"{100 * share:.0f} %"))
    lines: list[RenderableType] = [bar]
    lines += [Text(line) for line in joined([*_counts(view), *_positions(view), *pace])]
    return Group(*lines, _studies(view))


def joined(parts: Sequence[str], width: int = _NARROW) -> list[str]:
    """The parts on as few lines as hold them whole, with ` · ` between those of one line."""
    lines: list[str] = []
    for part in parts:
        if lines and len(lines[-1]) + len(part) + 3 <= width:
            lines[-1] += f" · {part}"
        else:
            lines.append(part)
    return lines


def _counts(view: PhaseView) -> list[str]:
    """Ended and running trials of each kind, such as `search 12 done, 3 pruned, 5 running of 20`."""
    states = list(view.scheduler.trials.values())
    parts = []
    for phase in PHASES:
        tally = Counter(str(s.status or "running") for s in states if s.trial.phase == phase)
        planned = sum(
            wave.trials for c in view.scheduler.cohorts.values() for wave in c.waves if wave.phase == phase
        )
        if planned:
            shown = ", ".join(f"{tally[key]} {word}" for key, word in _WORDS if tally[key])
            parts.append(f"{phase} {shown} of {planned}" if shown else f"{phase} 0 of {planned}")
    return parts


_WORDS = (
    ("ok", "done"),
    ("running", "running"),
    ("pruned", "pruned"),
    ("failed", "failed"),
    ("stopped", "stopped"),
)


def _positions(view: PhaseView) -> list[str]:
    """Where each worker group is, by the pairs of its cohort, such as `big_to_small: training 40 of 360, 12 students`."""
    parts = []
    names = short_names_of(view.scheduler.config.pairs)
    for cohort_id, shown in view.progress:
        if not shown.steps:
            parts += [f"workers: {shown.activity}"]
            continue
        waves = view.scheduler.cohorts[cohort_id].waves
        pairs = list(dict.fromkeys(bracket.study.pair for wave in waves for bracket in wave.brackets))
        name = names.get(pairs[0], pairs[0]) if len(pairs) == 1 else f"{len(pairs)} pairs"
        students = f", {shown.students} students" if shown.students > 1 else ""
        parts.append(f"{printable(name)}: {shown.activity} {shown.step} of {shown.steps}{students}")
    return parts


def _pace(view: PhaseView, work: Work, start: Work, seconds: float) -> list[str]:
    """Pictures per second of all students together, the time that is left, and the cost so far."""
    parts = []
    left = work.seconds_left(start, seconds)
    if left is not None and work.left:
        parts += [f"{(work.images - start.images) / seconds:.0f} images/s", f"about {span(left)} left"]
    spent = [s.reports[-1].costs for s in view.scheduler.trials.values() if s.reports]
    hours = sum(costs.student_seconds + costs.shared_seconds for costs in spent) / 3600
    return [*parts, *([f"{hours:.2f} worker-hours"] if hours >= 0.005 else [])]


def _studies(view: PhaseView) -> Table:
    """A line per study; the scores of final runs once there are some."""
    studies: dict[tuple[str, str], list[TrialState]] = {}
    for state in view.scheduler.trials.values():
        studies.setdefault((state.trial.pair, named(state.trial.title, state.trial.compare)), []).append(
            state
        )
    has_test = any(_tested(members) for members in studies.values())
    headings = ("done", "running", "pruned", "failed", "best tune", *(("test",) if has_test else ()))
    method_width = min(_METHOD_WIDTH, max((len(method) for _, method in studies), default=0))
    pair_width = (
        _NARROW - sum(len(heading) + 1 for heading in ("", *headings)) - max(method_width, len("method"))
    )
    names = short_names_of(view.scheduler.config.pairs)
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for name, width in (("pair", pair_width), ("method", method_width)):
        table.add_column(name, overflow="ellipsis", no_wrap=True, max_width=width)
    for name in headings:
        table.add_column(name, justify="right", no_wrap=True)
    for (pair, method), members in studies.items():
        tally = Counter(s.status for s in members)
        best = max((max(s.scores.values()) for s in members if s.scores), default=None)
        tested = _tested(members)
        cells = [*(str(tally[key] or "") for key in ("ok", None, "pruned", "failed"))]
        cells += ["" if best is None else f"{100 * best:.1f}"]
        cells += [f"{100 * sum(tested) / len(tested):.1f}" if tested else ""] if has_test else []
        table.add_row(Text(printable(names.get(pair, pair))), Text(printable(method)), *cells)
    return table


def _tested(states: Sequence[TrialState]) -> list[float]:
    """Test mIoU of the final runs among these trials."""
    found = [s.reports[-1].test_miou for s in states if s.trial.phase == "final" and s.reports]
    return [score for score in found if score is not None]


def span(seconds: float) -> str:
    """A time with as many digits as an estimate has: `40 s`, `3 min`, `1 h 20 min`."""
    if seconds < 50:
        return f"{max(10, round(seconds, -1)):.0f} s"
    minutes = max(1, round(seconds / 60))
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(5 * round(minutes / 5), 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"
