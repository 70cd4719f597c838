"""One process of Tune's reads the reports of all trials, in the name of one after the other, and misses none."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.controller import condition
from orchestrator.controller.cohort_channel import CohortChannel
from orchestrator.controller.coordinator import Coordinator
from orchestrator.controller.report_queue import ReportQueue
from orchestrator.controller.trial_multiplexer import MAX_DEATHS_IN_A_ROW, PollerDiedError, TrialMultiplexer
from orchestrator.controller.tune_adapter import WaveHalving
from orchestrator.protocol import ChannelClosedError, PolledReport, Report


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(condition, "POLL_SECONDS", 0.005)


def filled(*reports: Report) -> ReportQueue:
    queue = ReportQueue()
    for report in reports:
        queue.put(report)
    return queue


def test_a_visit_ends_with_news_of_another_trial_at_any_channel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(condition, "POLL_SECONDS", 60.0)

    async def scene() -> None:
        queue = ReportQueue()
        here, there = CohortChannel(1, queue), CohortChannel(1, queue)
        waiting = asyncio.create_task(queue.poll("a", 0))
        await asyncio.sleep(0)
        await there.post([Report("b", 10)])
        assert await asyncio.wait_for(waiting, 10) == PolledReport(None, "b")
        await here.post([Report("a", 10)])
        assert await queue.poll("b", 0) == PolledReport(Report("b", 10), "a")

    asyncio.run(scene())


def test_a_visit_without_news_comes_back_with_nothing() -> None:
    assert asyncio.run(filled().poll("a", 0)) == PolledReport(None, None)


def test_a_visit_brings_one_report_and_says_that_the_same_trial_has_another() -> None:
    async def scene() -> None:
        first, last = Report("a", 10), Report("a", 10, status="ok")
        queue = filled(first, Report("b", 10), last)
        assert await queue.poll("a", 0) == PolledReport(first, "a")
        assert await queue.poll("a", 1) == PolledReport(last, "b")

    asyncio.run(scene())


def test_a_process_that_has_seen_nothing_is_given_all_again() -> None:
    async def scene() -> None:
        reports = [Report("a", 10), Report("a", 20)]
        queue = filled(*reports)
        for seen in (0, 1, 0, 1):
            assert (await queue.poll("a", seen)).report == reports[seen]

    asyncio.run(scene())


def test_reports_after_a_trials_end_are_ignored() -> None:
    """Workers that start again send reports again, and a channel may drop at a rung a trial that failed meanwhile."""
    first, last = Report("a", 10), Report("a", 20, status="failed")
    queue = filled(first, last, last, Report("a", 10, status="pruned"), Report("a", 30))
    assert queue.reports_of("a") == [first, last]


@given(seed=st.integers(0, 10**6), deaths=st.floats(0, 0.3))
def test_every_report_is_read_once_in_order_whoever_has_the_process_and_however_often_it_dies(
    seed: int, deaths: float
) -> None:
    """Searcher and scheduler in miniature: as long as a trial is there, one has its turn."""
    choose = random.Random(seed)
    steps = {f"trial{n}": range(choose.randint(1, 4)) for n in range(choose.randint(1, 6))}
    reports = {t: [Report(t, s, status="ok" if s == each[-1] else None) for s in each] for t, each in steps.items()}  # fmt: skip
    read: dict[str, list[Report]] = {trial_id: [] for trial_id in steps}

    async def scene() -> None:
        to_come = [trial_id for trial_id, each in steps.items() for _ in each]
        choose.shuffle(to_come)
        told, seen, queue, multiplexer = Counter[str](), Counter[str](), ReportQueue(), TrialMultiplexer()
        multiplexer.add(steps)
        trial_id = None
        while not multiplexer.is_empty():
            for _ in range(min(len(to_come), choose.randint(0, 3))):
                coming = to_come.pop()
                queue.put(reports[coming][told[coming]])
                told[coming] += 1
            trial_id = trial_id or multiplexer.start_new() or multiplexer.next_paused()
            assert trial_id is not None
            report, follow = await queue.poll(trial_id, seen[trial_id])
            multiplexer.resumed(trial_id)
            if choose.random() < deaths:
                seen.clear()
                multiplexer.lost_process()
                trial_id = None
                continue
            multiplexer.polled()
            if report is not None:
                seen[trial_id] += 1
                read[trial_id] += [report] if report not in read[trial_id] else []
            if report is not None and report.status is not None:
                multiplexer.end(follow)
                trial_id = None
            elif follow not in (None, trial_id):
                multiplexer.pause(trial_id, follow)
                trial_id = None

    asyncio.run(scene())
    assert read == reports


def test_nobody_has_a_turn_while_another_has_the_process() -> None:
    multiplexer = TrialMultiplexer()
    multiplexer.add(["a", "b"])
    assert multiplexer.start_new() == "a"
    assert multiplexer.start_new() is multiplexer.next_paused() is None
    multiplexer.pause("Tune's a", "b")
    assert multiplexer.next_paused() is None
    assert multiplexer.start_new() == "b"
    multiplexer.end(None)
    assert multiplexer.start_new() is None
    assert multiplexer.next_paused() == "Tune's a"
    assert not multiplexer.is_empty()


def test_a_trial_in_whose_name_the_process_died_has_its_turn_before_all_others() -> None:
    """What it had fetched nobody else counts as unread."""
    multiplexer = TrialMultiplexer()
    multiplexer.add(["a", "b", "c"])
    multiplexer.start_new()
    multiplexer.pause("Tune's a", "b")
    multiplexer.start_new()
    multiplexer.lost_process()
    assert multiplexer.next_paused() is None
    assert multiplexer.start_new() == "b"


def test_a_process_that_dies_again_and_again_without_a_visit_is_given_up() -> None:
    multiplexer = TrialMultiplexer()
    multiplexer.add(["a"])
    for _ in range(MAX_DEATHS_IN_A_ROW - 1):
        assert multiplexer.start_new() == "a"
        multiplexer.lost_process()
    multiplexer.start_new()
    multiplexer.polled()
    for _ in range(MAX_DEATHS_IN_A_ROW - 1):
        multiplexer.lost_process()
        multiplexer.start_new()
    with pytest.raises(PollerDiedError, match="died 10 times in a row"):
        multiplexer.lost_process()


def test_a_report_is_passed_on_once_and_the_process_goes_where_there_is_news() -> None:
    known: list[Report] = []
    told: list[object] = []

    def take(report: Report) -> bool:
        is_new = report not in known
        known.append(report)
        return is_new

    def visited(student: str, report: Report | None, follow: str | None) -> str:
        trial = SimpleNamespace(config={"trial_id": student})
        return scheduler.on_trial_result(tune, trial, {"report": report, "next_trial_id": follow})

    scheduler_state = SimpleNamespace(add_report=take, decisions=list)
    tune = SimpleNamespace(pause_trial=lambda trial, should_checkpoint: told.append("paused"))
    tracking = SimpleNamespace(add_report=told.append)
    multiplexer = TrialMultiplexer()
    multiplexer.add(["a", "b"])
    multiplexer.start_new()
    scheduler = WaveHalving(
        SimpleNamespace(scheduler=scheduler_state, active={}), multiplexer, tracking, told.append
    )
    first, last = Report("a", 10), Report("a", 20, status="ok")
    assert visited("a", None, None) == "CONTINUE"
    assert visited("a", first, "a") == "CONTINUE"
    assert visited("a", first, "b") == "NOOP"
    assert told == [first, "paused"]
    assert multiplexer.start_new() == "b"
    multiplexer.end("a")
    assert multiplexer.next_paused() is not None
    assert visited("a", last, None) == "STOP"
    assert told == [first, "paused", last, last]  # the tracker, and the ledger
    assert multiplexer.is_empty()


def test_the_trial_to_run_is_the_same_however_often_tune_asks_for_it() -> None:
    """Ray's contract: `choose_trial_to_run` is idempotent."""
    paused = SimpleNamespace(status="PAUSED", config={"trial_id": "a"})
    multiplexer = TrialMultiplexer()
    multiplexer.add(["a", "b"])
    multiplexer.start_new()
    multiplexer.pause(paused, "b")
    multiplexer.start_new()
    multiplexer.end("a")
    dispatcher = SimpleNamespace(scheduler=SimpleNamespace(decisions=list), active={})
    scheduler = WaveHalving(dispatcher, multiplexer, SimpleNamespace(), lambda report: None)
    assert scheduler.choose_trial_to_run(None) is paused
    assert scheduler.choose_trial_to_run(None) is paused
    paused.status = "RUNNING"
    assert scheduler.choose_trial_to_run(None) is None
    scheduler.on_trial_result(None, paused, {"report": None, "next_trial_id": None})
    assert scheduler.choose_trial_to_run(None) is None
    scheduler.on_trial_error(None, paused)
    assert multiplexer.start_new() == "a"


def test_a_channel_whose_phase_is_over_says_so() -> None:
    """A worker may come for it late."""

    async def scene() -> None:
        coordinator = Coordinator()
        await coordinator.open_channel("channel", 1)
        assert await coordinator.call("channel", "fatal_error", ()) is None
        await coordinator.close_channel("channel")
        with pytest.raises(ChannelClosedError):
            await coordinator.call("channel", "fatal_error", ())

    asyncio.run(scene())
