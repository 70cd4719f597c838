"""Memory of a model per pixel, for the cost estimate: `python -m distill.testing.model_memory` writes the table.

The table has the models of the presets. What a model keeps for its backward pass grows with the pixels of a batch, so it
is measured at a small size on a fake GPU.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch

from distill.catalogue.model_memory import TABLE, WEIGHT_COPY_BYTES, key_of
from distill.precision import Precision, autocast
from distill.testing.device_watch import FakeWatch
from distill.testing.fake_cuda import CUDA, build_on_device, fake_cuda
from distill.training import teacher_output

_BATCH, _SIZE = 2, (128, 256)
_CLASSES = 19
MODELS: tuple[tuple[str, Mapping[str, Any]], ...] = (
    ("deeplabv3-resnet18", {}),
    ("deeplabv3-mobilenetv2_100", {"head_channels": 128}),
    ("pspnet-resnet18", {}),
    ("deeplabv3-resnet101", {}),
    ("deeplabv3-tf_efficientnet_lite2", {}),
    ("segformer-mit_b0", {}),
    ("segformer-mit_b1", {}),
    ("segformer-mit_b4", {}),
)
"""Models of the presets for GPUs."""


def measured(name: str, options: Mapping[str, Any], precision: Precision) -> dict[str, float]:
    """Bytes per pixel of the batch: kept for the backward pass, and at the peak of a pass without gradients."""
    with fake_cuda() as watch:
        model = build_on_device(name, _CLASSES, **options)
        images = torch.zeros(_BATCH, 3, *_SIZE, device=CUDA)
        pixels = _BATCH * _SIZE[0] * _SIZE[1]
        # Autocast keeps a copy of the weights, which does not grow with the pixels.
        weights = sum(each.numel() for each in model.parameters()) * WEIGHT_COPY_BYTES[precision]
        kept = (_kept_by_training(model, images, precision, watch) - weights) / pixels
        base = _mark(watch)
        teacher_output(model.eval().requires_grad_(False), images, precision)
        return {"training": round(kept, 1), "inference": round((watch.mark().peak - base) / pixels, 1)}


def _kept_by_training(model: Any, images: Any, precision: Precision, watch: FakeWatch) -> int:
    base = _mark(watch)
    with autocast(CUDA, precision):
        output = model.train()(images)
    kept = watch.live - base
    del output
    return kept


def _mark(watch: FakeWatch) -> int:
    watch.mark()
    return watch.live


def main() -> None:
    """Measure the models of the presets that the table lacks. Delete the table to measure all of them again."""
    table = dict(json.loads(TABLE.read_text(encoding="utf-8"))) if TABLE.exists() else {}
    for name, options in MODELS:
        for precision in ("bf16", "fp32"):
            key = key_of(name, options, precision)
            if key not in table:
                table[key] = measured(name, options, precision)
                rows = ",\n".join(f" {json.dumps(each)}: {json.dumps(table[each])}" for each in sorted(table))
                TABLE.write_text("{\n" + rows + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
