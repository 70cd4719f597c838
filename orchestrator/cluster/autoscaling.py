"""A joined cluster grows and shrinks: at the start its autoscaler is asked for what is missing, later room is used."""

from __future__ import annotations

import sys
import time

import ray
from ray.autoscaler.sdk import request_resources

from distill.errors import UsageError
from orchestrator.cluster.session import ClusterResources, holdings, worker_resources
from orchestrator.planning.config import ComputeConfig, OperationConfig

LOOK_SECONDS = 1.0


def grown(now: ClusterResources, compute: ComputeConfig, operation: OperationConfig) -> ClusterResources:
    """What the cluster has once it holds `operation.cohorts_at_once` cohorts (one by default), or the wait is over.

    The wish is withdrawn afterwards: from then on the work itself is what keeps nodes from being idle.
    """
    workers = compute.workers * (operation.cohorts_at_once or 1)
    worker = worker_resources(compute, operation)
    deadline = time.monotonic() + 60 * operation.wait_minutes
    if now.workers(worker) >= workers or not operation.wait_minutes:
        return now
    print(
        f"the cluster has {now.cpus:g} CPUs and {now.gpus:g} GPUs; asked its autoscaler for {workers} × {worker}, "
        f"waiting {operation.wait_minutes:g} minutes at most",
        file=sys.stderr,
    )
    request_resources(bundles=[dict(worker) for _ in range(workers)])
    try:
        while now.workers(worker) < workers and time.monotonic() < deadline:
            time.sleep(LOOK_SECONDS)
            now = holdings(ray)
    finally:
        request_resources(bundles=[])
    return now


def room_now(compute: ComputeConfig, operation: OperationConfig) -> int:
    """How many cohorts fit on the nodes that are alive; one at least, which waits for a node where none is."""
    try:
        return holdings(ray).cohorts_at_once(compute, operation)
    except UsageError:
        return 1
