"""Which trials of a plan are determined by what is recorded: their ids, in the order of the plan. Pure functions.

The configurations of a search may depend on scores, and those of final runs always do. So the ids of a plan's trials follow
from the plan and from the results of earlier trials.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from orchestrator.planning.plan import (
    Bracket,
    Cohort,
    Phase,
    Plan,
    Trial,
    Wave,
    bracket_trials,
    teacher_cohort,
)
from orchestrator.planning.sampler import Scored

HOPELESS_FAILURES = 3
"""Failures after which a study is stopped, if no trial of it has ended well."""


@dataclass(frozen=True)
class RecordedTrial:
    """What the ledger has of a trial that ended: how it ended, and its tune mIoU by step."""

    status: Literal["ok", "pruned", "failed", "stopped"]
    scores: Mapping[int, float]


@dataclass(frozen=True)
class OpenBracket:
    """A bracket whose configurations depend on trials that have not ended."""

    wave: Wave
    bracket: Bracket


@dataclass
class Replay:
    """The trials of a plan as far as they are determined.

    Attributes:
        trials: by id, in the order of the plan.
        open: brackets whose configurations depend on trials that are not recorded.
    """

    trials: dict[str, Trial] = field(default_factory=dict)
    open: list[OpenBracket] = field(default_factory=list)


def replay(plan: Plan, recorded: Mapping[str, RecordedTrial]) -> Replay:
    """The trials that a run of this plan has, given the results that are recorded."""
    found = Replay()
    studies: dict[str, _Study] = {}
    adaptive = plan.config.search.is_adaptive
    for cohort, wave, bracket in _brackets(plan):
        study = studies.setdefault(bracket.study.study_id, _Study())
        if is_hopeless([recorded[t].status if t in recorded else None for t in study.trials]):
            continue
        if study.must_wait(wave.phase, recorded, adaptive=adaptive):
            study.open.add(wave.phase)
            found.open.append(OpenBracket(wave, bracket))
            continue
        drawn = bracket_trials(plan.config, cohort, wave, bracket, study.history(recorded))
        study.trials |= {trial.trial_id: trial for trial in drawn}
        found.trials |= {trial.trial_id: trial for trial in drawn}
    return found


def is_hopeless(statuses: Sequence[str | None]) -> bool:
    """Whether a study is stopped: its first trials, three or more, failed, and none has ended well."""
    return len(statuses) >= HOPELESS_FAILURES and all(status == "failed" for status in statuses)


@dataclass
class _Study:
    """The determined trials of one study, and the phases with a bracket that is not."""

    trials: dict[str, Trial] = field(default_factory=dict)
    open: set[Phase] = field(default_factory=set)

    def must_wait(self, phase: Phase, recorded: Mapping[str, RecordedTrial], *, adaptive: bool) -> bool:
        """Whether a bracket of this phase depends on trials that are not recorded."""
        if phase == "search" and not adaptive:
            return False
        same = {phase} if phase != "search" else set()  # selection and final runs do not depend on each other
        running = {trial.phase for trial_id, trial in self.trials.items() if trial_id not in recorded}
        return bool((self.open | running) - same)

    def history(self, recorded: Mapping[str, RecordedTrial]) -> Mapping[Phase, list[Scored]]:
        history: dict[Phase, list[Scored]] = {}
        for trial_id, trial in self.trials.items():
            if (known := recorded.get(trial_id)) is not None:
                scored = Scored(trial.params, known.scores, completed=known.status == "ok")
                history.setdefault(trial.phase, []).append(scored)
        return history


def _brackets(plan: Plan) -> Iterator[tuple[Cohort, Wave, Bracket]]:
    for cohort in (*(teacher_cohort(plan, teacher) for teacher in plan.teachers), *plan.students):
        for wave in cohort.waves:
            for bracket in wave.brackets:
                yield cohort, wave, bracket
