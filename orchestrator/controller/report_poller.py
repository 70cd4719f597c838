"""Tune's one process: it polls the reports of one trial after the other. It imports Ray and little else."""

from __future__ import annotations

from collections import Counter
from typing import Any

import ray
from ray.tune import Trainable

from orchestrator.protocol import PolledReport


class ReportPoller(Trainable):
    """Polls the coordinator for the trial that has the process. `reset_config` switches to another trial."""

    def setup(self, config: dict[str, Any]) -> None:
        """Called by Tune when the process starts, with its first trial."""
        self._coordinator: Any = ray.get_actor(config["coordinator"])
        self._seen: Counter[str] = Counter()
        self._trial_id = config["trial_id"]

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Called by Tune to reuse the process for another trial."""
        self._trial_id = new_config["trial_id"]
        return True

    def step(self) -> dict[str, Any]:
        """One poll: a report of the trial or None, and which trial to poll next."""
        polled: PolledReport = ray.get(
            self._coordinator.poll.remote(self._trial_id, self._seen[self._trial_id])
        )
        self._seen[self._trial_id] += polled.report is not None
        score = None if polled.report is None else polled.report.tune_miou
        return {"tune_miou": score, "report": polled.report, "next_trial_id": polled.next_trial_id}
