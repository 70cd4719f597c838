"""An exported student in onnxruntime beside torch: `python benchmarks/onnx_photographs.py EXPORTED --camvid ROOT`.

EXPORTED is the folder that `python -m distill.export` wrote for a student of CamVid. Both predict the test photographs, one at a time,
in turns. Prints pictures per second, decoding not included, the mIoU of each, and the share of the pixels whose class differs.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from distill.data import CamVidConfig, SegmentationDataset, build_dataset
from distill.errors import UsageError
from distill.evaluation import confusion_matrices, miou
from distill.export.__main__ import GRAPH, WEIGHTS
from distill.segmenter import Segmenter, load_segmenter


def main() -> None:
    """Compare both files of an export on CamVid's test photographs."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("exported", type=Path)
    parser.add_argument(
        "--camvid",
        type=Path,
        required=True,
        help="CamVid's root, at the size that the student was trained for",
    )
    parser.add_argument("--pictures", type=int, help="the first test photographs only; all by default")
    options = parser.parse_args()
    try:
        models = {
            "torch": load_segmenter(options.exported / WEIGHTS),
            "onnxruntime": load_segmenter(options.exported / GRAPH),
        }
        data = build_dataset(CamVidConfig(root=str(options.camvid)), "test")
        print(json.dumps(compare(models, data, options.pictures or len(data)), indent=2))
    except UsageError as error:
        parser.error(str(error))


def compare(models: dict[str, Segmenter], data: SegmentationDataset, pictures: int) -> dict[str, Any]:
    """Pictures per second and mIoU of each model, and the share of pixels that the first two label differently.

    Raises:
        UsageError: a model has other classes than the data set.
    """
    for name, model in models.items():
        if len(model.classes) != data.num_classes:
            raise UsageError(
                f"the {name} model has {len(model.classes)} classes, must have the data set's {data.num_classes}"
            )
    seconds = dict.fromkeys(models, 0.0)
    confusion = {name: torch.zeros(data.num_classes, data.num_classes, dtype=torch.int64) for name in models}
    differing = pixels = 0
    for index in range(min(pictures, len(data))):
        sample = data[index]
        predicted = {}
        for name, model in models.items():
            began = time.perf_counter()
            predicted[name] = model.labels(sample.image_hw3, model.window)
            seconds[name] += time.perf_counter() - began
            labels, found = (
                torch.from_numpy(np.asarray(part))[None] for part in (sample.labels_hw, predicted[name])
            )
            confusion[name] += confusion_matrices(labels, found.long(), data.num_classes)[0]
        one, other = list(predicted.values())[:2]
        differing += int((one != other).sum())
        pixels += one.size
    return {
        "pictures": min(pictures, len(data)),
        "pictures_per_second": {
            name: round(min(pictures, len(data)) / spent, 3) for name, spent in seconds.items()
        },
        "miou": {name: round(_miou(matrix), 5) for name, matrix in confusion.items()},
        "pixels_of_another_class": differing / pixels,
    }


def _miou(confusion: torch.Tensor) -> float:
    hits = confusion.diagonal()
    return miou(*(part.numpy() for part in (hits, confusion.sum(0) - hits, confusion.sum(1) - hits)))


if __name__ == "__main__":
    main()
