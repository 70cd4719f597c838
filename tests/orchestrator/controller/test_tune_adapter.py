"""One process of Tune's reads the reports of all trials, in the name of one after the other, and misses none."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.controller import condition as news
from orchestrator.controller.cohort_channel import CohortChannel
from orchestrator.controller.coordinator import ChannelClosedError, Coordinator
from orchestrator.controller.report_queue import PolledReport, ReportQueue
from orchestrator.controller.trial_multiplexer import DEATHS_IN_A_ROW, PollerDiedError, TrialMultiplexer
from orchestrator.controller.tune_adapter import WaveHalving
from orchestrator.protocol import Report


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(news, "POLL_SECONDS", 0.005)


def filled(*reports: Report) -> ReportQueue:
    mail = ReportQueue()
    for report in reports:
        mail.put(report)
    return mail


def test_a_visit_ends_with_news_of_another_trial_at_any_desk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(news, "POLL_SECONDS", 60.0)

    async def scene() -> None:
        mail = ReportQueue()
        here, there = CohortChannel(1, mail), CohortChannel(1, mail)
        waiting = asyncio.create_task(mail.visit("a", 0))
        await asyncio.sleep(0)
        await there.post([Report("b", 10)])
        assert await asyncio.wait_for(waiting, 10) == PolledReport(None, "b")
        await here.post([Report("a", 10)])
        assert await mail.visit("b", 0) == PolledReport(Report("b", 10), "a")

    asyncio.run(scene())


def test_a_visit_without_news_comes_back_with_nothing() -> None:
    assert asyncio.run(filled().visit("a", 0)) == PolledReport(None, None)


def test_a_visit_brings_one_report_and_says_that_the_same_trial_has_another() -> None:
    async def scene() -> None:
        first, last = Report("a", 10), Report("a", 10, status="ok")
        mail = filled(first, Report("b", 10), last)
        assert await mail.visit("a", 0) == PolledReport(first, "a")
        assert await mail.visit("a", 1) == PolledReport(last, "b")

    asyncio.run(scene())


def test_a_process_that_has_seen_nothing_is_given_all_again() -> None:
    async def scene() -> None:
        reports = [Report("a", 10), Report("a", 20)]
        mail = filled(*reports)
        for seen in (0, 1, 0, 1):
            assert (await mail.visit("a", seen)).report == reports[seen]

    asyncio.run(scene())


def test_what_is_told_twice_or_after_a_trials_end_is_no_news() -> None:
    """A cohort that starts again posts again, and a desk may drop at a rung a trial that failed meanwhile."""
    first, last = Report("a", 10), Report("a", 20, status="failed")
    mail = filled(first, first, last, last, Report("a", 10, status="pruned"), Report("a", 30))
    assert mail.of("a") == [first, last]


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
        told, seen, mail, turns = Counter[str](), Counter[str](), ReportQueue(), TrialMultiplexer()
        turns.enter(steps)
        trial_id = None
        while not turns.nobody_is_left():
            for _ in range(min(len(to_come), choose.randint(0, 3))):
                coming = to_come.pop()
                mail.put(reports[coming][told[coming]])
                told[coming] += 1
            trial_id = trial_id or turns.begin() or turns.resume()
            assert trial_id is not None
            report, follow = await mail.visit(trial_id, seen[trial_id])
            if choose.random() < deaths:
                seen.clear()
                turns.lose()
                trial_id = None
                continue
            turns.visited()
            if report is not None:
                seen[trial_id] += 1
                read[trial_id] += [report] if report not in read[trial_id] else []
            if report is not None and report.status is not None:
                turns.end(follow)
                trial_id = None
            elif follow not in (None, trial_id):
                turns.pause(trial_id, follow)
                trial_id = None

    asyncio.run(scene())
    assert read == reports


def test_nobody_has_a_turn_while_another_has_the_process() -> None:
    turns = TrialMultiplexer()
    turns.enter(["a", "b"])
    assert turns.begin() == "a"
    assert turns.begin() is turns.resume() is None
    turns.pause("Tune's a", "b")
    assert turns.resume() is None
    assert turns.begin() == "b"
    turns.end(None)
    assert turns.begin() is None
    assert turns.resume() == "Tune's a"
    assert not turns.nobody_is_left()


def test_a_trial_in_whose_name_the_process_died_has_its_turn_before_all_others() -> None:
    """What it had fetched nobody else counts as unread."""
    turns = TrialMultiplexer()
    turns.enter(["a", "b", "c"])
    turns.begin()
    turns.pause("Tune's a", "b")
    turns.begin()
    turns.lose()
    assert turns.resume() is None
    assert turns.begin() == "b"


def test_a_process_that_dies_again_and_again_without_a_visit_is_given_up() -> None:
    turns = TrialMultiplexer()
    turns.enter(["a"])
    for _ in range(DEATHS_IN_A_ROW - 1):
        assert turns.begin() == "a"
        turns.lose()
    turns.begin()
    turns.visited()
    for _ in range(DEATHS_IN_A_ROW - 1):
        turns.lose()
        turns.begin()
    with pytest.raises(PollerDiedError, match="died 10 times in a row"):
        turns.lose()


def test_a_report_is_passed_on_once_and_the_process_goes_where_there_is_news() -> None:
    known: list[Report] = []
    told: list[object] = []

    def take(report: Report) -> bool:
        is_new = report not in known
        known.append(report)
        return is_new

    def visited(student: str, report: Report | None, follow: str | None) -> str:
        trial = SimpleNamespace(config={"trial_id": student})
        return scheduler.on_trial_result(tune, trial, {"report": report, "follow": follow})

    book = SimpleNamespace(take=take, decisions=list)
    tune = SimpleNamespace(pause_trial=lambda trial, should_checkpoint: told.append("paused"))
    tracking = SimpleNamespace(tell=told.append)
    turns = TrialMultiplexer()
    turns.enter(["a", "b"])
    turns.begin()
    scheduler = WaveHalving(SimpleNamespace(book=book, at_work={}), turns, tracking, told.append)
    first, last = Report("a", 10), Report("a", 20, status="ok")
    assert visited("a", None, None) == "CONTINUE"
    assert visited("a", first, "a") == "CONTINUE"
    assert visited("a", first, "b") == "NOOP"
    assert told == [first, "paused"]
    assert turns.begin() == "b"
    turns.end("a")
    turns.resume()
    assert visited("a", last, None) == "STOP"
    assert told == [first, "paused", last, last]  # the tracker, and the ledger
    assert turns.nobody_is_left()


def test_a_desk_whose_phase_is_over_says_so() -> None:
    """A worker may come for it late."""

    async def scene() -> None:
        office = Coordinator()
        await office.open("desk", 1)
        assert await office.at("desk", "fatal", ()) is None
        await office.close("desk")
        with pytest.raises(ChannelClosedError):
            await office.at("desk", "fatal", ())

    asyncio.run(scene())
