"""A Tune trial: light, since it computes nothing. Its process imports Ray and little else."""

from __future__ import annotations

from typing import Any

import ray
from ray import tune

from orchestrator.office import DeskHandle
from orchestrator.report import Report


def follow_trial(config: dict[str, Any]) -> None:
    """A Tune trial: passes its student's reports on, ends when the student ends."""
    desk = DeskHandle(ray.get_actor(config["office"]), config["desk"])
    trial_id = config["trial_id"]
    seen = 0
    while True:
        news: list[Report] = ray.get(desk.follow.remote(trial_id, seen))
        for report in news:
            seen += 1
            tune.report({"tune_miou": report.tune_miou, "student_step": report.step, "report": report})
            if report.status is not None:
                return
