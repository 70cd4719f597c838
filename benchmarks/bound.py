"""What no sweep can beat: the students' own steps, with batches and the teacher's outputs already in memory.

    python benchmarks/bound.py FILE TEACHER OUTPUT.json --threads N [--workers W]

Seats the trials of the sweep file FILE without Ray and steps them as a cohort does, batch by batch and student by student,
in W processes that divide the students and begin at the same moment. Only that is timed, until the last of them is done.
Writes samples per second, and what is left out, a step in milliseconds: one teacher pass and the making of one batch, by
all threads of all processes; and one student's step.
"""

from __future__ import annotations

import json
import os
import queue
import statistics
import time
from collections.abc import Callable
from typing import Any, TypeVar

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

import torch
import torch.multiprocessing
from plain_sweep import parser_of, planned_trials

from distill.data import build_dataset
from distill.data.stream import stream
from distill.models import ModelInfo
from distill.models.teachers import load_teacher
from distill.normalisation import normalise
from distill.training import Batch, Student, StudentSpec, teacher_output
from orchestrator.planning.loader import load_sweep
from orchestrator.planning.plan import Trial

T = TypeVar("T")
WARM_UP = 3


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--threads", type=int, required=True, help="of each process")
    parser.add_argument("--workers", type=int, default=1, help="processes that divide the students")
    options = parser.parse_args()
    torch.set_num_threads(options.workers * options.threads)
    config, trials = load_sweep(options.file), planned_trials(options.file)
    recipe = trials[0].recipe
    teacher = load_teacher(options.teacher).eval().requires_grad_(False)
    train = build_dataset(config.data[trials[0].data], "train")
    source = stream(train, recipe.augmentation, batch_size=recipe.batch_size, seed=trials[0].seed)
    hosts, data = _timed(lambda: next(source), recipe.steps)
    batches, passes = [], []
    for host in hosts:
        images = normalise(host.images_b3hw)
        [output], taken = _timed(lambda images=images: teacher_output(teacher, images, recipe.precision), 1)
        passes += taken
        batches.append(Batch(images, host.labels_bhw.long(), host.index, output))
    context = torch.multiprocessing.get_context("spawn")
    ready, told = context.Barrier(options.workers), context.Queue()
    processes = []
    for rank in range(options.workers):
        mine = trials[rank :: options.workers]
        arguments = (mine, batches, teacher.info, train.num_classes, options.threads, ready, told)
        processes.append(context.Process(target=step_students, args=arguments, daemon=True))
        processes[-1].start()
    seconds = max(_heard(told, processes) for _ in processes)
    steps = len(batches) * len(trials)
    found = {
        "samples_per_second": steps * recipe.batch_size / seconds,
        "student_ms": 1000 * seconds / steps,
        "teacher_ms": 1000 * statistics.median(passes),
        "data_ms": 1000 * statistics.median(data),
    }
    options.output.write_text(json.dumps(found, indent=1) + "\n")


def _heard(told: Any, processes: list[Any]) -> float:
    """What one of the processes tells; ends where one of them died, since the others wait for it."""
    while True:
        try:
            return float(told.get(timeout=5))
        except queue.Empty:
            if any(process.exitcode not in (None, 0) for process in processes):
                raise SystemExit("a process that steps students died") from None


def step_students(
    trials: list[Trial],
    batches: list[Batch],
    teacher: ModelInfo,
    num_classes: int,
    threads: int,
    ready: Any,
    told: Any,
) -> None:
    """One process: steps its students on every batch as soon as all processes are ready; tells the seconds."""
    torch.set_num_threads(threads)
    spare, *students = (
        Student(
            StudentSpec(trial.student.name, trial.student.options, trial.method, trial.method_config, trial.recipe,
                        trial.seed, num_classes),
            teacher,
            device=torch.device("cpu"),
        )
        for trial in (trials[-1], *trials)
    )  # fmt: skip
    for batch in batches[:WARM_UP]:
        spare.train_step(batch)
    ready.wait()
    began = time.perf_counter()
    for batch in batches:
        for student in students:
            student.train_step(batch)
    told.put(time.perf_counter() - began)


def _timed(once: Callable[[], T], times: int) -> tuple[list[T], list[float]]:
    results, seconds = [], []
    for _ in range(times):
        began = time.perf_counter()
        results.append(once())
        seconds.append(time.perf_counter() - began)
    return results, seconds


if __name__ == "__main__":
    main()
