"""Check each node before the first trial: one small Ray task reports what the node lacks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any

import ray
from ray import cloudpickle
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from distill.data.config import ScenesConfig
from distill.data.roots import is_remote, written_root
from distill.errors import UsageError
from orchestrator.cluster import node_probe
from orchestrator.cluster.provenance import LIBRARIES
from orchestrator.cluster.session import worker_resources
from orchestrator.ledger.folder_lock import holder_of
from orchestrator.ledger.tables import Ledger
from orchestrator.planning.config import SweepConfig

ANSWER_SECONDS = 180.0  # a node may have to download the code of the job first


class Preflight:
    """Checks that nodes have what a sweep needs, at the start and when a node joins later.

    Each node must have the packages. Nodes with room for a worker must also have data, device and run folder. The command
    must hold the lock of the run folder: a node verifies by the lock that it sees the same folder.
    """

    def __init__(self, config: SweepConfig, ledger: Ledger) -> None:
        self._worker = worker_resources(config.compute, config.operation)
        self._needs = _needs(config, ledger)
        self._checked: set[str] = set()
        self._pending: dict[Any, dict[str, Any]] = {}
        cloudpickle.register_pickle_by_value(node_probe)  # type: ignore[no-untyped-call]
        self._probe: Any = ray.remote(num_cpus=0, max_retries=1)(node_probe.probe_node)

    def check(self) -> None:
        """Check all nodes and wait for their answers.

        Raises:
            UsageError: a node lacks something. The message lists each node, what it lacks, and the remedy.
        """
        self._start_probes()
        problems = self._answers(ANSWER_SECONDS)
        problems += [
            f"{_name(node)}: no answer in {ANSWER_SECONDS:g} s; check it with `ray status`"
            for node in self._pending.values()
        ]
        if problems:
            raise UsageError("the cluster lacks what this sweep needs:\n  " + "\n  ".join(sorted(problems)))

    def check_new_nodes(self) -> list[str]:
        """Start to check nodes that have joined; returns what the nodes lack that answered since the last call."""
        self._start_probes()
        return self._answers(0)

    def _start_probes(self) -> None:
        for node in ray.nodes():  # type: ignore[no-untyped-call]
            if node["Alive"] and node["NodeID"] not in self._checked:
                self._checked.add(node["NodeID"])
                here = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
                trains = all(
                    node["Resources"].get(kind, 0) >= amount for kind, amount in self._worker.items()
                )
                needs = asdict(replace(self._needs, trains=trains))
                self._pending[self._probe.options(scheduling_strategy=here).remote(needs)] = node

    def _answers(self, seconds: float) -> list[str]:
        """What the nodes lack that answer within this time. Each node answers once."""
        if not self._pending:
            return []
        answered, _ = ray.wait(list(self._pending), num_returns=len(self._pending), timeout=seconds)
        nodes = {task: self._pending.pop(task) for task in answered}
        return [f"{_name(node)}: {problem}" for task, node in nodes.items() for problem in _problems(task)]


def _needs(config: SweepConfig, ledger: Ledger) -> node_probe.NodeRequirements:
    """Requirements of a node that trains."""
    operation = config.operation
    roots = [data.root for data in config.data.values() if not isinstance(data, ScenesConfig)]
    buckets = [root for root in roots if is_remote(root)]
    code = node_probe.code_hash()
    assert code is not None  # this code is installed, since it runs
    return node_probe.NodeRequirements(
        versions=node_probe.versions_of(LIBRARIES),
        code=code,
        readable=(*(str(root) for root in roots if not is_remote(root)), *_weights(config)),
        buckets=tuple(map(written_root, buckets)),
        writable=(*operation.cache_folders.values(), *([operation.remote_copies.folder] if buckets else [])),
        output=ledger.root,
        holder=holder_of(ledger),
        trains=True,
        gpu=config.compute.device == "cuda",
    )


def _weights(config: SweepConfig) -> Iterator[str]:
    """Files of pretrained weights, which each worker reads."""
    for pair in config.pairs:
        for _, model in pair.models:
            if model.weights_file is not None:
                yield model.weights_file.path


def _problems(task: Any) -> list[str]:
    """What a node lacks, from the result of its task."""
    try:
        found: list[str] = ray.get(task)
    except ray.exceptions.RayError as error:
        return [f"cannot run a task: {str(error).splitlines()[-1]}"]
    return found


def _name(node: dict[str, Any]) -> str:
    return f"node {node['NodeManagerAddress']} ({node['NodeID'][:8]})"
