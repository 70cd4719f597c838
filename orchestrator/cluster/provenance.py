"""Provenance of results: code, config, library versions, hardware. No environment variables are recorded."""

from __future__ import annotations

import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from distill.recipe import digest
from distill.redaction import redacted
from distill.yaml_reader import to_yaml
from orchestrator.cluster.node_probe import versions_of
from orchestrator.ledger.queries import resuming_command
from orchestrator.ledger.schema import SCHEMA_VERSION
from orchestrator.planning.plan import Plan

COMMIT_FILE = "commit.json"
LIBRARIES = (
    "heteroakd",
    "torch",
    "torchvision",
    "timm",
    "transformers",
    "ray",
    "albumentations",
    "numpy",
    "pyarrow",
    "pandas",
    "scipy",
)


def provenance_row(
    plan: Plan,
    arguments: list[str],
    teacher_sha256: Mapping[str, str],
    pretrained_weights: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    """The `provenance` row of this command. Its id is a hash of all values but the time."""
    commit, dirty = commit_of_this_code()
    row: dict[str, Any] = {
        "commit": commit,
        "dirty": dirty,
        "config_yaml": redacted(to_yaml(plan.config.model_dump(mode="json"))),
        "config_hash": digest(plan.config.model_dump(mode="json")),
        "plan_hash": plan.plan_hash,
        "versions": {"python": platform.python_version(), **versions_of(LIBRARIES)},
        "hardware": {"machine": platform.machine(), "system": platform.system(), "cpus": os.cpu_count()},
        "teacher_sha256": dict(teacher_sha256),
        "pretrained_weights": dict(pretrained_weights),
        "command": redacted(resuming_command(shlex.join(["python", "-m", "orchestrator.sweep", *arguments]))),
        "schema_version": SCHEMA_VERSION,
    }
    return {"provenance_id": digest(row), **row, "created_at": datetime.now(UTC)}


def commit_of_this_code() -> tuple[str | None, bool | None]:
    """Commit of the checkout of this file, and whether it has uncommitted changes; (None, None) without a checkout.

    The code of a submitted job is not a checkout. It contains a file with these two values.
    """
    folder = Path(__file__).resolve().parents[2]
    commit_file = folder / COMMIT_FILE
    if commit_file.is_file():
        found = json.loads(commit_file.read_text(encoding="utf-8"))
        return found["commit"], found["dirty"]
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        status = _git(folder, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return None, None
    return commit, bool(status)


def _git(folder: Path, *arguments: str) -> str:
    process = subprocess.run(
        ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True, timeout=10
    )
    return process.stdout.strip()


def arguments_of_this_command() -> list[str]:
    """Command-line arguments after `python -m orchestrator.sweep`."""
    return sys.argv[1:]
