"""Where does the term of each reading of HeteroAKD take a student that is wrong? `python benchmarks/readings.py`.

One pixel, 9 classes. The teacher's projected logits are 4 for the true class and 0.5 for the others, the student's are 3 for a
wrong class and 1 for the others. 400 steps of Adam (0.05) follow the term `hakd` alone. Writes `benchmarks/readings.json`: the
probabilities of the true and of the wrong class at the end. Seconds of one core.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from distill.methods import hetero_akd
from distill.methods.readings import READINGS

RESULT = Path(__file__).with_suffix(".json")
STEPS, RATE, CLASSES = 400, 0.05, 9
OF_THE_METHOD = ("final_relu", "projector_norm", "l2_weight")
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in READINGS if name != "paper"},
    "literal, kem_axis none": ("literal", {"kem_axis": "none"}),
    "literal, kem_axis space": ("literal", {"kem_axis": "space"}),
    "literal, weight_per pixel": ("literal", {"weight_per": "pixel"}),
}


def main() -> None:
    """Follow each term and write the ends."""
    torch.set_num_threads(1)
    rows = [{"reading": title, **followed(*chosen)} for title, chosen in VARIANTS.items()]
    true, wrong = followed("literal", {}, steps=0).values()
    report = {"steps": STEPS, "rate": RATE, "start_true": true, "start_wrong": wrong, "rows": rows}
    RESULT.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(*rows, sep="\n")


def followed(reading: str, changes: dict[str, Any], steps: int = STEPS) -> dict[str, float]:
    """Probabilities of the true and of the wrong class after the steps."""
    options: dict[str, Any] = {k: v for k, v in READINGS[reading].items() if k not in OF_THE_METHOD}
    teacher, student = torch.full((1, CLASSES, 1, 1), 0.5), torch.full((1, CLASSES, 1, 1), 1.0)
    teacher[:, 0], student[:, 1] = 4.0, 3.0
    student.requires_grad_()
    labels = torch.zeros(1, 1, 1, dtype=torch.long)
    optimizer = torch.optim.Adam([student], lr=RATE)
    for _ in range(steps):
        optimizer.zero_grad()
        hetero_akd(student, teacher, labels, **{**options, **changes}).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    true, wrong = student.detach().softmax(1).flatten()[:2].tolist()
    return {"true": round(true, 4), "wrong": round(wrong, 4)}


if __name__ == "__main__":
    main()
