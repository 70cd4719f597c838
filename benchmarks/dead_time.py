"""Time in which nothing is trained: `python benchmarks/dead_time.py [--run RUN]`.

* **Start**: from the command to the moment at which the first trial, a teacher, has its seat and begins, beside what
  starting Ray, one `TorchTrainer` of one worker and importing torch and timm there take: two commands in turns, each in
  a process of its own.
* **Between waves**: from the last report of a wave to the moment at which the first trial of the next has its seat, and
  until the last one has, by the tables of a run (`--run`), of cohorts whose waves one worker group trained. Tune wants its trials
  as soon as the wave before is over.

Writes `benchmarks/dead_time.json` and the page `docs/performance.md`.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import measured
import performance
from sweep import START, Bench

from orchestrator.ledger.tables import Ledger


def bare(output: str) -> None:
    """Ray, one Ray Train worker, torch and timm in it."""
    import ray
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    ray.init(include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    trainer = TorchTrainer(
        note_when_ready,
        train_loop_config={"note": output},
        scaling_config=ScalingConfig(num_workers=1),
        run_config=RunConfig(storage_path=str(Path(output).parent)),
    )
    trainer.fit()


def note_when_ready(config: dict[str, str]) -> None:
    """The worker: notes the time at which a model could be built."""
    import timm
    import torch

    assert timm.__version__
    assert torch.__version__
    Path(config["note"]).write_text(str(time.time()))


def start_seconds(folder: Path, number: int) -> float:
    """Of the bare start."""
    note = folder / f"bare-{number}"
    began = time.time()
    command = [sys.executable, __file__, "--bare", str(note)]
    with (folder / "bare.log").open("a") as log:
        subprocess.run(command, check=True, stdout=log, stderr=log)
    return float(note.read_text()) - began


def between_waves(run: str) -> dict[str, Any]:
    """Seconds from the end of a wave to the first and to the last seat of the next."""
    rows = Ledger(run).read("trials").to_pandas()
    for name in ("started_at", "finished_at"):
        rows[name] = rows[name].map(lambda moment: moment.timestamp())
    first: list[float] = []
    last: list[float] = []
    for _, mine in rows[rows.phase != "teacher"].groupby("cohort_id"):
        waves = mine.groupby("wave").agg({"started_at": ["min", "max"], "finished_at": "max"}).to_numpy()
        pairs = list(itertools.pairwise(sorted(waves.tolist())))
        if all(after[0] >= before[2] for before, after in pairs):
            first += [after[0] - before[2] for before, after in pairs]
            last += [after[1] - before[2] for before, after in pairs]
    return {
        "waves": len(first),
        "to_first_seat": statistics.median(first),
        "to_last_seat": statistics.median(last),
    }


def main() -> None:
    """Measures in turns, prints, writes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--run", help="a finished run, for what lies between waves")
    parser.add_argument("--json", type=Path, default=Path(__file__).with_suffix(".json"))
    parser.add_argument("--page", type=Path, default=performance.PAGE)
    parser.add_argument("--bare", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.bare:
        bare(options.bare)
        return
    load = os.getloadavg()[0]
    least, ours = [], []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(options.repeats):
            least.append(start_seconds(Path(folder), number))
            bench = Bench(Path(folder) / f"sweep-{number}", [], steps=2, workers=1, threads=1)
            ours.append(bench.ours("light", 2)["parts"][START])  # a teacher that is to be trained
            print(f"bare {least[-1]:.1f} s, ours {ours[-1]:.1f} s", flush=True)
    ratios = [mine / bare for mine, bare in zip(ours, least, strict=True)]
    report = {
        "machine": measured.machine(load),
        "start": {"bare_seconds": least, "seconds": ours, "ratio": statistics.median(ratios)},
        "between_waves": between_waves(options.run) if options.run else None,
    }
    print(json.dumps(report, indent=1))
    options.json.write_text(json.dumps(report, indent=1) + "\n")
    performance.write(options.page, dead_time=options.json)


if __name__ == "__main__":
    main()
