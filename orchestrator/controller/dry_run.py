"""What `--dry-run` looks at beside the plan: everything that can be found wrong without training and without writing."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from distill.errors import UsageError
from distill.uris import is_uri
from orchestrator.cluster.session import LOCAL, ClusterResources, is_job, ray_session
from orchestrator.controller.checks import Check, Checks
from orchestrator.controller.loaded_teachers import is_on_hub
from orchestrator.ledger.tables import Ledger
from orchestrator.planning.plan import Plan


def look_ahead(plan: Plan, ledger: Ledger, *, fresh: bool, address: str) -> list[str]:
    """Check what a sweep would check at its start, without writing; returns remarks, and what could not be looked at.

    Raises:
        UsageError: names everything that is wrong, each with its remedy.
    """
    checks = Checks(plan, ledger, fresh=fresh, address=address)
    unseen = [f"not looked at: {note}" for note in _unseen(plan, address)]
    try:
        checks.run(download=False, more=_places(plan, ledger, address))
    except UsageError as error:
        raise UsageError("\n".join([str(error), *unseen])) from None
    return [*checks.notes, *unseen]


def _places(plan: Plan, ledger: Ledger, address: str) -> Iterator[Check]:
    """Checks of folders and devices; a sweep uses them at its start instead, and finds the same."""
    if is_job(address):
        return
    if not is_uri(ledger.root):
        yield partial(_check_writable, "--output", ledger.root)
    if address == LOCAL:
        for name, folder in plan.config.operation.cache_folders.items():
            yield partial(_check_writable, f"{name}.folder", folder)
    yield partial(_check_room, plan, address)


def _unseen(plan: Plan, address: str) -> Iterator[str]:
    config = plan.config
    if is_job(address):
        yield f"data, files of weights, devices and room on the cluster at {address}; the job checks them at its start"
        return
    models = [model for pair in config.pairs for _, model in pair.models]
    if any(model.pretrained is True for model in models):
        yield "timm's pretrained weights, which the first worker loads or downloads"
    if any(map(is_on_hub, plan.teachers)):
        yield "checkpoints on the Hugging Face hub"
    if config.operation.trackers:
        yield "whether the trackers answer"
    if address != LOCAL:
        yield "what each node has: packages, data, folders"


def _check_writable(name: str, folder: str) -> None:
    """Check a folder without creating it: it, or else the nearest folder above it, must be writable."""
    place = Path(folder).expanduser().absolute()
    try:
        nearest = next(above for above in (place, *place.parents) if above.exists())
    except OSError as error:
        raise UsageError(
            f"{name} is {folder}, which cannot be used ({error.strerror}); choose another"
        ) from None
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
