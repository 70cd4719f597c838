"""Notices that a node of these workers is about to be taken away, which Ray Train passes on."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import ray.train

LOOK_SECONDS = 1.0


class PreemptionNotices:
    """Asks Ray Train for notices. Ray gets them from `ray drain-node` and from autoscalers that drain nodes.

    There are none in a Ray without `ray.train.get_preemption_info` (2.60 has it), and in an embedded Ray, whose machine gets
    none.
    """

    def __init__(self) -> None:
        is_on = os.environ.get("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "1") != "0"
        self._read: Callable[[], Any] | None = (
            getattr(ray.train, "get_preemption_info", None) if is_on else None
        )
        self._seen: Any = None
        self._looked_at = time.monotonic()

    def are_due(self) -> bool:
        """Whether to look for a notice now. One worker decides this for all."""
        return self._read is not None and time.monotonic() - self._looked_at >= LOOK_SECONDS

    def is_new(self) -> bool:
        """Whether there is a notice that was not there before. All workers call this together: it is a collective."""
        assert self._read is not None
        self._looked_at = time.monotonic()
        found, before = self._read(), self._seen
        self._seen = found
        return found is not None and found != before
