"""The desks of a phase, without Ray: which of them stand, and for how long."""

from __future__ import annotations

import gc
import weakref
from unittest.mock import MagicMock

from sweep_files import tiny_sweep

from orchestrator.plan import make_plan
from orchestrator.report import Report
from orchestrator.search import DeskAtWork, Desks
from orchestrator.wavebook import WaveBook


def test_a_desk_that_was_left_stands_until_all_trials_of_its_wave_know_that_they_have_ended() -> None:
    """Ray ends an actor to whom no handle is left; processes of trials that come up late would find nobody."""
    config = tiny_sweep(search__trials=6, search__bracket=4, search__wave=8)
    cohort = make_plan(config).students[0]
    desks = Desks(WaveBook(config, [cohort], {}))
    handle = MagicMock()
    stands = weakref.ref(handle)
    desks.expect("desk")
    desks.came("desk", DeskAtWork("desk", cohort.cohort_id, handle))
    opened = desks.open_waves()
    assert opened
    trials = [trial.trial_id for _, wave in opened for trial in wave.trials]
    desks.stopping = True
    desks.left("desk")
    del handle, opened
    for trial_id in trials:
        gc.collect()
        assert stands() is not None
        assert desks.open_waves() == []
        desks.book.take(Report(trial_id, 0, status="stopped"))
    assert desks.open_waves() == []
    assert desks.finish()
    gc.collect()
    assert stands() is None
