"""What the sweep hands to a cohort's workers: plain data and the desk. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.config import ComputeChoice, OperationChoice, SweepConfig
from orchestrator.plan import Cohort

if TYPE_CHECKING:
    from distill.data.cache import PictureCache

SKIPPED_PICTURES = "logs/skipped"
"""Where a run keeps, one a file, what is wrong with pictures that could not be read."""


@dataclass(frozen=True)
class CohortJob:
    """One cohort's work. `run` is the root of the ledger, `desk` the handle of the cohort's desk."""

    run: str
    config: SweepConfig
    cohort: Cohort
    desk: Any

    @property
    def compute(self) -> ComputeChoice:
        """Workers, threads, device."""
        return self.config.compute

    @property
    def operation(self) -> OperationChoice:
        """Seats, rounds, checkpoints."""
        return self.config.operation

    def picture_cache(self) -> PictureCache | None:
        """Where this cohort's workers keep decoded pictures."""
        from distill.data.cache import PictureCache

        choice = self.operation.cache
        return None if choice is None else PictureCache(Path(choice.folder), int(choice.gigabytes * 10**9))


def work(config: dict[str, Any]) -> None:
    """What Ray Train calls in every worker; here, so that the driver can name it without importing torch."""
    from orchestrator.cohort import train_cohort

    train_cohort(config["job"])
