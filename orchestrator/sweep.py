"""The sweep: plan → teachers → students (search, then final runs) → leaderboard.

python -m orchestrator.sweep [PRESET | FILE.yaml] [options]
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Annotated

import tyro

from distill.command_line import DONE, exit_code_of, run_command
from orchestrator.console.ray_lost import exit_without_ray, wait_for_other_end
from orchestrator.console.signals import STOP_SIGNALS

if TYPE_CHECKING:
    from orchestrator.cluster.session import ClusterResources
    from orchestrator.console.progress import ProgressView
    from orchestrator.controller.live_board import LiveBoard
    from orchestrator.controller.phase_runner import PhaseView
    from orchestrator.controller.run_state import Run
    from orchestrator.controller.worker_groups import WorkerGroupPool
    from orchestrator.leaderboard.files import Written
    from orchestrator.ledger.tables import Ledger
    from orchestrator.planning.plan import Plan


@dataclass(frozen=True)
class SweepOptions:
    """Compare distillation methods for semantic segmentation: teachers, search, final runs, leaderboard.

    The same command again resumes. Exit codes: 0 all planned work done, 1 a bug of ours, 2 bad usage, config or data,
    3 finished but some trials failed, 4 stopped by a budget, 5 a process of Ray was lost, 130 interrupted.
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
    """Show what would run and what it would cost, check all that can be checked without training, and write nothing."""
    calibrate: bool = False
    """Train the teachers and a few steps of every study, and show how hard each loss term pulls compared with the task's."""
    json: bool = False
    """Print the plan or the outcome as JSON on standard output; all else goes to standard error."""
    fail_fast: bool = False
    """Stop at the first trial that fails."""
    retry_failed: bool = False
    """Train again what failed before."""
    fresh: bool = False
    """Delete the results that are in the run's folder and start anew."""
    verbose: bool = False
    """Show Ray's own messages."""
    list_names: Annotated[bool, tyro.conf.arg(name="list")] = False
    """Print the names of all presets, methods, heads, pairs, recipes, data kinds, samplers and prices, and nothing else."""
    version: bool = False
    """Print the version, with those of torch, timm and ray, and nothing else."""


def main() -> None:
    """The command; exits with one of the codes above."""
    STOP_SIGNALS.install()
    run_command(
        "python -m orchestrator.sweep", SweepOptions, command, settings=(tyro.conf.FlagCreatePairsOff,)
    )


def command(options: SweepOptions) -> int:
    """Run a sweep; errors become an exit code and a message."""
    from orchestrator.protocol import RayLostError

    if options.list_names or options.version:
        return exit_code_of(lambda: _print_facts(options))
    try:
        return exit_code_of(lambda: sweep(options), "interrupted; the same command goes on from here")
    except RayLostError as error:
        exit_without_ray(error)
    finally:
        wait_for_other_end()


def _print_facts(options: SweepOptions) -> int:
    """What `--list` and `--version` print."""
    from orchestrator.console.known_names import known_names, render_names, versions

    if options.version:
        print(versions())
    elif options.json:
        print(json.dumps(known_names(), indent=1, ensure_ascii=False))
    else:
        print(render_names(known_names()))
    return DONE


def sweep(options: SweepOptions) -> int:
    """Plan → teachers → students → leaderboard, each one call into one room. Returns the exit code."""
    from orchestrator.cluster.job_submission import submit
    from orchestrator.cluster.session import is_job, prepare_environment, ray_session
    from orchestrator.console.plan_view import show_plan, start_lines
    from orchestrator.ledger.run_folder import BOARD_PAGE

    plan, ledger = _plan_and_ledger(options)
    if options.dry_run:
        code = show_plan(plan, as_json=options.json)
        prepare_environment(options.address)
        from orchestrator.controller.dry_run import look_ahead

        for note in look_ahead(plan, ledger, fresh=options.fresh, address=options.address):
            print(note, file=sys.stderr)
        return code
    prepare_environment(options.address)
    if is_job(options.address):
        return submit(options)
    board = None if options.calibrate else ledger.place(BOARD_PAGE)
    print(start_lines(plan, ledger.place(), board), file=sys.stderr, flush=True)
    # A dry run needs none of this, and does not wait for it. Ray reads its environment when it is imported.
    from orchestrator.console.summary import exit_code, show_calibration, show_outcome
    from orchestrator.controller.checks import check_before_start
    from orchestrator.controller.run_state import Run
    from orchestrator.controller.teachers import anything_left
    from orchestrator.ledger.folder_lock import hold_run_folder
    from orchestrator.ledger.repair import repair_run

    for note in check_before_start(plan, ledger, fresh=options.fresh, address=options.address):
        print(note, file=sys.stderr)
    # Before Ray starts, so that a folder that cannot be written is an error at once.
    with hold_run_folder(ledger) as lock:
        if not options.fresh:
            for note in repair_run(ledger, plan):
                print(note, file=sys.stderr)
        run = Run(ledger, plan, retry_failed=options.retry_failed, fail_fast=options.fail_fast)
        # With a used-up budget nothing is started that would have to stop at once.
        if options.fresh or (anything_left(run) and not run.check_budget()):
            on_lost = partial(exit_without_ray, lock=lock)
            with ray_session(
                options.address, plan.config.operation, verbose=options.verbose, on_lost=on_lost
            ) as resources:
                written = _carry_out(options, run, _capacity(options, plan, resources))
        else:
            written = _carry_out(options, run, None)
    if written is None:
        return show_calibration(run, as_json=options.json, code=exit_code(run))
    return show_outcome(run, written, as_json=options.json, code=exit_code(run))


def _plan_and_ledger(options: SweepOptions) -> tuple[Plan, Ledger]:
    """The plan of the sweep file, with what its run has recorded of it, and the run; or those of its calibration."""
    from orchestrator.cluster.session import is_job
    from orchestrator.controller.calibration import calibration_plan
    from orchestrator.ledger.earlier_runs import with_first_configurations
    from orchestrator.ledger.recorded import recorded_contents, recorded_costs
    from orchestrator.ledger.run_folder import CALIBRATION
    from orchestrator.ledger.tables import Ledger
    from orchestrator.planning.equal_seconds import unmeasured, with_step_costs
    from orchestrator.planning.loader import load_sweep
    from orchestrator.planning.plan import make_plan
    from orchestrator.planning.weight_contents import weight_contents

    config = load_sweep(options.source, [*options.set, *_budget_settings(options)])
    ledger = Ledger(f"runs/{config.name}" if options.output is None else options.output)
    if not is_job(options.address):  # a job reads the earlier runs on its cluster
        config, notes = with_first_configurations(config, ledger, fresh=options.fresh)
        for note in notes:
            print(note, file=sys.stderr)
    if unmeasured(config) and not options.fresh:
        config = with_step_costs(config, recorded_costs(ledger))
    contents = weight_contents(config, recorded_contents(ledger))
    if options.calibrate:
        return calibration_plan(config, contents, ledger.root), ledger.below(CALIBRATION)
    return make_plan(config, contents), ledger


def _budget_settings(options: SweepOptions) -> list[str]:
    """The budget's options as settings that override the sweep file."""
    given = {
        "hours": options.max_hours,
        "gpu_hours": options.max_gpu_hours,
        "cost": options.max_cost,
        "price": options.price_per_hour,
    }
    return [f"budget.{key}={value}" for key, value in given.items() if value is not None]


def _capacity(options: SweepOptions, plan: Plan, now: ClusterResources) -> Callable[[], int]:
    """Number of cohorts that fit: of a joined cluster once its autoscaler has done its part, then as it is now."""
    from orchestrator.cluster.session import LOCAL

    compute, operation = plan.config.compute, plan.config.operation
    if options.address == LOCAL:
        fit = now.cohorts_at_once(compute, operation)
        return lambda: fit
    from orchestrator.cluster.autoscaling import current_capacity, scale_up

    scale_up(now, compute, operation).cohorts_at_once(compute, operation)  # an error if it is too small
    return lambda: current_capacity(compute, operation)


def _carry_out(options: SweepOptions, run: Run, capacity: Callable[[], int] | None) -> Written | None:
    """The phases, one after the other, each of which may be asked to stop; then the board.

    Args:
        capacity: number of cohorts that fit now; None if nothing is left to train and there is no Ray.

    Returns:
        The board; None for a calibration, which has none.
    """
    from rich.console import Console

    from orchestrator.cluster.session import LOCAL
    from orchestrator.console.progress import ProgressView
    from orchestrator.controller.calibration import write_calibration
    from orchestrator.controller.live_board import LiveBoard
    from orchestrator.controller.worker_groups import WorkerGroupPool
    from orchestrator.ledger.run_folder import claim_run_folder

    ledger = run.ledger
    with ProgressView(Console(stderr=options.json)) as view, STOP_SIGNALS.stopping(run, view.say):
        if capacity is not None and options.address != LOCAL:
            capacity = _capacity_of_checked_nodes(run, capacity, view.say)
        claim_run_folder(ledger, run.plan, fresh=options.fresh)
        for trial_id, part in sorted(run.incomplete.items()):
            view.say(f"trial {trial_id} lacks {part}: it is trained again")
        groups = WorkerGroupPool(run, capacity or (lambda: 0), view.say)
        try:
            draws_gallery = _wants_gallery(options, run, trains=capacity is not None)
            board = None if options.calibrate else LiveBoard(run, view.say)
            try:
                _run_phases(run, groups, view, board, later=int(draws_gallery))
            finally:
                if board is not None:
                    board.close()
            run.compact()
            notes = _draw_gallery(run, groups) if draws_gallery and not run.stopped.is_set() else []
        finally:
            groups.close()
        ledger.delete("ray")  # files of Ray Train
        if options.calibrate:
            write_calibration(ledger)
            return None
        for note in notes:
            view.say(note)
        return _write_leaderboard(run)  # after the gallery, to which it links


def _watchers(view: ProgressView, board: LiveBoard | None) -> Callable[[PhaseView], None]:
    """What is called about once a second: the progress, then the board."""

    def watch(phase: PhaseView) -> None:
        view.watch(phase)
        if board is not None:
            board.watch(phase)

    return watch


def _write_leaderboard(run: Run) -> Written:
    """Write the leaderboard. A damaged file of a table is found here at the latest, and moved away."""
    from distill.errors import UsageError
    from orchestrator.controller.teachers import anything_left, missing_teachers
    from orchestrator.leaderboard.files import write_leaderboard
    from orchestrator.leaderboard.unfinished import Unfinished
    from orchestrator.ledger.repair import set_aside_damaged

    ledger = run.ledger
    try:
        has_stopped = run.stopped.is_set() or run.given_up or missing_teachers(run)
        unfinished = Unfinished(run.plan.trainings) if has_stopped and anything_left(run) else None
        return write_leaderboard([ledger], unfinished=unfinished)
    except UsageError as error:
        notes = set_aside_damaged(ledger, read=True)
        if not notes:
            raise
        raise UsageError("\n".join([*notes, "the same command goes on from here"])) from error


def _capacity_of_checked_nodes(
    run: Run, capacity: Callable[[], int], say: Callable[[str], None]
) -> Callable[[], int]:
    """An error if a node lacks what the sweep needs. Of a node that joins later it is printed: Ray may train on it anyway."""
    from orchestrator.cluster.preflight import Preflight

    preflight = Preflight(run.config, run.ledger)
    preflight.check()

    def checked() -> int:
        for fault in preflight.check_new_nodes():
            say(f"WARNING: a node that joined lacks what this sweep needs: {fault}")
        return capacity()

    return checked


def _wants_gallery(options: SweepOptions, run: Run, *, trains: bool) -> bool:
    from orchestrator.leaderboard.files import GALLERY

    return not options.calibrate and (trains or not run.ledger.exists(f"leaderboard/{GALLERY}"))


def _draw_gallery(run: Run, groups: WorkerGroupPool) -> list[str]:
    """Draw the gallery in a worker, or here if there is none; returns what it leaves out."""
    from orchestrator.protocol import GalleryJob

    notes = groups.draw_gallery(GalleryJob(run.ledger.root))
    if notes is None:
        from orchestrator.worker.gallery_writer import write_gallery  # torch

        _, notes = write_gallery(run.ledger)
    return notes


def _run_phases(
    run: Run, groups: WorkerGroupPool, view: ProgressView, board: LiveBoard | None, *, later: int
) -> None:
    """Teachers, then the costs that the plan lacks, then students; `later` worker groups are kept for what follows."""
    from orchestrator.cluster.provenance import arguments_of_this_command, provenance_row
    from orchestrator.controller.cost_measurement import measure_costs
    from orchestrator.controller.phase_runner import run_phase
    from orchestrator.controller.pretrained import pretrained_weights
    from orchestrator.controller.teachers import missing_teachers, prepare_teachers, teacher_hashes
    from orchestrator.ledger.run_folder import claim_run_folder
    from orchestrator.planning.equal_seconds import unmeasured

    weights, watch = pretrained_weights(run.config), _watchers(view, board)

    def record_provenance() -> None:
        row = provenance_row(run.plan, arguments_of_this_command(), teacher_hashes(run), weights)
        run.ledger.append("provenance", [row], row["provenance_id"])
        run.provenance_id = row["provenance_id"]

    record_provenance()
    if run.stopped.is_set():
        return
    prepare_teachers(run, groups=groups, watch=watch)
    if run.stopped.is_set() or missing_teachers(run):
        return
    if unmeasured(run.config):
        measure_costs(run, groups=groups, watch=view.watch, say=view.say)
        if run.stopped.is_set():
            return
        claim_run_folder(run.ledger, run.plan, fresh=False)  # the plan has grown by what was measured
    record_provenance()
    run_phase(run, "students", run.plan.students, groups=groups, watch=watch, later=later)


if __name__ == "__main__":
    main()
