"""Time of a confusion matrix of one 1024×2048 picture: `python benchmarks/confusion.py`.

`distill.evaluation.confusion_matrices` and torchmetrics take turns on the same labels and predictions, on one thread;
the matrices must be equal. Prints a table of processor time: median over the rounds, smallest and largest.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import statistics
import time

import torch
from torchmetrics.classification import MulticlassConfusionMatrix

from distill.evaluation import confusion_matrices


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(
        f"| classes | distill, ms | torchmetrics, ms | × | torchmetrics without checks, ms | × |\n|{' --- |' * 6}"
    )
    for classes in (19, 150):
        cells = measure(classes, options.rounds)
        print(f"| {classes} | " + " | ".join(cells) + " |")


def measure(classes: int, rounds: int) -> list[str]:
    source = torch.Generator().manual_seed(0)
    coarse = torch.randint(0, classes, (1, 1, 32, 64), generator=source).float()
    labels = torch.nn.functional.interpolate(coarse, scale_factor=32).to(torch.uint8)[0]
    labels[:, :64] = 255
    predicted = labels.long().clamp(max=classes - 1)
    noise = torch.rand(labels.shape, generator=source) < 0.2
    predicted[noise] = torch.randint(0, classes, (int(noise.sum()),), generator=source)
    wide = labels.long()  # what torchmetrics needs; converting is not counted
    checked = MulticlassConfusionMatrix(classes, ignore_index=255)
    unchecked = MulticlassConfusionMatrix(classes, ignore_index=255, validate_args=False)
    times: list[list[float]] = [[], [], []]
    for _ in range(rounds + 1):
        ours = timed(times[0], lambda: confusion_matrices(labels, predicted, classes)[0])
        for metric, spent in ((checked, times[1]), (unchecked, times[2])):
            metric.reset()
            timed(spent, lambda metric=metric: metric.update(predicted, wide))
            if not torch.equal(ours, metric.compute()):
                raise SystemExit("the matrices differ")
    mine, *others = (spent[1:] for spent in times)  # the first round warms up
    cells = [spread(mine, 1e3)]
    for other in others:
        cells += [
            spread(other, 1e3),
            spread([theirs / own for theirs, own in zip(other, mine, strict=True)], 1),
        ]
    return cells


def timed(times: list[float], run):
    begun = time.process_time()
    result = run()
    times.append(time.process_time() - begun)
    return result


def spread(values: list[float], factor: float) -> str:
    return (
        f"{factor * statistics.median(values):.1f} ({factor * min(values):.1f} to {factor * max(values):.1f})"
    )


if __name__ == "__main__":
    main()
