"""FLOPs of every loss at real size, beside those of the student, by the formulas of the cost estimate.

    python benchmarks/loss_flops.py

16 crops of 512×1024, 19 classes, three pairs. It takes a second, and needs neither torch nor a GPU.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from distill.catalogue.loss_costs import LossShapes, loss_flops, methods_with_products
from distill.catalogue.reader import model_cost, model_shapes
from orchestrator.planning.method_settings import all_settings

PAIRS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("segformer-mit_b4", "deeplabv3-resnet18", {}),
    ("deeplabv3-resnet101", "deeplabv3-mobilenetv2_100", {"head_channels": 128}),
    ("deeplabv3-resnet101", "segformer-mit_b0", {}),
)
BATCH, SIZE, CLASSES = 16, (512, 1024), 19
OTHERS: dict[str, tuple[str, dict[str, Any]]] = {
    "cirkd, not pooled": ("cirkd", {"pool": 1}),
    "cirkd, with memories": ("cirkd", {"pixel_weight": 0.1, "region_weight": 0.1}),
    "cwd, on features": ("cwd", {"where": "features"}),
}


def main() -> None:
    rows = []
    losses = {name: (name, {}) for name in methods_with_products() if name != "cwd"} | OTHERS
    for teacher, student, options in PAIRS:
        shapes = LossShapes(model_shapes(student, options), model_shapes(teacher, {}), CLASSES, BATCH, *SIZE)
        costs = [
            BATCH * model_cost(name, chosen, CLASSES, *SIZE).flops_forward
            for name, chosen in ((teacher, {}), (student, options))
        ]
        for title, (method, config) in sorted(losses.items()):
            flops = loss_flops(method, all_settings(method, config), shapes)
            rows.append({"teacher": teacher, "student": student, "loss": title, "tflop": flops / 1e12,
                         "teacher_tflop": costs[0] / 1e12, "student_tflop": 3 * costs[1] / 1e12})  # fmt: skip
    report = {"batch": BATCH, "height": SIZE[0], "width": SIZE[1], "classes": CLASSES, "rows": rows}
    Path(__file__).with_suffix(".json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
