"""Tune's one process: it fetches reports, in the name of one trial after the other. It imports Ray and little else."""

from __future__ import annotations

from collections import Counter
from typing import Any

import ray
from ray.tune import Trainable

from orchestrator.controller.report_queue import PolledReport


class ReportPoller(Trainable):
    """Visits the office for the trial whose turn it is. Tune gives it another by `reset_config`, without a new process."""

    def setup(self, config: dict[str, Any]) -> None:
        """The process has started, for its first trial."""
        self._office: Any = ray.get_actor(config["office"])
        self._seen: Counter[str] = Counter()
        self._trial_id = config["trial_id"]

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Another trial's turn."""
        self._trial_id = new_config["trial_id"]
        return True

    def step(self) -> dict[str, Any]:
        """One visit: a report of the trial or none, and which trial to visit next."""
        fetched: PolledReport = ray.get(self._office.visit.remote(self._trial_id, self._seen[self._trial_id]))
        self._seen[self._trial_id] += fetched.report is not None
        score = None if fetched.report is None else fetched.report.tune_miou
        return {"tune_miou": score, "report": fetched.report, "follow": fetched.follow}
