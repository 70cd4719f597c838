"""Students of a sweep trained once more by a plain loop, one at a time: what a cohort makes of them must be the same."""

from __future__ import annotations

import gc
import json
import math
import os
import subprocess
import sys
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import pandas as pd
import torch

from distill.data.stream import stream
from distill.models.output import MAP_NAMES, Output
from distill.normalisation import normalise
from distill.training import Batch, Student, StudentSpec
from orchestrator.ledger.tables import Ledger
from orchestrator.planning.loader import load_sweep
from orchestrator.planning.plan import Cohort, Plan, Trial, Wave, bracket_trials, make_plan
from orchestrator.planning.sampler import Scored
from orchestrator.protocol import CohortJob
from orchestrator.worker.teacher_forward import TeacherForward
from tests.orchestrator.sweeps import curves, trials

CPU = torch.device("cpu")
Losses = dict[tuple[str, int], float]
"""Total loss, mean over the steps since the last report, by trial and step."""


def losses_of(output: Path, phases: Sequence[str]) -> Losses:
    """What a run's cohorts reported."""
    found = curves(output)
    return {(row.trial_id, row.step): row.loss_total for row in found[found.phase.isin(phases)].itertuples()}


def losses_by_hand(source: Path, output: Path, phases: Sequence[str]) -> Losses:
    """The same trials up to where the run trained them, with the teacher that lies in its folder.

    A process of its own has the threads of a worker, and the methods that the environment adds.

    Args:
        source: the sweep file; it has one cohort of students. output: the run's folder.
        phases: of `search` and `final`.
    """
    command = [sys.executable, "-m", __name__, str(source), str(output), *phases]
    done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return {(trial_id, step): loss for trial_id, step, loss in json.loads(done.stdout.splitlines()[-1])}


def main(source: str, output: str, *phases: str) -> None:
    plan = make_plan(load_sweep(source))
    [cohort] = plan.students
    rows = trials(output)
    found: list[tuple[str, int, float]] = []
    for wave in cohort.waves:
        if wave.phase in phases:
            planned = [trial for trial in _planned(plan, cohort, wave, rows) if trial.trial_id in rows.index]
            found += _trained(plan, cohort, wave, planned, rows.steps_done, output)
    print(json.dumps(found))


def _planned(plan: Plan, cohort: Cohort, wave: Wave, rows: pd.DataFrame) -> list[Trial]:
    """A wave's trials; what is searched for must not depend on earlier brackets."""
    histories: dict[str, list[Scored]] = {}
    for row in rows[rows.phase == "search"].itertuples():
        params = {name: json.loads(value) for name, value in row.searched.items() if value != "null"}
        scored = Scored(params, {row.steps_done: row.tune_miou}, row.status == "ok")
        histories.setdefault(row.study_id, []).append(scored)
    return [
        trial
        for bracket in wave.brackets
        for trial in bracket_trials(
            plan.config, cohort, wave, bracket,
            {"search": histories.get(bracket.study.study_id, [])} if wave.phase == "final" else {},
        )
    ]  # fmt: skip


def _trained(
    plan: Plan, cohort: Cohort, wave: Wave, planned: list[Trial], steps: pd.Series[int], output: str
) -> list[tuple[str, int, float]]:
    job = CohortJob(output, plan.config, cohort, None, "by hand")
    assert cohort.teacher is not None
    teacher = TeacherForward(job, cohort.teacher, Ledger(output), CPU, None)
    train = job.dataset("train")
    source = stream(
        train, cohort.recipe.augmentation, batch_size=cohort.recipe.batch_size, seed=wave.stream_seed
    )
    shown = []
    for host in islice(source, wave.steps):
        images = normalise(host.images_b3hw)
        taught = Output.from_maps(teacher.maps(host, images, set(MAP_NAMES)))
        shown.append(Batch.shared(images, host.labels_bhw.long(), host.index, taught, None))
    stops = {*wave.rungs, *wave.evaluations, wave.steps}
    found: list[tuple[str, int, float]] = []
    for trial in planned:
        spec = StudentSpec(trial.student.name, trial.student.options, trial.method, trial.method_config,
                           trial.recipe, trial.seed, train.num_classes)  # fmt: skip
        student = Student(spec, teacher.info, device=CPU)
        for batch in shown[: steps[trial.trial_id]]:
            student.train_step(batch)
            if student.step in stops:
                _, weighted = student.read_losses()
                found.append((trial.trial_id, student.step, math.fsum(weighted.values())))
        del student
        gc.collect()  # some methods of the tests know how many of them there are
    return found


if __name__ == "__main__":
    main(*sys.argv[1:])
