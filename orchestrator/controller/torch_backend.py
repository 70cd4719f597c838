"""How a cohort's workers find each other: what Ray's TorchConfig does, without torch in the process that starts them.

That process, one for each crew, stands beside the driver and computes nothing; torch would be most of its memory and of
the time until it asks for workers.
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import ray
import ray.util
from ray.train.backend import Backend, BackendConfig

PATIENCE = timedelta(minutes=30)
"""What a worker waits for another in a collective operation, as Ray's default is."""


@dataclass
class TorchBackendConfig(BackendConfig):
    """torch.distributed over these workers; none where there is only one.

    Attributes:
        carrier: `gloo` or `nccl`.
    """

    carrier: str

    @property
    def backend_cls(self) -> type[Backend]:
        """What starts it."""
        return _Start


class _Start(Backend):
    """Runs beside the driver; what it executes runs in the workers."""

    share_cuda_visible_devices = True  # nccl wants to see the GPUs of its neighbours

    def on_start(self, worker_group: Any, backend_config: BackendConfig) -> None:
        """Before the training function: has every worker join."""
        assert isinstance(backend_config, TorchBackendConfig)
        size = len(worker_group)
        if size == 1:
            return
        host, port = worker_group.execute_single(0, _meeting_place)
        joined = [
            worker_group.execute_single_async(rank, _join, backend_config.carrier, host, port, rank, size)
            for rank in range(size)
        ]
        ray.get(joined)

    def on_shutdown(self, worker_group: Any, backend_config: BackendConfig) -> None:
        """Before the workers end."""
        if len(worker_group) > 1:
            ray.wait(worker_group.execute_async(_leave), num_returns=len(worker_group), timeout=30)


def _meeting_place() -> tuple[str, int]:
    """Where the worker of rank 0 listens."""
    host = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as bound:
        bound.bind((host, 0))
        return host, int(bound.getsockname()[1])


def _join(carrier: str, host: str, port: int, rank: int, size: int) -> None:
    import torch.distributed as dist

    os.environ |= {"MASTER_ADDR": host, "MASTER_PORT": str(port)}
    dist.init_process_group(carrier, "env://", timeout=PATIENCE, rank=rank, world_size=size)


def _leave() -> None:
    import torch.distributed as dist

    if dist.is_initialized():
        dist.destroy_process_group()
