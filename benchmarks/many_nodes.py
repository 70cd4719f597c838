"""A plan on a cluster larger than this machine: `python benchmarks/many_nodes.py [--nodes 64] [--cohorts 100]`.

Ray's own daemons, one set for each node, on one machine; the nodes say that they have 4 CPUs and a GPU each, which nobody
checks. Planner, searcher, scheduler, channels, worker groups, placement and ledger are those of a sweep; only that a group's workers
answer each wave after `--seconds` instead of training it. There are more cohorts than nodes, each on a GPU of its own: the
plan has to queue, use every node, and come to its end. Tells how many cohorts worked at once, on how many nodes, what a
trial cost, and how long a place stood empty between one cohort and the next. Writes `benchmarks/many_nodes.json` and the
page `docs/performance.md`.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import os
import secrets
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import measured
import performance
from scale import answer_waves, begun_run, memory

LEAN = {"RAY_prestart_worker_first_driver": "0", "RAY_enable_worker_prestart": "0"}
"""Else every node starts a process for each CPU that it says it has."""
METHODS = ("student", "kd")
EVERY = {"node_ip_address": "127.0.0.2", "object_store_memory": 80 * 2**20}  # nobody else reaches it
NODE = {**EVERY, "num_cpus": 4, "num_gpus": 1}
HEAD = {**EVERY, "num_cpus": 0, "include_dashboard": False}


def sweep(cohorts: int, trials: int, wave: int) -> dict[str, Any]:
    """A sweep file's content: each pair has a teacher of its own, and so a cohort of its own."""
    recipe = {"steps": 1, "batch_size": 1, "augmentation": {"crop": 32}, "lr": 0.1}
    teachers = [
        {"model": "segformer-test_vit", "head_channels": 8 + number, "recipe": "recipe"}
        for number in range(cohorts)
    ]
    student = {"model": "deeplabv3-test_resnet", "recipe": "recipe"}
    return {
        "name": "many_nodes",
        "data": {"scenes": {"kind": "scenes", "size": 32, "classes": 9}},
        "recipes": {"recipe": recipe},
        "pairs": [
            {"name": f"pair{number}", "teacher": teacher, "student": student, "data": "scenes"}
            for number, teacher in enumerate(teachers)
        ],
        "methods": METHODS,
        "search": {"trials": trials // (cohorts * len(METHODS)) - 1, "rungs": [], "bracket": 1, "wave": wave},
        "final": {"seeds": [1]},
        "compute": {"device": "cuda", "workers": 1, "cpus_per_worker": 4},
    }


def answer_jobs(group: str, assignments: Any, seconds: float, notes: str) -> None:
    """The worker of a group, like `orchestrator.worker.main.run_jobs`, but it trains nothing; notes when and where."""
    import ray

    done: str | None = None
    while (job := assignments.current(group, done)) != "closed":
        if job is None:
            continue
        began = time.time()
        answer_waves(job.channel, None, seconds)
        note = {"began": began, "ended": time.time(), "node": ray.get_runtime_context().get_node_id()}
        Path(notes, f"{job.name}.json").write_text(json.dumps(note))
        done = job.name
        assignments.finish(group)


def main() -> None:
    """Starts the nodes, runs the phase, writes what was seen."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--nodes", type=int, default=64)
    parser.add_argument("--cohorts", type=int, default=100)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--wave", type=int, default=8, help="trials of a cohort at once")
    parser.add_argument("--json", type=Path, default=Path(__file__).with_suffix(".json"))
    parser.add_argument("--page", type=Path, default=performance.PAGE)
    options = parser.parse_args()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        found = measured.rounded(measure(options, Path(folder)))
    print(json.dumps(found, indent=1))
    report = {"machine": measured.machine(load), **found}
    options.json.write_text(json.dumps(report, indent=1) + "\n")
    performance.write(options.page, many_nodes=options.json)


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """One phase on so many nodes."""
    from orchestrator.cluster.session import prepare_environment

    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), **LEAN}
    prepare_environment("auto")  # before anything imports ray
    import ray._private.utils
    from ray.cluster_utils import Cluster

    # Each node's agent as it is where Ray is installed without its dashboard: half the memory.
    ray._private.utils.get_dashboard_dependency_error = lambda: ImportError("left out")
    cluster = Cluster(initialize_head=True, head_node_args=HEAD)
    try:
        began = time.monotonic()
        for _ in range(options.nodes):
            cluster.add_node(wait=False, **NODE)
        cluster.wait_for_nodes(timeout=1200)
        started = time.monotonic() - began
        return {
            "nodes": options.nodes,
            "start_seconds": started,
            **carry_out(options, folder, cluster.address),
        }
    finally:
        cluster.shutdown()


def answering_pool(run: Any, options: argparse.Namespace, notes: Path) -> Any:
    """A `WorkerGroupPool` that places its workers as a Ray Train run does; they answer instead of training."""
    import ray
    from ray.util.placement_group import placement_group, remove_placement_group
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    from orchestrator.cluster.autoscaling import current_capacity
    from orchestrator.cluster.session import worker_resources
    from orchestrator.controller.worker_groups import WorkerGroupPool

    compute, operation = run.config.compute, run.config.operation

    class AnsweringPool(WorkerGroupPool):
        def _run_group(self, group: str) -> None:
            bundles = [dict(worker_resources(compute, operation)) for _ in range(compute.workers)]
            place = placement_group(bundles, strategy="PACK")
            ray.get(place.ready())
            worker = ray.remote(answer_jobs).options(
                num_cpus=bundles[0]["CPU"],
                num_gpus=bundles[0]["GPU"],
                scheduling_strategy=PlacementGroupSchedulingStrategy(place),
            )
            ray.get(worker.remote(group, self.coordinator.assignments, options.seconds, str(notes)))
            remove_placement_group(place)

    return AnsweringPool(run, lambda: current_capacity(compute, operation))


def carry_out(options: argparse.Namespace, folder: Path, address: str) -> dict[str, Any]:
    """The phase, on a cluster that runs."""
    from rich.console import Console

    from orchestrator.cluster.session import ray_session
    from orchestrator.console.progress import ProgressView
    from orchestrator.controller.phase_runner import run_phase
    from orchestrator.planning.config import SweepConfig
    from orchestrator.planning.plan import make_plan

    plan = make_plan(SweepConfig.model_validate(sweep(options.cohorts, options.trials, options.wave)))
    root, notes = folder / "run", folder / "notes"
    notes.mkdir()
    run = begun_run(plan, root)
    ledger = run.ledger

    with (
        ray_session(address, plan.config.operation, verbose=False) as resources,
        ProgressView(Console(file=io.StringIO())) as view,
    ):
        groups = answering_pool(run, options, notes)
        base, began = memory("VmRSS"), time.monotonic()
        run_phase(run, "students", plan.students, groups=groups, watch=view.watch)
        groups.close()
        seconds = time.monotonic() - began
    rows = ledger.read("trials", ["status"]).to_pylist()
    assert all(row["status"] == "ok" for row in rows)
    seen = [json.loads(path.read_text()) for path in notes.iterdir()]
    work = sum(note["ended"] - note["began"] for note in seen)
    return {
        "cluster": {"cpus": resources.cpus, "gpus": resources.gpus},
        "cohorts": len(seen),
        "trials": len(rows),
        "seconds": seconds,
        "wave": options.wave,
        "seconds_if_nothing_cost_anything": options.seconds
        * sum(len(cohort.waves) for cohort in plan.students)
        / options.nodes,
        "ms_per_trial": 1000 * seconds / len(rows),
        "cohorts_at_once": at_once(seen),
        "nodes_used": len({note["node"] for note in seen}),
        "share_of_time_at_work": work / (options.nodes * seconds),
        "seconds_between_cohorts": statistics.median(gaps(seen) or [0.0]),
        "driver_start_mib": base,
        "driver_peak_mib": memory("VmHWM"),
    }


def at_once(seen: list[dict[str, Any]]) -> int:
    """The most cohorts that worked at one time."""
    return max(sum(n["began"] <= note["began"] < n["ended"] for n in seen) for note in seen)


def gaps(seen: list[dict[str, Any]]) -> list[float]:
    """Seconds between the end of a cohort on a node and the beginning of the next one there."""
    found = []
    for node in {note["node"] for note in seen}:
        mine = sorted((note for note in seen if note["node"] == node), key=lambda note: note["began"])
        found += [after["began"] - before["ended"] for before, after in itertools.pairwise(mine)]
    return found


if __name__ == "__main__":
    main()
