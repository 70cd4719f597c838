"""The sweep: plan → teachers → students (search, then final runs) → leaderboard.

python -m orchestrator.sweep [PRESET | FILE.yaml] [options]
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

import tyro

if TYPE_CHECKING:
    from orchestrator.cluster.session import ClusterResources
    from orchestrator.console.progress import ProgressView
    from orchestrator.controller.run_state import Run
    from orchestrator.controller.worker_groups import WorkerGroupPool
    from orchestrator.ledger.tables import Ledger
    from orchestrator.planning.plan import Plan

DONE, BUG, USAGE, SOME_FAILED, BUDGET, INTERRUPTED = 0, 1, 2, 3, 4, 130
_INTERRUPT = "interrupted"


@dataclass(frozen=True)
class Options:
    """Compare distillation methods for semantic segmentation: teachers, search, final runs, leaderboard.

    The same command again goes on where it left off. Exit codes: 0 all planned work done, 1 a bug of ours, 2 bad
    usage, config or data, 3 finished but some trials failed, 4 stopped by a budget, 130 interrupted.
    """

    source: Annotated[str, tyro.conf.Positional] = "laptop"
    """A preset's name or a sweep file (.yaml)."""
    set: Annotated[list[str], tyro.conf.UseAppendAction] = field(default_factory=list)
    """KEY=VALUE in the sweep file, such as search.trials=8; may be given again."""
    output: str | None = None
    """The run's folder: a path, s3://bucket/run or gs://bucket/run; runs/NAME by default."""
    address: str = "local"
    """Ray: `local` starts one that only this machine can reach; `auto` or HOST:PORT joins one from a machine of it;
    `job` or `job:http://HOST:8265` submits this command to a cluster, follows it, and may be left."""
    max_hours: float | None = None
    """Stop in order after so many hours by the clock (budget.hours)."""
    max_gpu_hours: float | None = None
    """Stop in order when the run has cost so many worker hours (budget.gpu_hours)."""
    max_cost: float | None = None
    """Stop in order when worker hours × price come to this (budget.cost)."""
    price_per_hour: str | None = None
    """What a worker hour costs: a number, or a name in search_spaces/prices.yaml (budget.price)."""
    dry_run: bool = False
    """Show what would run and what it would cost, and do nothing."""
    calibrate: bool = False
    """Train the teachers and a few steps of every study, and tell how hard each loss term pulls beside the task's."""
    json: bool = False
    """Print the plan or the outcome as JSON on standard output; all else goes to standard error."""
    fail_fast: bool = False
    """Stop at the first trial that fails."""
    retry_failed: bool = False
    """Train again what failed before."""
    fresh: bool = False
    """Delete the results that are in the run's folder and start anew."""
    verbose: bool = False
    """Let Ray's own messages through."""


def main() -> None:
    """The command; exits with one of the codes above."""
    options = tyro.cli(Options, prog="python -m orchestrator.sweep", config=(tyro.conf.FlagCreatePairsOff,))
    sys.exit(command(options))


def command(options: Options) -> int:
    """Runs a sweep and turns what can go wrong into an exit code and a message."""
    from distill.errors import UsageError

    try:
        return sweep(options)
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return USAGE
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return INTERRUPTED


def sweep(options: Options) -> int:
    """Plan → teachers → students → leaderboard, each one call into one room."""
    from orchestrator.cluster.job_submission import submit
    from orchestrator.cluster.session import is_job, prepare_environment, ray_session
    from orchestrator.console.summary import show_outcome
    from orchestrator.controller.calibration import calibration_plan, show_calibration
    from orchestrator.controller.run_state import Run
    from orchestrator.ledger.run_folder import CALIBRATION, hold_run_folder
    from orchestrator.ledger.tables import Ledger
    from orchestrator.planning.loader import load_sweep
    from orchestrator.planning.plan import make_plan

    plan = make_plan(load_sweep(options.source, [*options.set, *_budget(options)]))
    ledger = Ledger(options.output or f"runs/{plan.config.name}")
    if options.calibrate:
        plan = calibration_plan(plan.config, ledger.root)
        ledger = ledger.below(CALIBRATION)
    if options.dry_run:
        return _dry_run(plan, as_json=options.json)
    prepare_environment(options.address)
    if is_job(options.address):
        return submit(options)
    _check(plan, ledger, options)
    with hold_run_folder(
        ledger
    ):  # first, so that a folder that cannot be written is told before Ray is started
        run = Run(ledger, plan, retry_failed=options.retry_failed, fail_fast=options.fail_fast)
        # Where a budget is used up nothing is started that would have to leave off at once.
        if options.fresh or (_anything_left(run) and not run.heed_budget()):
            with ray_session(options.address, plan.config.operation, verbose=options.verbose) as holdings:
                _carry_out(options, run, _room(options, plan, holdings))
        else:
            _carry_out(options, run, None)
    show = show_calibration if options.calibrate else show_outcome
    return show(run, as_json=options.json, code=_exit_code(run))


def _anything_left(run: Run) -> bool:
    from orchestrator.controller.teachers import (
        anything_left,  # Ray, which reads the environment when it is imported
    )

    return anything_left(run)


def _room(options: Options, plan: Plan, now: ClusterResources) -> Callable[[], int]:
    """How many cohorts fit: at first once a joined cluster has grown as far as it was asked to, then as it is."""
    from orchestrator.cluster.session import LOCAL

    compute, operation = plan.config.compute, plan.config.operation
    if options.address == LOCAL:
        fit = now.cohorts_at_once(compute, operation)
        return lambda: fit
    from orchestrator.cluster.autoscaling import grown, room_now

    grown(now, compute, operation).cohorts_at_once(compute, operation)  # refuses one that is too small
    return lambda: room_now(compute, operation)


def _budget(options: Options) -> list[str]:
    """The budget's options as settings of the sweep file, which they override."""
    given = {
        "hours": options.max_hours,
        "gpu_hours": options.max_gpu_hours,
        "cost": options.max_cost,
        "price": options.price_per_hour,
    }
    return [f"budget.{key}={value}" for key, value in given.items() if value is not None]


def _carry_out(options: Options, run: Run, room: Callable[[], int] | None) -> None:
    """The phases, one after the other, each of which may be asked to leave off; then the board.

    Args:
        room: how many cohorts fit beside each other now; None where nothing is left to train and no Ray is there.
    """
    from orchestrator.cluster.session import LOCAL
    from orchestrator.console.progress import PipeSafeConsole, ProgressView
    from orchestrator.controller.calibration import write_calibration
    from orchestrator.controller.worker_groups import WorkerGroupPool
    from orchestrator.gallery import write_gallery
    from orchestrator.leaderboard.files import GALLERY, write_leaderboard
    from orchestrator.ledger.run_folder import claim_run_folder
    from orchestrator.worker.main import GalleryJob

    ledger = run.ledger
    with ProgressView(PipeSafeConsole(stderr=options.json)) as view, _stops_at_signals(run, view):
        if room is not None and options.address != LOCAL:
            room = _room_on_ready_nodes(run, room, view.say)
        claim_run_folder(ledger, run.plan, fresh=options.fresh)
        draws = not options.calibrate and (room is not None or not ledger.exists(f"leaderboard/{GALLERY}"))
        crews = WorkerGroupPool(run, room or (lambda: 0))
        notes: list[str] | None = None
        try:
            _phases(run, crews, view, later=int(draws))
            run.compact()
            draws = draws and not run.stopped.is_set()
            if draws:
                notes = crews.draw(GalleryJob(ledger.root))
        finally:
            crews.close()
        ledger.delete("ray")  # what Ray Train keeps of its own
        if options.calibrate:
            write_calibration(ledger)
            return
        if draws and notes is None:  # nobody is there who has torch at hand
            _, notes = write_gallery(ledger)
        for note in notes or []:
            view.say(note)
        write_leaderboard([ledger])  # after the gallery, which it links


def _room_on_ready_nodes(run: Run, room: Callable[[], int], say: Callable[[str], None]) -> Callable[[], int]:
    """Refuses nodes that lack what the sweep needs. Of one that joins later it is said: Ray may train on it all the same."""
    from orchestrator.cluster.preflight import Preflight

    readiness = Preflight(run.config, run.ledger)
    readiness.check()

    def look() -> int:
        for fault in readiness.news():
            say(f"WARNING: a node that joined lacks what this sweep needs: {fault}")
        return room()

    return look


def _phases(run: Run, crews: WorkerGroupPool, view: ProgressView, *, later: int) -> None:
    """Teachers, then students; `later` crews are kept for what follows."""
    from orchestrator.cluster.provenance import arguments_of_this_command, provenance_row
    from orchestrator.controller.phase_runner import run_phase
    from orchestrator.controller.teachers import missing_teachers, prepare_teachers, teacher_hashes

    def note_provenance() -> None:
        row = provenance_row(run.plan, arguments_of_this_command(), teacher_hashes(run))
        run.ledger.append("provenance", [row], row["provenance_id"])
        run.provenance_id = row["provenance_id"]

    note_provenance()
    if run.stopped.is_set():
        return
    prepare_teachers(run, crews=crews, watch=view.watch)
    if run.stopped.is_set() or missing_teachers(run):
        return
    note_provenance()
    run_phase(run, "students", run.plan.students, crews=crews, watch=view.watch, later=later)


def _check(plan: Plan, ledger: Ledger, options: Options) -> None:
    """Everything that can be found wrong before Ray is started and a file is written."""
    from distill.data.check import check_dataset
    from orchestrator.cluster.session import LOCAL
    from orchestrator.controller.teachers import check_teachers
    from orchestrator.controller.trackers import check_trackers
    from orchestrator.ledger.run_folder import check_run_folder, refuse_if_held

    for config in plan.config.data.values():
        check_dataset(config, skip_broken=True, copies=plan.config.operation.copies)
    refuse_if_held(ledger)
    if options.address == LOCAL:  # of other nodes `Preflight` asks the same
        _check_folders(plan.config.operation.keeping)
    check_run_folder(ledger, plan, fresh=options.fresh)
    check_trackers(plan.config.operation.trackers, ledger)
    check_teachers(plan, ledger, fresh=options.fresh)


def _check_folders(folders: Mapping[str, str]) -> None:
    from distill.errors import UsageError
    from orchestrator.cluster.node_probe import unwritable

    for name, folder in folders.items():
        fault = unwritable(folder)
        if fault is not None:
            raise UsageError(f"{name}.folder is {folder} and {fault}; choose another folder")


def _dry_run(plan: Plan, *, as_json: bool) -> int:
    from orchestrator.planning.cost_estimate import estimate, render_estimate

    found = estimate(plan)
    print(json.dumps(found, indent=1) if as_json else render_estimate(found))
    return DONE


def _exit_code(run: Run) -> int:
    if run.stop_reason == _INTERRUPT:
        return INTERRUPTED
    if run.stop_reason is not None and run.stop_reason.startswith("budget"):
        return BUDGET
    return SOME_FAILED if run.failures() or run.given_up else DONE


class _stops_at_signals:  # noqa: N801 - reads as a sentence where it is used
    """Ctrl-C and SIGTERM ask the run to leave off with a checkpoint; a second one ends it where it stands."""

    def __init__(self, run: Run, view: ProgressView) -> None:
        self._run = run
        self._view = view

    def __enter__(self) -> None:
        self._old = {number: signal.signal(number, self._stop) for number in (signal.SIGINT, signal.SIGTERM)}

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def _stop(self, number: int, frame: object) -> None:
        if self._run.stopped.is_set():
            os._exit(INTERRUPTED)
        self._run.stop(_INTERRUPT)
        self._view.say("leaving off at the next checkpoint; once more to end at once")


if __name__ == "__main__":
    main()
