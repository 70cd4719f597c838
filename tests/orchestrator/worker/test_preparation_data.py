"""A projector that is trained once per teacher can see the pictures that the teacher was trained on."""

from __future__ import annotations

from itertools import islice
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from distill.data.sample import Role
from distill.data.stream import stream
from orchestrator.planning.plan import make_plan
from orchestrator.protocol import CohortJob
from orchestrator.worker.batch_feed import BatchFeed
from tests.orchestrator.sweep_files import tiny_sweep
from tests.orchestrator.worker.alone import alone_worker


def feed_of(job: CohortJob) -> BatchFeed:
    """A feed whose teacher gives the pictures themselves, so that they can be looked at."""
    feed: Any = BatchFeed.__new__(BatchFeed)
    feed._job, feed._recipe, feed.workers = job, job.cohort.recipe, alone_worker()
    feed.watchdog = SimpleNamespace(heartbeat=lambda: None)
    feed._teacher = SimpleNamespace(forward=lambda images: images)
    feed.train = job.dataset("train")
    found: BatchFeed = feed
    return found


@pytest.mark.parametrize("role", ["student", "teacher"])
def test_the_preparation_gets_the_training_pictures_of_the_role_that_it_asks_for(role: Role) -> None:
    plan = make_plan(tiny_sweep())
    cohort = plan.students[0]
    job = CohortJob("/nowhere", plan.config, cohort, None, "by hand")  # type: ignore[arg-type]
    size = cohort.recipe.batch_size
    own = {kind: job.dataset("train", kind) for kind in ("student", "teacher")}
    assert len(own["student"]) < len(own["teacher"])
    hosts = stream(own[role], cohort.recipe.augmentation, batch_size=size, seed=0)
    batches = feed_of(job).preparation_batches(role)
    for host, (_, labels) in islice(zip(hosts, batches, strict=False), 3):
        assert torch.equal(labels, host.labels_bhw.long())
