"""The tests; their folders mirror the packages and rooms they test."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
QUICK = "QUICK" in os.environ
"""Whether this is the quick loop, `make check`."""


def examples(count: int) -> int:
    """How many examples a property test tries: so many, or a tenth of them in the quick loop."""
    return max(count // 10, 1) if QUICK else count
