"""Harms to the files of a run, and a stand-in for its workers: no Ray, no training, made-up scores.

`python -m tests.faults.table_harms --harms 100 --seed 1` counts them: after each round of harms, to a run that was cut at a
random moment, the same plan must end as the undisturbed one, or refuse.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from distill.errors import UsageError
from distill.yaml_reader import to_yaml
from orchestrator.controller.run_state import Run
from orchestrator.controller.wave_scheduler import WaveScheduler
from orchestrator.ledger.repair import incomplete_trials, repair_run
from orchestrator.ledger.row_builders import count_rows
from orchestrator.ledger.run_folder import check_run_folder, claim_run_folder
from orchestrator.ledger.tables import Ledger
from orchestrator.planning.plan import Plan, make_plan
from orchestrator.protocol import Report
from tests.orchestrator.sweep_files import tiny_sweep

PLAN = make_plan(tiny_sweep(search__trials=4, search__bracket=4, search__wave=8))
HARMS = ("remove", "truncate", "garble", "overwrite", "duplicate", "swap", "empty")

Outcome = dict[str, tuple[str, tuple[int, ...]]]
"""How each trial ended, and the steps at which it has scores."""


class CutError(Exception):
    """The command was killed at this moment."""


def train(root: str | Path, *, cut_after: int | None = None, plan: Plan = PLAN) -> Outcome:
    """Train whatever of a plan with one cohort is not recorded, as workers would.

    Args:
        root: the run.
        cut_after: kill the command after so many recorded trials.
        plan: the plan.
    """
    (cohort,) = plan.students
    name = "p" if plan is PLAN else f"p-{plan.plan_hash}"
    run = Run(Ledger(root), plan, provenance_id=name)
    claim_run_folder(run.ledger, plan, fresh=False)
    settings = to_yaml(plan.config.model_dump(mode="json"))
    row = {"provenance_id": name, "plan_hash": plan.plan_hash, "config_yaml": settings}
    run.ledger.append("provenance", [{**row, "created_at": datetime.now(UTC)}], name)
    scheduler = WaveScheduler(plan.config, [cohort], run.recorded(), run.retried)
    recorded = 0

    def record(report: Report) -> None:
        nonlocal recorded
        if recorded == cut_after:
            raise CutError
        recorded += 1
        scheduler.add_report(report)
        run.record(scheduler, cohort, report)

    while (order := scheduler.open_next(cohort.cohort_id)) is not None:
        alive = [trial.trial_id for trial in order.trials]
        for step in (*order.wave.rungs, order.wave.steps):
            for trial_id in alive:
                if step < order.wave.steps:
                    scheduler.add_report(Report(trial_id, step, tune_miou=score(trial_id, step)))
                    continue
                if scheduler.trials[trial_id].trial.phase == "final":
                    _count(run.ledger, trial_id, scheduler.trials[trial_id].trial.student.name)
                record(Report(trial_id, step, "ok", tune_miou=score(trial_id, step), finished_at=1.0))
            for decision in scheduler.decisions():
                for trial_id in sorted(set(decision.drop) & set(alive)):
                    alive.remove(trial_id)
                    at = decision.rung
                    record(Report(trial_id, at, "pruned", tune_miou=score(trial_id, at), finished_at=1.0))
    return {t: (str(s.status), tuple(sorted(s.scores))) for t, s in scheduler.trials.items()}


def score(trial_id: str, step: int) -> float:
    """A made-up score that depends on the trial and the step alone."""
    return random.Random(f"{trial_id}{step}").random()


def _count(ledger: Ledger, trial_id: str, student: str) -> None:
    for split in ("tune", "test"):
        rows = count_rows(trial_id, split, [0], *np.ones((3, 1, 2), dtype=np.int64))
        ledger.append("counts", rows, f"{trial_id}-{split}")
    model = {"name": student, "num_classes": 4, "options": "{}", "height": 8, "width": 8, "device": "cpu"}
    ledger.append("models", [model], "model")


def outcome_of(root: str | Path) -> Outcome:
    """How the trials ended, by the tables alone."""
    recorded = Run(Ledger(root), PLAN).recorded()
    return {t: (str(r.status), tuple(sorted(r.scores))) for t, r in sorted(recorded.items())}


def files_of(ledger: Ledger) -> list[str]:
    """Files that may be harmed: those of all tables, and the plan."""
    paths = (path for path in ledger.list() if not path.startswith("damaged/"))
    return [path for path in paths if path.endswith((".parquet", ".json"))]


def harm(ledger: Ledger, kind: str, path: str, choose: random.Random) -> str:
    """Do something to one file, or to it and another one of its folder; returns what was done, if anything."""
    folder, _, name = path.rpartition("/")
    others = [other for other in files_of(ledger) if other.rpartition("/")[0] == folder and other != path]
    data = ledger.read_bytes(path)
    if kind == "remove":
        ledger.delete(path)
    elif kind == "truncate":
        ledger.write_bytes(path, data[: choose.randrange(1, max(len(data), 2))])
    elif kind == "garble":
        at = choose.randrange(max(len(data) // 2, 1))
        garbled = bytes(255 - byte for byte in data[at : at + 40])
        ledger.write_bytes(path, data[:at] + garbled + data[at + 40 :])
    elif kind == "empty":
        ledger.write_bytes(path, b"")
    elif others:
        other = choose.choice(others)
        if kind == "duplicate":
            ledger.write_bytes(f"{folder}/copy-{name}".lstrip("/"), data)
        else:
            ledger.write_bytes(path, ledger.read_bytes(other))
            if kind == "swap":
                ledger.write_bytes(other, data)
    else:
        return ""
    return f"{kind} {path.split('/')[1] if '/' in path else path}"


def resume(root: str | Path, expected: Outcome) -> str:
    """The same command after harms: `equal`, or `refused`; an assertion fails if it is neither."""
    ledger = Ledger(root)
    try:
        check_run_folder(ledger, PLAN, fresh=False)
        repair_run(ledger, PLAN)
    except UsageError:  # nothing says any more which plan the tables are of
        assert not ledger.exists("tables/provenance/p.parquet")
        return "refused"
    assert train(root) == expected
    assert not incomplete_trials(ledger)
    assert outcome_of(root) == expected
    return "equal"


def copy_run(source: Path, root: str) -> None:
    """Copy a run from a local folder to an empty place."""
    ledger = Ledger(root)
    for path in Ledger(source).list():
        ledger.write_bytes(path, Ledger(source).read_bytes(path))


def harmed_run(root: str | Path, expected: Outcome, seed: str, harms: Counter[str]) -> str:
    """A run that is cut at a random moment and then harmed in one to three places, until it is done; returns its end."""
    choose = random.Random(seed)
    is_done = False
    while not is_done:
        try:
            train(root, cut_after=choose.choice([1, 2, 4, 8, None]))
            is_done = True
        except CutError:
            pass
        if choose.random() < 0.3:
            Run(Ledger(root), PLAN).compact()
        ledger = Ledger(root)
        for _ in range(choose.randint(1, 3)):
            if (files := files_of(ledger)) and (
                done := harm(ledger, choose.choice(HARMS), choose.choice(files), choose)
            ):
                harms[done] += 1
        try:
            check_run_folder(ledger, PLAN, fresh=False)
            repair_run(ledger, PLAN)
        except UsageError:
            assert not ledger.exists("tables/provenance/p.parquet")
            return "refused"
    return resume(root, expected)


def sentence(harms: Counter[str], ends: Counter[str]) -> str:
    """What the runs so far have seen."""
    dealt = ", ".join(f"{count} × {kind}" for kind, count in sorted(harms.items()))
    ended = ", ".join(f"{count} {end}" for end, count in sorted(ends.items()))
    return f"{sum(harms.values())} harms ({dealt}) in {sum(ends.values())} runs: {ended}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Harm the files of runs at random, and count what came of it."
    )
    parser.add_argument("--harms", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    harms: Counter[str] = Counter()
    ends: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        train(Path(folder) / "undisturbed")
        expected = outcome_of(Path(folder) / "undisturbed")
        while sum(harms.values()) < chosen.harms:
            number = sum(ends.values())
            ends[harmed_run(Path(folder) / f"run{number}", expected, f"{chosen.seed}-{number}", harms)] += 1
            print(sentence(harms, ends), flush=True)


if __name__ == "__main__":
    main()
