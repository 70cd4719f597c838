"""Exit codes of `python -m orchestrator.sweep`."""

from __future__ import annotations

DONE, BUG, USAGE, SOME_FAILED, BUDGET, RAY_LOST, INTERRUPTED = 0, 1, 2, 3, 4, 5, 130
"""All planned work done; a bug of ours; bad usage, config or data; finished, some trials failed; stopped by a budget;
a process of Ray was lost, the same command resumes; interrupted, the same command resumes."""
