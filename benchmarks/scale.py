"""What the sweep's book-keeping costs for many trials, beside bare Ray Tune: `python benchmarks/scale.py`.

    python benchmarks/scale.py [--trials 250 500 1000 2000] [--repeats 1] [--bare-most N]

`--trials 10000` is the largest that is asked about; `--bare-most` is the largest at which bare Tune is measured, too, which
may take hours. Two sides, each in a process of its own, the machine to itself:

* ours: a phase of the sweep as it is (planner, searcher, scheduler, cohort channel, ledger, progress), in which a cohort
  answers every wave at once instead of training it. Five studies share the trials, by Sobol, 16 in a wave, nobody is
  pruned; with a final run of each study at the end. Then the ledger is read as a resumed command reads it, and
  `python -m orchestrator.leaderboard` makes the board.
* bare: a Tuner with a function that reports once and returns, random search over two numbers, `reuse_actors`, 16 trials at
  once, placed as ours are. It keeps nothing but Tune's own snapshot.

Start-up of Ray is left out. The first and the last tenth of the trials, by when they ended, tell what grows. Memory is
the driver's own. Writes `benchmarks/scale.json` and the page `docs/performance.md`.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import measured
import performance

METHODS = ("student", "kd", "cwd", "at", "dist")
AT_ONCE = 16
PICTURES, CLASSES = 20, 9


def sweep_of(count: int) -> dict[str, Any]:
    """A sweep file with about so many trials."""
    recipe = {"steps": 1, "batch_size": 1, "augmentation": {"crop": 32}, "lr": 0.1}
    return {
        "name": "scale",
        "data": {"scenes": {"kind": "scenes", "size": 32, "classes": CLASSES}},
        "recipes": {"recipe": recipe},
        "pairs": [
            {
                "teacher": {"model": "segformer-test_vit", "recipe": "recipe"},
                "student": {"model": "deeplabv3-test_resnet", "recipe": "recipe"},
                "data": "scenes",
            }
        ],
        "methods": METHODS,
        "search": {"trials": count // len(METHODS), "rungs": [], "wave": AT_ONCE},
        "final": {"seeds": [1]},
    }


class AnsweringPool:
    """Replaces `WorkerGroupPool`: its workers answer every wave at once. Everything around it is the real thing."""

    def __init__(self, root: Path) -> None:
        from orchestrator.controller.coordinator import CoordinatorClient

        self.root = str(root)
        self.coordinator = CoordinatorClient()
        self.start_seconds: list[float] = []

    def capacity(self) -> int:
        return 1

    def keep(self, most: int) -> None:
        """No group is idle."""

    def note_first_training(self, channel: str, seconds: float) -> None:
        """No group had to be started."""

    def train(self, job: Any, jobs_left: Callable[[], int]) -> None:
        import ray

        ray.get(ray.remote(answer_waves).options(num_cpus=0).remote(job.channel, self.root))


def ours(count: int, root: Path) -> dict[str, Any]:
    """Plan → phase → ledger → board, with a cohort that trains nothing."""
    from orchestrator.cluster.session import LOCAL, prepare_environment, ray_session

    prepare_environment(LOCAL)  # before anything imports ray
    from rich.console import Console

    from orchestrator.console.progress import ProgressView
    from orchestrator.controller.phase_runner import run_phase
    from orchestrator.controller.run_state import Run
    from orchestrator.planning.config import SweepConfig
    from orchestrator.planning.plan import make_plan

    began = time.perf_counter()
    plan = make_plan(SweepConfig.model_validate(sweep_of(count)))
    planned = time.perf_counter() - began
    run = begun_run(plan, root)
    ledger = run.ledger
    with (
        ray_session(LOCAL, plan.config.operation, verbose=False),
        ProgressView(Console(file=io.StringIO())) as view,
    ):
        base = memory("VmRSS")
        began = time.perf_counter()
        run_phase(run, "students", plan.students, groups=AnsweringPool(root), watch=view.watch)
        seconds = time.perf_counter() - began
        peak = memory("VmHWM")
    ended = sorted(
        row["finished_at"].timestamp() for row in ledger.read("trials", ["finished_at"]).to_pylist()
    )
    again = Run(ledger, plan)
    _, resume = timed(again.recorded)
    board = [sys.executable, "-m", "orchestrator.leaderboard", str(root)]
    _, making = timed(lambda: subprocess.run(board, check=True, capture_output=True))
    files = [path for path in (root / "tables").rglob("*") if path.is_file()]
    return {
        **told(ended, seconds, base, peak),
        "plan_seconds": planned,
        "resume_seconds": resume,
        "board_seconds": making,
        "ledger_files": len(files),
        "ledger_mib": sum(path.stat().st_size for path in files) / 2**20,
    }  # fmt: skip


def begun_run(plan: Any, root: Path) -> Any:
    """A run of a plan, in a ledger that is claimed for it and says where it comes from."""
    from orchestrator.cluster.provenance import provenance_row
    from orchestrator.controller.run_state import Run
    from orchestrator.ledger.run_folder import claim_run_folder
    from orchestrator.ledger.tables import Ledger

    run = Run(Ledger(root), plan)
    claim_run_folder(run.ledger, plan, fresh=False)
    row = provenance_row(plan, [], {}, {})
    run.ledger.append("provenance", [row], row["provenance_id"])
    run.provenance_id = row["provenance_id"]
    return run


def answer_waves(channel: Any, root: str | None, seconds: float = 0.0) -> None:
    """A cohort that trains nothing: a score by the trial's name, so many seconds after a wave is seated.

    In the ledger at `root` it writes what a board needs of a final run.
    """
    from orchestrator.protocol import Report

    finished = -1
    while True:
        order = channel.next_wave(finished)
        if order == "closed":
            return
        if order is None:
            continue
        time.sleep(seconds)
        reports = []
        for trial in order.trials:
            score, final = random.Random(trial.trial_id).random(), trial.phase == "final"
            if final and root is not None:
                _count(root, trial.trial_id, score)
            now = time.time()
            reports.append(
                Report(
                    trial.trial_id, trial.recipe.steps, status="ok", tune_miou=score,
                    test_miou=score if final else None, started_at=now, finished_at=now,
                )
            )  # fmt: skip
        channel.post(reports)
        finished = order.index


def _count(root: str, trial_id: str, score: float) -> None:
    import numpy as np

    from orchestrator.ledger.row_builders import count_rows
    from orchestrator.ledger.tables import Ledger

    tp = np.full((PICTURES, CLASSES), int(1000 * score))
    table = count_rows(trial_id, "test", range(PICTURES), tp, 1000 - tp, 1000 - tp)
    Ledger(root).append("counts", table, trial_id)


def bare(count: int, root: Path) -> dict[str, Any]:
    """Ray Tune alone."""
    from orchestrator.cluster.session import LOCAL, ray_session
    from orchestrator.planning.config import OperationConfig

    with ray_session(LOCAL, OperationConfig(), verbose=False):
        from ray import tune

        from orchestrator.controller.coordinator import BESIDE_THE_DRIVER

        tuner = tune.Tuner(
            tune.with_resources(report_once, tune.PlacementGroupFactory([BESIDE_THE_DRIVER])),
            param_space={"weight": tune.loguniform(0.1, 10), "temperature": tune.uniform(1, 8)},
            tune_config=tune.TuneConfig(num_samples=count, reuse_actors=True, max_concurrent_trials=AT_ONCE),
            run_config=tune.RunConfig(name="bare", storage_path=str(root), verbose=0),
        )
        base = memory("VmRSS")
        began = time.perf_counter()
        results = tuner.fit()
        seconds = time.perf_counter() - began
        peak = memory("VmHWM")
    return told(sorted(result.metrics["ended"] for result in results), seconds, base, peak)


def report_once(config: dict[str, Any]) -> None:
    """A trial that returns at once."""
    from ray import tune

    tune.report({"tune_miou": config["weight"], "ended": time.time()})


def told(ended: list[float], seconds: float, base: float, peak: float) -> dict[str, Any]:
    """What both sides tell: seconds per trial in all, and in the first and the last tenth; memory of the driver."""
    tenth = max(1, len(ended) // 10)
    return {
        "trials": len(ended),
        "seconds": seconds,
        "ms_per_trial": 1000 * seconds / len(ended),
        "ms_first_tenth": 1000 * (ended[tenth] - ended[0]) / tenth,
        "ms_last_tenth": 1000 * (ended[-1] - ended[-1 - tenth]) / tenth,
        "driver_start_mib": base,
        "driver_peak_mib": peak,
    }


def memory(field: str) -> float:
    """MiB of this process: VmRSS now, VmHWM at most so far."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{field}:"))


def timed(once: Callable[[], Any]) -> tuple[Any, float]:
    began = time.perf_counter()
    return once(), time.perf_counter() - began


def main() -> None:
    """Writes one line per side and size, results and page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", nargs="+", type=int, default=[250, 500, 1000, 2000])
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--bare-most", type=int, help="most trials of bare Tune; by default as many as ours")
    parser.add_argument("--json", type=Path, default=Path(__file__).with_suffix(".json"))
    parser.add_argument("--page", type=Path, default=performance.PAGE)
    parser.add_argument("--side", choices=["ours", "bare"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        with tempfile.TemporaryDirectory() as folder:
            measure = ours if options.side == "ours" else bare
            print(json.dumps(measure(options.trials[0], Path(folder))))
        return
    load = os.getloadavg()[0]
    rows = []
    for _ in range(options.repeats):
        for count in options.trials:
            beyond = options.bare_most is not None and count > options.bare_most
            for side in ("ours",) if beyond else ("bare", "ours"):
                command = [sys.executable, __file__, "--side", side, "--trials", str(count)]
                done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
                found = json.loads(done.stdout.splitlines()[-1])
                rows.append({"side": side, "planned": count} | measured.rounded(found))
                print(rows[-1], flush=True)
    report = {"machine": measured.machine(load), "rows": rows}
    options.json.write_text(json.dumps(report, indent=1) + "\n")
    performance.write(options.page, scale=options.json)


if __name__ == "__main__":
    main()
