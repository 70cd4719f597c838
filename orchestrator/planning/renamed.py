"""Settings that were renamed. In a sweep file an old name is an error that gives the new name; recorded configs may have old names."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from distill.errors import UsageError
from distill.yaml_reader import parse_yaml
from orchestrator.planning.config import SweepConfig

RENAMED = {
    "compute.divide": "compute.parallelism",
    "operation.copies": "operation.remote_copies",
    "operation.hang_seconds": "operation.step_timeout_seconds",
    "operation.round_steps": "operation.round_seconds",
    "operation.seats": "operation.students_on_device",
}
"""Old name -> new name. Values keep their meaning, except for `round_steps`, which is a time now."""
_OTHER_UNIT = {"operation.round_steps"}
_EARLIER_DEFAULTS = {"search.finalists": 0}
"""Settings that a recorded config lacks where they had this value, which was the default of an earlier version."""


def explain_renamed(key: str) -> str | None:
    """Error message for the old name of a setting; None for any other key."""
    if key not in RENAMED:
        return None
    unit = ", in seconds" if key in _OTHER_UNIT else ""
    return f"'{key}' is called '{RENAMED[key]}' now{unit}"


def with_current_names(config: dict[str, Any]) -> dict[str, Any]:
    """Copy of a config that an earlier version recorded, with the current names of its settings.

    A recorded config leaves out a setting whose default changed where its value is the earlier default. Such a value is
    added.

    Args:
        config: plain values of the recorded config.
    """
    found = {
        name: dict(section) if isinstance(section, dict) else section for name, section in config.items()
    }
    for old, new in RENAMED.items():
        section, _, name = old.partition(".")
        values = found.get(section)
        if isinstance(values, dict) and name in values:
            value = values.pop(name)
            if old not in _OTHER_UNIT:
                values[new.partition(".")[2]] = value
    for setting, earlier in _EARLIER_DEFAULTS.items():
        section, _, name = setting.partition(".")
        values = found.setdefault(section, {})
        if isinstance(values, dict):
            values.setdefault(name, earlier)
    return found


def read_recorded_config(text: str) -> SweepConfig:
    """Parse the config that a run recorded as YAML. Its settings may have the names of an earlier version.

    Raises:
        UsageError: this version of the program cannot read it.
    """
    document, _ = parse_yaml(text, "config")
    return recorded_config(document)


def recorded_config(document: Any) -> SweepConfig:
    """A recorded config from its plain values, as `read_recorded_config`."""
    try:
        return SweepConfig.model_validate(
            with_current_names(document) if isinstance(document, dict) else document
        )
    except ValidationError as error:
        raise UsageError("its config was written by another version of this program") from error
