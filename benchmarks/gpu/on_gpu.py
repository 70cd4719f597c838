"""What only a GPU can say of a step. Run it on a machine that has one; it has never been run on one.

    PYTHONPATH=. python benchmarks/gpu/on_gpu.py            # writes benchmarks/on_gpu.json
    PYTHONPATH=. python benchmarks/gpu/on_gpu.py --dry      # small networks on a CPU: does the script run?

In this order: waits of a step (`set_sync_debug_mode("error")`); a student out of memory among others, under
`set_per_process_memory_fraction`; seconds of a HeteroAKD step of 1, 4 and 16 students, and of its launch by the host, beside
the same step of one student written plainly; and how long training stops for the copy of a checkpoint. The whole sweep beside a plain loop
is `benchmarks/sweep.py`.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch

from distill.device_memory import copy_to_host
from distill.methods import build_method
from distill.methods.pixels import cross_entropy
from distill.models import Output, SegmentationModel, build_model
from distill.precision import autocast
from distill.recipe import Recipe
from distill.training import Batch, Student, StudentSpec, cast_weights, teacher_output

CLASSES = 19
WAYS: dict[str, dict[str, Any]] = {
    "fp32": {},
    "bf16": {"precision": "bf16"},
    "bf16, channels last": {"precision": "bf16", "channels_last": True},
}
PAIRS = (
    ("segformer-mit_b4", "deeplabv3-resnet18", {}),
    ("deeplabv3-resnet101", "deeplabv3-mobilenetv2_100", {"head_channels": 128}),
)
SMALL = (("segformer-test_vit", "deeplabv3-test_resnet", {"head_channels": 16}),)


class Bench:
    """A teacher, a batch and students of one pair and recipe."""

    def __init__(self, pair: tuple[str, str, dict[str, Any]], way: dict[str, Any], *, dry: bool) -> None:
        teacher, self.student, self.options = pair
        size, batch = ((64, 64), 2) if dry else ((512, 1024), 16)
        self.device = torch.device("cpu" if dry else "cuda:0")
        self.recipe = Recipe.model_validate(
            {"steps": 1000, "batch_size": batch, "augmentation": {"crop": size}, "lr": 0.01, **way}
        )
        self.teacher: SegmentationModel = (
            build_model(teacher, CLASSES).to(self.device).eval().requires_grad_(False)
        )
        cast_weights(self.teacher, self.recipe.precision)
        layout = torch.channels_last if self.recipe.channels_last else torch.contiguous_format
        self.images = torch.randn(batch, 3, *size, device=self.device).contiguous(memory_format=layout)
        self.labels = torch.randint(0, CLASSES, (batch, *size), device=self.device)

    def new_student(self, method: str = "heteroakd") -> Student:
        """A student on the device."""
        spec = StudentSpec(self.student, self.options, method, {}, self.recipe, 0, CLASSES)
        return Student(spec, self.teacher.info, device=self.device)

    def step(self, students: Sequence[Student]) -> None:
        """A step of all students with one teacher pass."""
        output = teacher_output(self.teacher, self.images, self.recipe.precision)
        output = Output.from_maps(output.maps(students[0].method.needs))
        batch = Batch(self.images, self.labels, torch.arange(len(self.images)), output)
        for student in students:
            student.train_step(batch)

    def plain(self) -> Callable[[], None]:
        """The step of one student in a few lines of torch."""
        model = build_model(self.student, CLASSES, **self.options).to(self.device).train()
        method = build_method("heteroakd", student=model.info, teacher=self.teacher.info, num_classes=CLASSES)
        method = method.to(self.device).train()
        if self.recipe.channels_last:
            model = model.to(memory_format=torch.channels_last)
        parameters = [*model.parameters(), *method.parameters()]
        optimizer = torch.optim.SGD(parameters, lr=0.01, momentum=0.9, weight_decay=1e-4)

        def step() -> None:
            optimizer.zero_grad(set_to_none=True)
            with torch.no_grad(), autocast(self.device, self.recipe.precision):
                taught = self.teacher(self.images)
            with autocast(self.device, self.recipe.precision):
                output = model(self.images)
                terms = method(output, taught, self.labels)
                loss = cross_entropy(output.logits, self.labels)
                loss = loss + sum(method.weights[name] * term for name, term in terms.items())
            loss.backward()
            optimizer.step()

        return step

    def wait(self) -> None:
        """Wait for the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()


@contextmanager
def _waits_are_errors() -> Any:
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def waits(bench: Bench) -> str:
    """Whether a step waits for the device."""
    student = bench.new_student()
    bench.step([student])
    with _waits_are_errors() if bench.device.type == "cuda" else nullcontext():
        bench.step([student])
    try:
        student.check()
    except RuntimeError as error:
        return f"{type(error).__name__}: {error}"
    return "none"


def shortage(bench: Bench) -> dict[str, Any]:
    """Students beside which one runs out of memory: how many of them train on, and what its step leaves."""
    if bench.device.type != "cuda":
        return {"skipped": "needs a GPU; played by benchmarks/gpu/memory_shortage.py"}
    students = [bench.new_student() for _ in range(3)]
    bench.step(students)
    before = torch.cuda.memory_allocated()
    large = build_large(bench)
    total = torch.cuda.get_device_properties(bench.device).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(min(1.0, 1.1 * torch.cuda.max_memory_allocated() / total))
    try:
        large()
        gc.collect()
        left = torch.cuda.memory_allocated() - before
        bench.step(students)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    return {"trained": sum(student._failure is None for student in students), "of": 3, "left_bytes": left}


def build_large(bench: Bench) -> Callable[[], None]:
    """A step whose batch is eight times as large; its student is gone afterwards."""

    def step() -> None:
        student = bench.new_student("student")
        images, labels = bench.images.repeat(8, 1, 1, 1), bench.labels.repeat(8, 1, 1)
        student.train_step(Batch(images, labels, torch.arange(len(images)), None))
        if not isinstance(student._failure, torch.OutOfMemoryError):
            raise SystemExit("the large student has enough memory: lower the fraction")

    return step


def seconds(bench: Bench, work: Callable[[], None], repeats: int) -> dict[str, float]:
    """Median seconds of a step, and the seconds that the host needs to launch it."""
    for _ in range(3):
        work()
    whole, launched = [], []
    for _ in range(repeats):
        bench.wait()
        start = time.perf_counter()
        work()
        launched.append(time.perf_counter() - start)
        bench.wait()
        whole.append(time.perf_counter() - start)
    return {"seconds": statistics.median(whole), "launch_seconds": statistics.median(launched)}


def checkpoint_stall(bench: Bench) -> float:
    """Seconds for which training stops while 16 students are copied to the host."""
    students = [bench.new_student() for _ in range(1 if bench.device.type == "cpu" else 16)]
    bench.wait()
    start = time.perf_counter()
    copy_to_host([student.state_dict() for student in students])
    return time.perf_counter() - start


def main() -> None:
    """Measure, print, and write the report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dry", action="store_true", help="small networks on a CPU; writes nothing")
    parser.add_argument("--repeats", type=int, default=20)
    chosen = parser.parse_args()
    if not chosen.dry and not torch.cuda.is_available():
        parser.error("no GPU is seen; --dry runs the same commands with small networks on a CPU")
    torch.set_float32_matmul_precision("high")
    rows = []
    for pair in SMALL if chosen.dry else PAIRS:
        for name, way in WAYS.items():
            bench = Bench(pair, way, dry=chosen.dry)
            row: dict[str, Any] = {"pair": pair[:2], "way": name, "waits": waits(bench)}
            row["shortage"] = shortage(bench)
            repeats = 1 if chosen.dry else chosen.repeats
            row["plain"] = seconds(bench, bench.plain(), repeats)
            for count in (1, 4) if chosen.dry else (1, 4, 16):
                students = [bench.new_student() for _ in range(count)]
                row[f"{count} students"] = seconds(bench, lambda b=bench, s=students: b.step(s), repeats)  # type: ignore[misc]
                del students
            row["checkpoint_seconds"] = checkpoint_stall(bench)
            rows.append(row)
            print(json.dumps(row))
    if not chosen.dry:
        device = torch.cuda.get_device_name()
        report = {"device": device, "torch": torch.__version__, "rows": rows}
        Path(__file__).parents[1].joinpath("on_gpu.json").write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
