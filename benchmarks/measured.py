"""What the benchmarks' reports have in common: the machine, and figures to four digits."""

from __future__ import annotations

import os
import platform
from typing import Any


def cpus() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0))


def machine(load: float) -> dict[str, Any]:
    """What a report says of where it was measured; `load` is the load average before."""
    return {
        "system": platform.system(),
        "machine": platform.machine(),
        "cpus": cpus(),
        "load_before": round(load, 1),
    }


def rounded(found: dict[str, Any]) -> dict[str, Any]:
    """Figures to four digits."""
    return {
        key: rounded(value)
        if isinstance(value, dict)
        else float(f"{value:.4g}")
        if isinstance(value, float)
        else value
        for key, value in found.items()
    }
