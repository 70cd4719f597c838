"""The torch.distributed backend of a worker group, without torch in Ray's controller process.

Ray's TorchTrainer imports torch in the controller. There is one controller for each worker group; it runs on the head
node and computes nothing, so torch would be most of its memory and of its start-up time.
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import ray
from ray.train.backend import Backend, BackendConfig

from orchestrator.cluster.ray_private import node_address

COLLECTIVE_TIMEOUT = timedelta(minutes=30)
"""Longest wait for another worker in a collective operation. Ray's default is the same."""


@dataclass
class TorchBackendConfig(BackendConfig):
    """A torch.distributed process group over the workers; none for a single worker.

    Attributes:
        backend: `gloo` or `nccl`.
    """

    backend: str

    @property
    def backend_cls(self) -> type[Backend]:
        """The class that starts it."""
        return _TorchBackend


class _TorchBackend(Backend):
    """Runs in Ray's controller process; what it executes runs in the workers."""

    share_cuda_visible_devices = True  # NCCL needs to see the GPUs of the other workers of a node

    def on_start(self, worker_group: Any, backend_config: BackendConfig) -> None:
        """Before the training function: every worker joins the process group."""
        assert isinstance(backend_config, TorchBackendConfig)
        size = len(worker_group)
        if size == 1:
            return
        host, port = worker_group.execute_single(0, _free_address)
        joined = [
            worker_group.execute_single_async(rank, _join, backend_config.backend, host, port, rank, size)
            for rank in range(size)
        ]
        ray.get(joined)

    def on_shutdown(self, worker_group: Any, backend_config: BackendConfig) -> None:
        """Before the workers end."""
        if len(worker_group) > 1:
            ray.wait(worker_group.execute_async(_leave), num_returns=len(worker_group), timeout=30)


def _free_address() -> tuple[str, int]:
    """Host and a free port of the worker of rank 0."""
    host = node_address()
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as bound:
        bound.bind((host, 0))
        return host, int(bound.getsockname()[1])


def _join(backend: str, host: str, port: int, rank: int, size: int) -> None:
    import torch.distributed as dist

    os.environ |= {"MASTER_ADDR": host, "MASTER_PORT": str(port)}
    dist.init_process_group(backend, "env://", timeout=COLLECTIVE_TIMEOUT, rank=rank, world_size=size)


def _leave() -> None:
    import torch.distributed as dist

    if dist.is_initialized():
        dist.destroy_process_group()
