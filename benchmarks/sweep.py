"""What a trial of a sweep costs, beside Ray's own pattern and beside the least that it can cost.

    python benchmarks/sweep.py [--repeats 2] [--steps 100] [--pairs light heavy] [--workers N] [--threads 1]

One sweep of 8 trials of one pair (the student alone, which every sweep has, and knowledge distillation under 7 settings
given by hand, the same on every side; no search, nobody pruned, the teacher loaded) is run three ways, in turns,
`--repeats` times:

* plain: as Ray's documentation has it, `benchmarks/plain_sweep.py`: a TorchTrainer per trial, one CPU each, as many at
  once as there are CPUs;
* ours: the command, `python -m orchestrator.sweep`, by default with a worker of one thread for each CPU, which divide
  the students (`compute.parallelism: students`); `--workers 1` takes one worker of as many threads as there are CPUs;
* bound: the students' own steps, batches and teacher outputs in memory already (`benchmarks/bound.py`): in one process of
  as many threads as there are CPUs, and divided as ours are; what counts is the faster of the two.

Of the heavy pair ours is run twice more: `views`, with a stream that comes round (`augmentation.views`) and the teacher's
outputs kept from its first round on, in a folder that is empty before; and `again`, on a machine that kept those of an
earlier run.

Every side trains each student for the same steps of the same batch size. Plain and ours score each on the splits tune
and test and keep its weights. Samples per second are trials × steps × batch over seconds: of the whole command,
start-up counted (ours scores the teacher, draws a gallery and makes a board within it, the plain sweep does not); and
of the training alone, which is for ours from when the first student is built to the last one's score, for plain the
same of each trial, summed, over the trials at once. Memory is the highest sum of PSS over all processes of the command;
of the plain sweep of the last of `--pairs` once more with all 8 trials at once, as on a machine of 8 CPUs or more, for a
few steps.

Then, once, ours with 1 to 16 taught students beside the student alone, for the last of `--pairs`. Writes
`benchmarks/sweep.json` and the page `docs/performance.md`. The page's longer sweep is

    python benchmarks/sweep.py --pairs heavy --steps 200 --repeated-only

whose results are in `benchmarks/sweep_long.json`.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import measured
import performance
import yaml
from processes import SelectedStudent, run

from orchestrator.ledger.tables import Ledger

HERE = Path(__file__).parent
TRIALS, BATCH = 8, 8
FEW_STEPS = 8
TAUGHT = (1, 2, 4, 8, 16)
VIEWS = 2  # of each picture, in a stream that comes round: 16 batches
STUDENT = {"model": "deeplabv3-test_resnet", "head_channels": 16, "recipe": "student"}
TEACHERS: dict[str, dict[str, Any]] = {
    "light": {"model": "segformer-test_vit", "head_channels": 16},
    "heavy": {"model": "segformer-mit_b4"},
}
START = "start of Ray, of the teacher's workers"
SETTINGS = list(itertools.product((0.5, 1.0, 2.0, 4.0), (1.0, 2.0, 4.0, 8.0)))  # weight, temperature


class Bench:
    """A folder with a teacher of each pair, in which sweeps are run."""

    def __init__(
        self, root: Path, pairs: list[str], steps: int, workers: int, threads: int, divide: str = "students"
    ) -> None:
        root.mkdir(exist_ok=True)
        self.root, self.steps, self.workers, self.threads, self.divide = root, steps, workers, threads, divide
        self._number = itertools.count()
        self._filled: set[str] = set()
        for pair in pairs:
            self._ours(pair, 2, 2)  # trains the teacher, and warms the machine's caches

    def _file(
        self, pair: str, trials: int, steps: int, *, kept: Path | None = None, views: int | None = None
    ) -> Path:
        augmentation = {"crop": 64, "scale": [1.0, 1.5]}
        recipe = {"batch_size": BATCH, "augmentation": augmentation, "optimizer": "adamw", "lr": 1e-3}
        coming_round = {} if views is None else {"augmentation": {**augmentation, "views": views}}
        methods = ["student"] + [
            {
                "name": "kd",
                "label": f"kd_{weight:g}_{temperature:g}",
                "config": {"kd_weight": weight, "temperature": temperature},
            }
            for weight, temperature in SETTINGS[: trials - 1]
        ]
        document = {
            "name": f"bench-{pair}",
            "data": {"scenes": {"kind": "scenes", "size": 64, "train": 64, "teacher_train": 64, "tune": 32, "test": 32}},
            "recipes": {"teacher": {**recipe, "steps": 2}, "student": {**recipe, **coming_round, "steps": steps}},
            "pairs": [{"name": pair, "teacher": {**TEACHERS[pair], "recipe": "teacher"}, "student": STUDENT, "data": "scenes"}],
            "methods": methods,
            "search": {"trials": 0},
            "final": {"seeds": [1]},
            "compute": {"workers": self.workers, "cpus_per_worker": self.threads, "parallelism": self.divide},
            "operation": {"teachers": str(self.root / "teachers")},
        }  # fmt: skip
        if kept is not None:
            document["operation"]["teacher_outputs"] = {"folder": str(kept), "gigabytes": 10}
        path = self.root / f"{pair}-{trials}-{steps}-{views or 'new'}-{kept.name if kept else ''}.yaml"
        path.write_text(yaml.safe_dump(document))
        return path

    def _folder(self) -> Path:
        return self.root / f"run-{next(self._number)}"

    def _teacher(self, pair: str) -> Path:
        from orchestrator.ledger.weights import teacher_weights
        from orchestrator.planning.loader import load_sweep
        from orchestrator.planning.plan import make_plan

        [teacher] = make_plan(load_sweep(str(self._file(pair, 2, 2)))).teachers
        return self.root / "teachers" / teacher_weights(teacher)

    def ours(self, pair: str, trials: int) -> dict[str, Any]:
        """One sweep by the command, and where its time went."""
        return self._ours(pair, trials, self.steps)

    def again(self, pair: str) -> dict[str, Any]:
        """The same once more on a machine that kept what the teacher said in an earlier run."""
        kept = self.root / "outputs"
        if pair not in self._filled:
            self._ours(pair, TRIALS, self.steps, kept=kept)
            self._filled.add(pair)
        return self._ours(pair, TRIALS, self.steps, kept=kept)

    def views(self, pair: str) -> dict[str, Any]:
        """The same with a stream that comes round, on a machine that has nothing of it at first."""
        kept = self._folder()
        found = self._ours(pair, TRIALS, self.steps, kept=kept, views=VIEWS)
        shutil.rmtree(kept)
        return found

    def _ours(self, pair: str, trials: int, steps: int, **how: Any) -> dict[str, Any]:
        output = self._folder()
        file = self._file(pair, trials, steps, **how)
        command = [sys.executable, "-m", "orchestrator.sweep", str(file)]
        taken = run([*command, "--output", str(output)], self.root / "ours.log")
        rows = Ledger(output).read("trials").to_pylist()
        shutil.rmtree(output)
        students = [row for row in rows if row["phase"] == "final"]
        [teacher] = [row for row in rows if row["phase"] == "teacher"]
        if [row["status"] for row in students] != ["ok"] * trials:
            raise SystemExit(f"not all trials of {pair} ended well")
        began, ended = (
            choose(row[key] for row in students).timestamp()
            for choose, key in ((min, "started_at"), (max, "finished_at"))
        )
        in_students, shared = (
            sum(row[key] for row in students) for key in ("student_seconds", "shared_seconds")
        )
        in_teacher = max(
            row["teacher_seconds"] for row in students
        )  # each has all of it, as if it were alone
        if self.divide == "students":  # seconds of all workers, which pass at the same time
            in_students, shared, in_teacher = (s / self.workers for s in (in_students, shared, in_teacher))
        until_teacher, until_scored = (
            teacher[key].timestamp() - taken.began for key in ("started_at", "finished_at")
        )
        found = self._rates(taken, trials, steps, ended - began)
        if how:  # rows tell what a teacher costs that computes
            return found
        return {
            **found,
            "parts": {
                START: until_teacher,
                "score of the teacher": until_scored - until_teacher,
                "from there to the first student": began - taken.began - until_scored,
                "students' steps": in_students,
                "teacher's passes": in_teacher,
                "batches, workers' waiting for each other": shared - in_teacher,
                "building, scores, weights, exchanges": ended - began - in_students - shared,
                "gallery, board, shut-down": taken.ended - ended,
            },
        }

    def plain(self, pair: str) -> dict[str, Any]:
        """One sweep by Ray's own pattern."""
        at_once = min(measured.cpus(), TRIALS)
        taken, rows = self._plain(pair, self.steps, at_once)
        spans = [row["ended"] - row["began"] for row in rows]
        found = self._rates(taken, TRIALS, self.steps, sum(spans) / at_once)
        return {
            **found,
            "at_once": at_once,
            "start_seconds_per_trial": (taken.seconds - sum(spans) / at_once) * at_once / TRIALS,
        }

    def plain_all_at_once(self, pair: str) -> dict[str, Any]:
        """What memory the same takes where all trials run at once."""
        taken, _ = self._plain(pair, FEW_STEPS, TRIALS)
        return {"at_once": TRIALS, "steps": FEW_STEPS, "peak_mib": taken.peak_mib}

    def _plain(self, pair: str, steps: int, at_once: int) -> tuple[SelectedStudent, list[dict[str, float]]]:
        output = self._folder()
        script = [sys.executable, str(HERE / "plain_sweep.py"), str(self._file(pair, TRIALS, steps))]
        arguments = [str(self._teacher(pair)), str(output), "--at-once", str(at_once)]
        taken = run([*script, *arguments], self.root / "plain.log")
        rows: list[dict[str, float]] = json.loads((output / "trials.json").read_text())
        shutil.rmtree(output)
        return taken, rows

    def bound(self, pair: str, trials: int) -> dict[str, Any]:
        """The students' steps alone: in one process of all threads, and in as many as ours has workers."""
        alone, divided = (
            self._bound(pair, trials, workers, self.workers * self.threads // workers)
            for workers in (1, self.workers)
        )
        best = max(alone, divided, key=lambda found: found["samples_per_second"])
        return {
            **alone,
            "samples_per_second": best["samples_per_second"],
            "one_process": alone["samples_per_second"],
            "divided": divided["samples_per_second"],
        }

    def _bound(self, pair: str, trials: int, workers: int, threads: int) -> dict[str, float]:
        output = self.root / "bound.json"
        script = [sys.executable, str(HERE / "bound.py"), str(self._file(pair, trials, self.steps))]
        numbers = ["--threads", str(threads), "--workers", str(workers)]
        run([*script, str(self._teacher(pair)), str(output), *numbers], self.root / "bound.log")
        found: dict[str, float] = json.loads(output.read_text())
        return found

    @staticmethod
    def _rates(taken: SelectedStudent, trials: int, steps: int, training_seconds: float) -> dict[str, Any]:
        samples = trials * steps * BATCH
        return {
            "seconds": taken.seconds,
            "training_seconds": training_seconds,
            "samples_per_second": samples / taken.seconds,
            "samples_per_second_training": samples / training_seconds,
            "peak_mib": taken.peak_mib,
            "sampling_seconds": taken.sampling_seconds,
            "processes": taken.groups,
        }


def sides_of(pair: str) -> tuple[str, ...]:
    """What is measured of a pair, in order; a light teacher leaves nothing worth keeping."""
    always = ("bound", "plain", "ours")
    return (*always, "views", "again") if pair == "heavy" else always


def arguments() -> argparse.Namespace:
    """The options of this command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--pairs", nargs="+", choices=list(TEACHERS), default=list(TEACHERS))
    parser.add_argument("--taught", nargs="*", type=int, default=TAUGHT)
    parser.add_argument(
        "--repeated-only",
        action="store_true",
        help="leave out what is measured once: all at once, students on the device",
    )
    parser.add_argument(
        "--workers", type=int, default=measured.cpus(), help="of ours; they divide the students"
    )
    parser.add_argument(
        "--threads", type=int, help="of each worker; by default as many as there are CPUs for it"
    )
    parser.add_argument(
        "--json", type=Path, help="by default the file beside this one, or that of the longer sweep"
    )
    parser.add_argument("--page", type=Path, default=performance.PAGE)
    return parser.parse_args()


def main() -> None:
    """Measures, prints each result as it comes, writes results and page."""
    options = arguments()
    section = "sweep_long" if options.repeated_only else "sweep"
    options.json = options.json or HERE / f"{section}.json"
    began, load = time.monotonic(), os.getloadavg()[0]
    threads = options.threads or max(1, measured.cpus() // options.workers)
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), options.pairs, options.steps, options.workers, threads)
        pairs: dict[str, dict[str, list[Any]]] = {
            pair: {side: [] for side in sides_of(pair)} for pair in options.pairs
        }
        report: dict[str, Any] = {
            "machine": measured.machine(load),
            "versions": _versions(),
            "trials": TRIALS,
            "steps": options.steps,
            "batch": BATCH,
            "workers": options.workers,
            "threads": threads,
            "student": STUDENT["model"],
            "views": VIEWS,
            "teachers": {pair: TEACHERS[pair]["model"] for pair in options.pairs},
            "pairs": pairs,
            "all_at_once": {},
            "curve": {"pair": options.pairs[-1], "taught": {}},
        }

        def keep(repeats: int) -> None:
            """So much is measured, whatever becomes of the rest."""
            minutes = round((time.monotonic() - began) / 60, 1)
            options.json.write_text(
                json.dumps({**report, "minutes": minutes, "repeats": repeats}, indent=1) + "\n"
            )

        measures = {
            "bound": lambda pair: bench.bound(pair, TRIALS),
            "plain": bench.plain,
            "ours": lambda pair: bench.ours(pair, TRIALS),
            "views": bench.views,
            "again": bench.again,
        }
        for repeat in range(options.repeats):
            for pair in options.pairs:
                for side in sides_of(pair):
                    pairs[pair][side].append(measured.rounded(measures[side](pair)))
                    print(pair, side, pairs[pair][side][-1], flush=True)
            keep(repeat + 1)
        if not options.repeated_only:
            _once(bench, options, report, keep)
    performance.write(options.page, **{section: options.json})


def _once(
    bench: Bench, options: argparse.Namespace, report: dict[str, Any], keep: Callable[[int], None]
) -> None:
    """What is measured once, of the last pair: memory of the plain sweep with all trials at once, and students on the device."""
    pair = options.pairs[-1]
    report["all_at_once"] = {pair: measured.rounded(bench.plain_all_at_once(pair))}
    print("all at once", report["all_at_once"], flush=True)
    keep(options.repeats)
    for taught in options.taught:
        report["curve"]["taught"][str(taught)] = measured.rounded(bench.ours(pair, taught + 1))
        print(taught, "taught", report["curve"]["taught"][str(taught)], flush=True)
        keep(options.repeats)


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in ("ray", "torch")}


if __name__ == "__main__":
    main()
