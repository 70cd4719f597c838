"""Where results come from: code, config, versions, hardware. An allow-list: nothing of the environment is read."""

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

import yaml

from distill.recipe import digest
from distill.redaction import redacted
from orchestrator.cluster.node_probe import versions_of
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


def provenance_row(plan: Plan, arguments: list[str], teacher_sha256: Mapping[str, str]) -> dict[str, Any]:
    """The `provenance` row of this command; its id is the hash of all but the time."""
    commit, dirty = commit_of_this_code()
    row: dict[str, Any] = {
        "commit": commit,
        "dirty": dirty,
        "config_yaml": redacted(yaml.safe_dump(plan.config.model_dump(mode="json"), sort_keys=False)),
        "config_hash": digest(plan.config.model_dump(mode="json")),
        "plan_hash": plan.plan_hash,
        "versions": {"python": platform.python_version(), **versions_of(LIBRARIES)},
        "hardware": {"machine": platform.machine(), "system": platform.system(), "cpus": os.cpu_count()},
        "teacher_sha256": dict(teacher_sha256),
        "command": redacted(shlex.join(["python", "-m", "orchestrator.sweep", *arguments])),
        "schema_version": SCHEMA_VERSION,
    }
    return {"provenance_id": digest(row), **row, "created_at": datetime.now(UTC)}


def commit_of_this_code() -> tuple[str | None, bool | None]:
    """The commit of the checkout this file lies in, and whether it has uncommitted changes.

    A job's code is no checkout: there a file that travels with it tells.
    """
    folder = Path(__file__).resolve().parents[2]
    told = folder / COMMIT_FILE
    if told.is_file():
        found = json.loads(told.read_text(encoding="utf-8"))
        return found["commit"], found["dirty"]
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        status = _git(folder, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return None, None
    return commit, bool(status)


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True, timeout=10
    )
    return done.stdout.strip()


def arguments_of_this_command() -> list[str]:
    """What the person typed after `python -m orchestrator.sweep`."""
    return sys.argv[1:]
