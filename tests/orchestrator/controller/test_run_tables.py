"""The tables of a run while it is recorded, without Ray."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from orchestrator.controller import run_state as run_module
from orchestrator.controller.run_state import Run
from orchestrator.controller.wave_scheduler import WaveScheduler
from orchestrator.ledger.row_builders import count_rows
from orchestrator.ledger.tables import Ledger
from orchestrator.planning.plan import make_plan
from orchestrator.protocol import Report
from tests.orchestrator.sweep_files import tiny_sweep

_TABLES = ("trials", "curves", "counts")


def test_trials_curves_and_counts_are_put_together_while_a_run_goes_on_and_when_it_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_module, "_COMPACTED_AFTER", 5)
    plan = make_plan(tiny_sweep(search__trials=6, search__bracket=4, search__wave=8))
    run, cohort = Run(Ledger(tmp_path), plan, provenance_id="p"), plan.students[0]
    scheduler = WaveScheduler(plan.config, [cohort], {})
    order = scheduler.open_next(cohort.cohort_id)
    assert order is not None
    assert 5 < len(order.trials) < 10  # so that files are left for the end
    for trial in order.trials:
        report = Report(
            trial.trial_id, trial.recipe.steps, status="ok", tune_miou=0.5, finished_at=time.time()
        )
        scheduler.add_report(report)
        counts = count_rows(trial.trial_id, "test", [0], *np.ones((3, 1, 2), dtype=np.int64))
        run.ledger.append("counts", counts, trial.trial_id)
        run.record(scheduler, cohort, report)
        if run._compaction is not None:
            run._compaction.join()
    files = {table: list((tmp_path / "tables" / table).glob("*.parquet")) for table in _TABLES}
    assert all(len(found) < len(order.trials) for found in files.values())
    run.compact()
    for table in files:
        assert len(list((tmp_path / "tables" / table).glob("*.parquet"))) == 1
        assert set(run.ledger.read(table)["trial_id"].to_pylist()) == {t.trial_id for t in order.trials}
    assert run.recorded().keys() == {trial.trial_id for trial in order.trials}
