"""A worker without others, and without Ray."""

from __future__ import annotations

import torch

from orchestrator.worker.data_parallel import Workers


def alone_worker() -> Workers:
    workers = Workers.__new__(Workers)
    workers.rank, workers.world_size = 0, 1
    workers.is_rank_0 = workers.is_alone = True
    workers.device = torch.device("cpu")
    workers.reduce = workers._objects = None
    return workers
