"""What no sweep can beat: the students' own steps, with batches and the teacher's outputs already in memory.

    python benchmarks/bound.py FILE TEACHER OUTPUT.json --threads N

Seats the trials of the sweep file FILE in one process without Ray and steps them as a cohort does, batch by batch and
student by student. Only that is timed. Writes samples per second, and what is left out, a step in milliseconds: one
teacher pass, the making of one batch, one student's step.
"""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Callable
from typing import TypeVar

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

import torch
from plain_sweep import parser_of, planned_trials

from distill.data import build_dataset
from distill.data.stream import normalise, stream
from distill.models.teachers import load_teacher
from distill.training import Batch, Student, StudentSpec, teacher_output
from orchestrator.sweepfile import load_sweep

T = TypeVar("T")
WARM_UP = 3


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--threads", type=int, required=True)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    config, trials = load_sweep(options.file), planned_trials(options.file)
    recipe, cpu = trials[0].recipe, torch.device("cpu")
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
    students = [
        Student(
            StudentSpec(trial.student.name, trial.student.options, trial.method, trial.method_config, recipe,
                        trial.seed, train.num_classes),
            teacher.info,
            device=cpu,
        )
        for trial in (trials[-1], *trials)
    ]  # fmt: skip
    spare = students.pop(0)
    for batch in batches[:WARM_UP]:
        spare.train_step(batch)
    began = time.perf_counter()
    for batch in batches:
        for student in students:
            student.train_step(batch)
    seconds = time.perf_counter() - began
    steps = len(batches) * len(students)
    found = {
        "samples_per_second": steps * recipe.batch_size / seconds,
        "student_ms": 1000 * seconds / steps,
        "teacher_ms": 1000 * statistics.median(passes),
        "data_ms": 1000 * statistics.median(data),
    }
    options.output.write_text(json.dumps(found, indent=1) + "\n")


def _timed(once: Callable[[], T], times: int) -> tuple[list[T], list[float]]:
    results, seconds = [], []
    for _ in range(times):
        began = time.perf_counter()
        results.append(once())
        seconds.append(time.perf_counter() - began)
    return results, seconds


if __name__ == "__main__":
    main()
