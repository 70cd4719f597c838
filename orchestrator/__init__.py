"""Plan, run and report a comparison of distillation methods on Ray. The only package that imports ray."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from orchestrator.api import Run, load_run, run_sweep

__all__ = ["Run", "load_run", "run_sweep", "__version__"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """The functions of `orchestrator.api`, imported when they are first used: commands start without pandas."""
    if name in ("Run", "load_run", "run_sweep"):
        return getattr(importlib.import_module("orchestrator.api"), name)
    raise AttributeError(f"module 'orchestrator' has no attribute '{name}'")
