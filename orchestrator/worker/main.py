"""Entry point of Ray Train workers: job after job of a worker group. Imports no torch before a job needs it."""

from __future__ import annotations

import socket
from typing import Any, Literal

from distill.device_errors import device_condition
from distill.errors import UsageError
from orchestrator.protocol import (
    AssignmentsClient,
    ChannelClosedError,
    CohortJob,
    CoordinatorLostError,
    GalleryJob,
    Job,
)
from orchestrator.worker.carried_teacher import CarriedTeacher


def run_jobs(config: dict[str, Any]) -> None:
    """The training function of Ray Train: called in every worker at its start and after each death of one."""
    import ray.train

    group: str = config["group"]
    assignments: AssignmentsClient = config["assignments"]
    is_rank_0 = ray.train.get_context().get_world_rank() == 0
    done: str | None = None
    carried = CarriedTeacher()
    while (job := _next_job(assignments, group, done)) != "closed":
        if job is None:
            continue
        notes: list[str] | None = None
        if isinstance(job, CohortJob):
            _train_cohort(job, is_rank_0, carried)
        elif is_rank_0:
            is_first = assignments.claim_once(group)
            notes = _draw_gallery(job) if is_first else ["no gallery: the worker that drew it died"]
        done = job.name
        if is_rank_0:
            assignments.finish(group, notes)


def _next_job(assignments: AssignmentsClient, group: str, done: str | None) -> Job | Literal["closed"] | None:
    """The next job. Without a coordinator there is none: the driver starts another one, with workers of its own.

    A worker that loses the coordinator during a job raises an error. Ray Train starts its workers again, since the others
    may wait for it, and they then end here.
    """
    try:
        return assignments.current(group, done)
    except CoordinatorLostError:
        return "closed"


def _draw_gallery(job: GalleryJob) -> list[str]:
    """What the gallery leaves out. No error of the gallery may end a finished sweep."""
    from orchestrator.ledger.tables import Ledger
    from orchestrator.worker.gallery_writer import write_gallery

    try:
        return write_gallery(Ledger(job.run))[1]
    except Exception as error:
        return [f"no gallery: {type(error).__name__}: {error}"]


def _train_cohort(job: CohortJob, is_rank_0: bool, carried: CarriedTeacher) -> None:
    """Train one cohort.

    An error that a restart does not mend (bad data, a missing module) is sent to the channel; a restart then ends at
    once.
    """
    try:
        if job.channel.fatal_error() is not None:
            return
    except ChannelClosedError:  # the phase was over before this worker came
        return
    start = job.channel.start() if is_rank_0 else None
    try:
        from orchestrator.worker.cohort_trainer import train_cohort

        train_cohort(job, start, carried)
    except UsageError as error:
        job.channel.give_up(error)
        raise
    except ImportError as error:
        remedy = f"a worker on {socket.gethostname()} cannot import what it needs: {error}; install the same environment on every node"
        job.channel.give_up(UsageError(remedy))
        raise
    except Exception as error:
        if device_condition(error) == "usage":
            remedy = f"the GPU of {socket.gethostname()} cannot be used: {error}; install a torch for its driver and its GPU"
            job.channel.give_up(UsageError(remedy))
        job.channel.note_error(f"{type(error).__name__}: {error}")
        raise
