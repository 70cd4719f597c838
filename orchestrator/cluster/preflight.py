"""Everything a worker needs that is not there, said before the first trial: one small task per node looks."""

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

ANSWER_SECONDS = 180.0  # a node that has to fetch the job's code first takes its time


class Preflight:
    """Which nodes have what a sweep needs: all that are there at the start must; who joins later is looked at then.

    Every node is asked for packages, and those that can hold a worker for data, device and the run's folder. Of data in
    a bucket each says whether the bucket answers it. The run's folder must be held: what a node sees of the lock says
    whether it sees the same folder.
    """

    def __init__(self, config: SweepConfig, ledger: Ledger) -> None:
        self._worker = worker_resources(config.compute, config.operation)
        self._needs = _needs(config, ledger)
        self._known: set[str] = set()
        self._asked: dict[Any, dict[str, Any]] = {}
        cloudpickle.register_pickle_by_value(node_probe)  # type: ignore[no-untyped-call]
        self._look: Any = ray.remote(num_cpus=0, max_retries=1)(node_probe.probe_node)

    def check(self) -> None:
        """Waits for the word of every node.

        Raises:
            UsageError: lists node, what is missing there, and the remedy.
        """
        self._ask()
        faults = self._answers(ANSWER_SECONDS)
        faults += [
            f"{_name(node)}: no answer in {ANSWER_SECONDS:g} s; look at it with `ray status`"
            for node in self._asked.values()
        ]
        if faults:
            raise UsageError("the cluster lacks what this sweep needs:\n  " + "\n  ".join(sorted(faults)))

    def check_new_nodes(self) -> list[str]:
        """Asks nodes that have joined; what is missing on those that have answered since the last time. Waits for none."""
        self._ask()
        return self._answers(0)

    def _ask(self) -> None:
        for node in ray.nodes():  # type: ignore[no-untyped-call]
            if node["Alive"] and node["NodeID"] not in self._known:
                self._known.add(node["NodeID"])
                here = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
                trains = all(
                    node["Resources"].get(kind, 0) >= amount for kind, amount in self._worker.items()
                )
                needs = asdict(replace(self._needs, trains=trains))
                self._asked[self._look.options(scheduling_strategy=here).remote(needs)] = node

    def _answers(self, seconds: float) -> list[str]:
        """What those lack who answer within this time; they are not waited for again."""
        if not self._asked:
            return []
        answered, _ = ray.wait(list(self._asked), num_returns=len(self._asked), timeout=seconds)
        nodes = {task: self._asked.pop(task) for task in answered}
        return [f"{_name(node)}: {fault}" for task, node in nodes.items() for fault in _faults(task)]


def _needs(config: SweepConfig, ledger: Ledger) -> node_probe.NodeRequirements:
    """What a node that trains needs."""
    operation = config.operation
    roots = [data.root for data in config.data.values() if not isinstance(data, ScenesConfig)]
    buckets = [root for root in roots if is_remote(root)]
    code = node_probe.code_hash()
    assert code is not None  # this very code
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
    """Files of weights that workers read by themselves."""
    for pair in config.pairs:
        for model in (pair.teacher, pair.student):
            if isinstance(model.pretrained, str):
                yield model.pretrained


def _faults(task: Any) -> list[str]:
    try:
        found: list[str] = ray.get(task)
    except ray.exceptions.RayError as error:
        return [f"cannot run a task: {str(error).splitlines()[-1]}"]
    return found


def _name(node: dict[str, Any]) -> str:
    return f"node {node['NodeManagerAddress']} ({node['NodeID'][:8]})"
