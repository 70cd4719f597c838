"""Resources of a joined cluster that grows and shrinks: request what is missing at the start, use what is added later."""

from __future__ import annotations

import sys
import time

import ray
from ray.autoscaler.sdk import request_resources

from distill.errors import UsageError
from orchestrator.cluster.session import ClusterResources, cluster_resources, worker_resources
from orchestrator.planning.config import ComputeConfig, OperationConfig

POLL_SECONDS = 1.0


def scale_up(now: ClusterResources, compute: ComputeConfig, operation: OperationConfig) -> ClusterResources:
    """Resources once the cluster has room for `operation.cohorts_at_once` cohorts (default 1) or the wait is over.

    The request to the autoscaler is withdrawn afterwards: from then on the running workers keep their nodes from being
    removed as idle.
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
            time.sleep(POLL_SECONDS)
            now = cluster_resources(ray)
    finally:
        request_resources(bundles=[])
    return now


def current_capacity(compute: ComputeConfig, operation: OperationConfig) -> int:
    """Number of cohorts that fit on the nodes that are alive; at least one, which waits for a node if there is none."""
    try:
        return cluster_resources(ray).cohorts_at_once(compute, operation)
    except UsageError:
        return 1
