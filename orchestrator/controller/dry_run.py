"""What `--dry-run` looks at beside the plan: everything that can be found wrong without training and without writing."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from distill.data.check import check_dataset
from distill.data.config import AnyDataConfig
from distill.errors import UsageError
from distill.teacher_source import TransformersSource
from distill.uris import is_uri
from orchestrator.cluster.session import LOCAL, ClusterResources, is_job, ray_session
from orchestrator.controller.model_checks import check_models, shared_memory_notes
from orchestrator.controller.pretrained import check_pretrained
from orchestrator.ledger.folder_lock import refuse_if_held
from orchestrator.ledger.run_folder import check_run_folder
from orchestrator.ledger.tables import Ledger
from orchestrator.ledger.weights import teacher_weights
from orchestrator.planning.growth import Growth
from orchestrator.planning.plan import Plan


def look_ahead(plan: Plan, ledger: Ledger, *, fresh: bool, address: str) -> list[str]:
    """Check what a sweep would check at its start, without writing; returns remarks, and what could not be looked at.

    Raises:
        UsageError: names everything that is wrong, each with its remedy.
    """
    notes = [f"not looked at: {note}" for note in _unseen(plan, address)]
    if address == LOCAL:
        notes += [f"WARNING: {note}" for note in shared_memory_notes(plan.config)]
    problems = []
    for check in _checks(plan, ledger, fresh=fresh, address=address):
        try:
            found = check()
        except UsageError as error:
            problems.append(str(error))
        else:
            if isinstance(found, Growth):
                notes.append(f"{ledger.place()} grows: {found.sentence()}")
    if problems:
        raise UsageError("\n".join([*dict.fromkeys(problems), *notes]))
    return notes


def _checks(plan: Plan, ledger: Ledger, *, fresh: bool, address: str) -> Iterator[Callable[[], object]]:
    config = plan.config
    if is_job(address):  # files, data and devices are those of the cluster
        if is_uri(ledger.root):
            yield lambda: check_run_folder(ledger, plan, fresh=fresh)
        return
    for data in config.data.values():
        yield lambda data=data: _check_data(plan, data)  # type: ignore[misc]
    yield lambda: check_models(config)
    yield lambda: check_pretrained(config, on_other_nodes=address != LOCAL)
    yield lambda: _check_checkpoints(plan, ledger, fresh=fresh)
    yield lambda: refuse_if_held(ledger)
    yield lambda: check_run_folder(ledger, plan, fresh=fresh)
    if not is_uri(ledger.root):
        yield lambda: _check_writable("--output", ledger.root)
    if address == LOCAL:
        for name, folder in config.operation.cache_folders.items():
            yield lambda name=name, folder=folder: _check_writable(f"{name}.folder", folder)  # type: ignore[misc]
    yield lambda: _check_room(plan, address)


def _unseen(plan: Plan, address: str) -> Iterator[str]:
    config = plan.config
    if is_job(address):
        yield f"data, files of weights, devices and room on the cluster at {address}; the job checks them at its start"
        return
    models = [model for pair in config.pairs for _, model in pair.models]
    if any(model.pretrained is True for model in models):
        yield "timm's pretrained weights, which the first worker loads or downloads"
    if any(map(_is_on_hub, (pair.teacher.checkpoint for pair in config.pairs))):
        yield "checkpoints on the Hugging Face hub"
    if config.operation.trackers:
        yield "whether the trackers answer"
    if address != LOCAL:
        yield "what each node has: packages, data, folders"


def _is_on_hub(source: object) -> bool:
    return isinstance(source, TransformersSource) and not os.path.isabs(source.path)


def _check_data(plan: Plan, data: AnyDataConfig) -> None:
    config = plan.config
    check_dataset(data, skip_broken=True, copies=config.operation.remote_copies, protocol=config.protocol)


def _check_checkpoints(plan: Plan, ledger: Ledger, *, fresh: bool) -> None:
    """Read the checkpoints that a start would read, but not those on the hub, which would be downloaded."""
    problems = []
    for teacher in plan.teachers:
        known = not fresh and ledger.exists(teacher_weights(teacher))
        if teacher.checkpoint is None or known or _is_on_hub(teacher.checkpoint):
            continue
        from orchestrator.controller.teachers import read_checkpoint

        try:
            read_checkpoint(plan, teacher)
        except UsageError as error:
            problems.append(str(error))
    if problems:
        raise UsageError("\n".join(problems))


def _check_writable(name: str, folder: str) -> None:
    """Check a folder without creating it: it, or else the nearest folder above it, must be writable."""
    place = Path(folder).expanduser().absolute()
    nearest = next(above for above in (place, *place.parents) if above.exists())
    if not nearest.is_dir():
        raise UsageError(f"{name} is {folder}, and {nearest} is not a folder; choose another")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise UsageError(f"{name} is {folder}, and {nearest} cannot be written; choose another")


def _check_room(plan: Plan, address: str) -> None:
    """Check that the machine or the cluster has the devices and the room for one cohort."""
    compute, operation = plan.config.compute, plan.config.operation
    if address == LOCAL:
        gpus = _gpu_count() if compute.device == "cuda" else 0
        ClusterResources(((float(os.cpu_count() or 1), float(gpus)),)).cohorts_at_once(compute, operation)
        return
    with ray_session(address, operation, verbose=False) as resources:
        if operation.wait_minutes == 0:  # otherwise an autoscaler may add what is missing
            resources.cohorts_at_once(compute, operation)


def _gpu_count() -> int:
    """GPUs that torch finds, in another process: a command that only plans does not load torch."""
    program = "import torch; print(torch.cuda.device_count())"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    return int(done.stdout) if done.returncode == 0 else 0
