"""What the sweep hands to a crew's workers: a cohort, or the gallery at the end. Plain data and the desk; no torch."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill.errors import UsageError
from orchestrator.planning.config import ComputeConfig, OperationConfig, SweepConfig
from orchestrator.planning.plan import Cohort

if TYPE_CHECKING:
    from distill.data import Role, SegmentationDataset, Split

SKIPPED_PICTURES = "logs/skipped"
"""Where a run keeps, one a file, what is wrong with pictures that could not be read."""


@dataclass(frozen=True)
class CohortJob:
    """A crew's part in one cohort. `run` is the root of the ledger, `desk` the crew's desk in the `Coordinator`, `name` the desk's."""

    run: str
    config: SweepConfig
    cohort: Cohort
    desk: Any
    name: str

    @property
    def compute(self) -> ComputeConfig:
        """Workers, threads, device."""
        return self.config.compute

    @property
    def operation(self) -> OperationConfig:
        """Seats, rounds, checkpoints."""
        return self.config.operation

    def dataset(self, split: Split, role: Role = "student") -> SegmentationDataset:
        """The cohort's pictures that one role may see in one split, read as the sweep says."""
        from distill.data import build_dataset
        from distill.data.picture_cache import PictureCache

        choice = self.operation.cache
        cache = (
            None
            if choice is None
            else PictureCache(Path(choice.folder).expanduser(), int(choice.gigabytes * 10**9))
        )
        return build_dataset(
            self.config.data[self.cohort.data],
            split,
            protocol=self.config.protocol,
            role=role,
            cache=cache,
            copies=self.operation.copies,
        )


@dataclass(frozen=True)
class GalleryJob:
    """The gallery of the run whose ledger lies at `run`, drawn where torch, the data and the device are."""

    run: str
    name: str = "gallery"


@dataclass
class CarriedTeacher:
    """What a worker has at hand from the cohort before: the teacher it has scored, which it need not load again."""

    path: str | None = None
    model: Any = None

    def put(self, path: str, model: Any) -> None:
        """This model was loaded from there."""
        self.path, self.model = path, model

    def take(self, path: str | None) -> Any:
        """The model that was loaded from there, None if it is not at hand; whatever is, is let go."""
        found = self.model if path is not None and path == self.path else None
        self.path = self.model = None
        return found


def work(config: dict[str, Any]) -> None:
    """What Ray Train calls in every worker, at first and after each death of one: job after job of its crew."""
    import ray
    import ray.train

    crew, assignments = config["crew"], config["assignments"]
    leads = ray.train.get_context().get_world_rank() == 0
    done: str | None = None
    along = CarriedTeacher()
    while (job := ray.get(assignments.current.remote(crew, done))) != "closed":
        if job is not None:
            notes: list[str] | None = None
            if isinstance(job, CohortJob):
                _train(job, leads, along)
            elif leads:
                is_first = ray.get(assignments.takes_up.remote(crew))
                notes = _draw(job) if is_first else ["no gallery: the worker that drew it died"]
            done = job.name
            if leads:
                ray.get(assignments.finish.remote(crew, notes))


def _draw(job: GalleryJob) -> list[str]:
    """What the gallery leaves out. Nothing that goes wrong with it may end a finished sweep."""
    from orchestrator.gallery import write_gallery
    from orchestrator.ledger.tables import Ledger

    try:
        return write_gallery(Ledger(job.run))[1]
    except Exception as error:
        return [f"no gallery: {type(error).__name__}: {error}"]


def _train(job: CohortJob, leads: bool, along: CarriedTeacher) -> None:
    """One cohort; imports no torch before it must.

    What no new start mends (bad data, a module that is missing) is told to the desk, and a new start then ends at once.
    """
    import ray

    from orchestrator.controller.coordinator import ChannelClosedError

    try:
        if ray.get(job.desk.fatal.remote()) is not None:
            return
    except ChannelClosedError:  # the phase was over before this worker came
        return
    beginning = ray.get(job.desk.begin.remote()) if leads else None
    try:
        from orchestrator.worker.cohort_trainer import train_cohort

        train_cohort(job, beginning, along)
    except UsageError as error:
        ray.get(job.desk.give_up.remote(error))
        raise
    except ImportError as error:
        remedy = f"a worker on {socket.gethostname()} cannot import what it needs: {error}; install the same environment on every node"
        ray.get(job.desk.give_up.remote(UsageError(remedy)))
        raise
    except Exception as error:
        ray.get(job.desk.note_error.remote(f"{type(error).__name__}: {error}"))
        raise
