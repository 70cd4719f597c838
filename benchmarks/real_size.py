"""A training step and an evaluation at the size of photographs, beside the same written plainly: `python benchmarks/real_size.py`.

A step is forward, task loss, KD, backward and AdamW, on a batch and the teacher's output in memory. An evaluation scores some
students on PNG files: plainly each student decodes every picture, and all logits of a batch are resized in float32 at once.
Seconds are processor time of one thread, so that other work on the machine changes them little; bytes are those of the largest tensor that
an operator returns. Pictures and weights are made up: neither time nor memory depends on them.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

import numpy as np
import performance
import torch
from measured import machine, rounded
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from distill.data import CamVidConfig, SegmentationDataset, build_dataset
from distill.data.config import AugmentationConfig
from distill.evaluation import Evaluation
from distill.models import SegmentationModel, build_model
from distill.normalisation import normalise
from distill.recipe import Recipe
from distill.training import Batch, Student, StudentSpec, teacher_output

SIZES = ((360, 480), (512, 1024))
STUDENT, TEACHER, CLASSES = "deeplabv3-mobilenetv2_100", "segformer-mit_b0", 11
OPTIONS: dict[str, Any] = {"head_channels": 128, "output_stride": 16}
STUDENTS, PICTURES, BATCH = 2, 4, 2


def main() -> None:
    """Measure both sizes, and write the report and the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, default=Path(__file__).with_suffix(".json"))
    parser.add_argument("--page", type=Path, default=performance.PAGE)
    options = parser.parse_args()
    load = os.getloadavg()[0]
    torch.set_num_threads(1)
    report = {
        "machine": machine(load), "torch": torch.__version__, "student": STUDENT, "teacher": TEACHER, "batch": BATCH,
        "students": STUDENTS, "pictures": PICTURES, "rows": [row for size in SIZES for row in measure(size, options.repeats)],
    }  # fmt: skip
    options.json.write_text(json.dumps(rounded(report), indent=1) + "\n")
    performance.write(options.page, real_size=options.json)


def measure(size: tuple[int, int], repeats: int) -> list[dict[str, Any]]:
    """Seconds of a step and of an evaluation in both ways, alternating, and the bytes of the largest tensor."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        step = {"ours": our_step(size), "plain": plain_step(size)}
        data = written(Path(folder), size)
        torch.manual_seed(0)
        models = [build_model(STUDENT, CLASSES, **OPTIONS).eval() for _ in range(STUDENTS)]
        score = {"ours": lambda: our_counts(models, data), "plain": lambda: plain_counts(models, data)}
        if not np.array_equal(score["ours"](), score["plain"]()):
            raise SystemExit("the two evaluations count differently")
        for what, ways in (("step", step), ("evaluation", score)):
            seconds: dict[str, list[float]] = {way: [] for way in ways}
            for way in ways:
                ways[way]()
            for _ in range(repeats):
                for way, work in ways.items():
                    began = time.process_time()
                    work()
                    seconds[way].append(time.process_time() - began)
            row = {
                "what": what,
                "size": size,
                "seconds": seconds,
                "largest": {w: largest(f) for w, f in ways.items()},
            }
            print(row, flush=True)
            rows.append(row)
    return rows


def our_step(size: tuple[int, int]) -> Callable[[], object]:
    """A step of `Student`, as in a sweep."""
    images, labels, taught = batch_of(size)
    recipe = Recipe(
        steps=100, batch_size=BATCH, augmentation=AugmentationConfig(crop=size), optimizer="adamw", lr=1e-3
    )  # type: ignore[call-arg]
    spec = StudentSpec(STUDENT, OPTIONS, "kd", {}, recipe, 0, CLASSES)
    student = Student(spec, taught[1].info, device=torch.device("cpu"))
    batch = Batch(images, labels, torch.arange(BATCH), teacher_output(taught[1], images, "fp32"))
    return lambda: student.train_step(batch)


def plain_step(size: tuple[int, int]) -> Callable[[], object]:
    """The same step in twelve lines of torch."""
    images, labels, (logits, _) = batch_of(size)
    torch.manual_seed(0)
    model = build_model(STUDENT, CLASSES, **OPTIONS).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

    def step() -> None:
        optimizer.zero_grad()
        own = model(images).logits
        task = F.cross_entropy(F.interpolate(own, size, mode="bilinear"), labels, ignore_index=255)
        wanted = F.interpolate(logits, own.shape[-2:], mode="bilinear").softmax(1)
        taught = F.kl_div(own.log_softmax(1), wanted, reduction="none").sum(1).mean()
        (task + taught).backward()
        optimizer.step()

    return step


def batch_of(size: tuple[int, int]) -> tuple[Tensor, Tensor, tuple[Tensor, SegmentationModel]]:
    """Images, labels, and the teacher with its logits."""
    torch.manual_seed(0)
    images = normalise(torch.randint(0, 256, (BATCH, 3, *size), dtype=torch.uint8))
    labels = torch.randint(0, CLASSES, (BATCH, *size))
    teacher = build_model(TEACHER, CLASSES).eval().requires_grad_(False)
    return images, labels, (teacher(images).logits, teacher)


def written(root: Path, size: tuple[int, int]) -> SegmentationDataset:
    """Smooth pictures in CamVid's layout, whose PNGs are about as large as photographs'."""
    chance = np.random.default_rng(0)
    for split in ("train", "val", "test"):
        for number in range(PICTURES if split == "test" else 1):
            rough = chance.integers(0, 256, (size[0] // 8, size[1] // 8, 3), dtype=np.uint8)
            smooth = np.asarray(Image.fromarray(rough).resize(size[::-1], Image.Resampling.BICUBIC), np.int16)
            grain = chance.integers(-8, 9, smooth.shape)
            labels = chance.integers(0, CLASSES + 1, size, dtype=np.uint8)
            for folder, values in (
                (split, np.clip(smooth + grain, 0, 255).astype(np.uint8)),
                (f"{split}annot", labels),
            ):
                (root / folder).mkdir(exist_ok=True)
                Image.fromarray(values).save(root / folder / f"{split}{number}.png")
    return build_dataset(CamVidConfig(root=str(root)), "test")


def our_counts(models: list[SegmentationModel], data: SegmentationDataset) -> np.ndarray[Any, Any]:
    """True positives of all models, in one evaluation."""
    evaluation = Evaluation(models, data, batch_size=BATCH)
    while evaluation.advance():
        pass
    evaluation.close()
    return np.stack([counts.tp.sum(0) for counts in evaluation.counts() if not isinstance(counts, Exception)])


@torch.no_grad()
def plain_counts(models: list[SegmentationModel], data: SegmentationDataset) -> np.ndarray[Any, Any]:
    """The same, for one model after the other."""
    found = []
    for model in models:
        hits = torch.zeros(CLASSES, dtype=torch.long)
        for first in range(0, len(data), BATCH):
            samples = [data[index] for index in range(first, min(first + BATCH, len(data)))]
            images = torch.from_numpy(np.stack([sample.image_hw3 for sample in samples])).permute(0, 3, 1, 2)
            labels = torch.from_numpy(np.stack([sample.labels_hw for sample in samples])).long()
            logits = F.interpolate(model(normalise(images)).logits, labels.shape[-2:], mode="bilinear")
            hits += torch.bincount(labels[logits.argmax(1) == labels], minlength=CLASSES)
        found.append(hits.numpy())
    return np.stack(found)


class _Largest(TorchDispatchMode):
    bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        sizes = (leaf.untyped_storage().nbytes() for leaf in tree_leaves(result) if isinstance(leaf, Tensor))
        self.bytes = max(self.bytes, *sizes, 0)
        return result


def largest(work: Callable[[], object]) -> int:
    """Bytes of the largest tensor that an operator returns."""
    with _Largest() as watch:
        work()
    return watch.bytes


if __name__ == "__main__":
    main()
