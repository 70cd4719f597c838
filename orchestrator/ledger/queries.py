"""Queries on the rows of `trials` that several packages use. Pure functions."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

_FRESH = "--fresh"

R = TypeVar("R", bound=Mapping[str, Any])


def latest_attempts(trials: Iterable[R]) -> list[R]:
    """The row with the highest `attempt` of each trial, sorted by trial id; the first of two equal attempts.

    Each row needs `trial_id` and `attempt`.
    """
    latest: dict[str, R] = {}
    for row in trials:
        known = latest.get(row["trial_id"])
        if known is None or row["attempt"] > known["attempt"]:
            latest[row["trial_id"]] = row
    return [latest[trial_id] for trial_id in sorted(latest)]


def resuming_command(command: str) -> str:
    """A recorded command as it is shown: it resumes or repeats the run, and deletes nothing."""
    try:
        words = shlex.split(command)
    except ValueError:  # not written by a sweep
        return command
    return shlex.join(word for word in words if word != _FRESH) if _FRESH in words else command


def parameters_of(params: Iterable[tuple[str, str]] | None) -> dict[str, Any]:
    """Hyper-parameters as Python values, from the column `params`: pairs of a name and JSON text."""
    return {name: json.loads(value) for name, value in params or ()}
