"""A notice of Ray Train leads to one checkpoint, and where Ray has none nothing is asked."""

from __future__ import annotations

import pytest
import ray.train

from orchestrator.worker import preemption
from orchestrator.worker.preemption import PreemptionNotices


def test_each_new_notice_is_reported_once(monkeypatch: pytest.MonkeyPatch) -> None:
    first = ray.train.PreemptionInfo(deadline_ms=1, preempted_node_to_ranks={"a": [0]})
    second = ray.train.PreemptionInfo(deadline_ms=1, preempted_node_to_ranks={"a": [0], "b": [1]})
    answers = iter([None, first, first, second, second])
    monkeypatch.delenv("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", raising=False)
    monkeypatch.setattr(ray.train, "get_preemption_info", lambda: next(answers))
    monkeypatch.setattr(preemption, "LOOK_SECONDS", 0.0)
    notices = PreemptionNotices()
    assert notices.are_due()
    assert [notices.is_new() for _ in range(5)] == [False, True, False, True, False]


def test_nothing_is_asked_of_a_ray_that_has_no_notices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preemption, "LOOK_SECONDS", 0.0)
    monkeypatch.setenv("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")  # an embedded Ray
    assert not PreemptionNotices().are_due()
    monkeypatch.delenv("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER")
    monkeypatch.delattr(ray.train, "get_preemption_info")  # an older Ray
    assert not PreemptionNotices().are_due()
