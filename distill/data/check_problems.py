"""Collects the problems that a check finds, and reports equal ones of many files as one line."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from distill.data.labels import LabelError, label_problem
from distill.data.roots import File
from distill.errors import UsageError

if TYPE_CHECKING:
    from distill.data.layout import Pair

_SHOWN = 10
_NUMBER = re.compile(r"\d+")


@dataclass
class Problems:
    """Problems found by a check.

    Attributes:
        skippable: keys of the pictures that a run may skip: those only trained on.
        skipped: problems of skippable pictures.
    """

    skippable: set[str] = field(default_factory=set)
    skipped: list[UsageError] = field(default_factory=list)
    _groups: dict[str, list[UsageError]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self._groups)

    def add(self, problem: UsageError, *files: File) -> None:
        """Add a problem of some files; problems that differ only in files and numbers are one kind."""
        kind = problem.rule if isinstance(problem, LabelError) else str(problem)
        for file in files:
            kind = kind.replace(str(file), "…")
        group = self._groups.setdefault(_NUMBER.sub("#", kind) if files else kind, [])
        if str(problem) not in map(str, group[:_SHOWN]):
            group.append(problem)

    def note(self, pair: Pair, problem: UsageError) -> None:
        """Add a problem of a pair, or remember that a run would skip the pair."""
        from distill.data.images import BrokenFileError

        if pair.key in self.skippable and isinstance(problem, BrokenFileError):
            self.skipped.append(problem)
        else:
            self.add(problem, pair.image, pair.labels)

    def error(self, root: File) -> UsageError:
        """All problems as one error."""
        lines = [_line(group) for group in self._groups.values()]
        if len(lines) == 1:
            return UsageError(lines[0])
        more = f"\n  … and {len(lines) - _SHOWN} more" if len(lines) > _SHOWN else ""
        return UsageError(f"{len(lines)} problems under {root}:\n  " + "\n  ".join(lines[:_SHOWN]) + more)


def _line(group: list[UsageError]) -> str:
    if len(group) == 1:
        return str(group[0])
    labels = [problem for problem in group if isinstance(problem, LabelError)]
    if labels:
        values = {value for problem in labels for value in problem.values}
        return f"{label_problem(f'{len(labels)} label maps hold', values, labels[0].rule)} (first: {labels[0].path})"
    return f"{group[0]} ({len(group) - 1} other files have such a problem)"
