"""Small sweep configs for tests."""

from __future__ import annotations

from typing import Any

from orchestrator.planning.config import SweepConfig
from orchestrator.planning.loader import load_sweep

TINY_RECIPE = {
    "steps": 8,
    "batch_size": 4,
    "augmentation": {"crop": 32, "scale": [0.75, 1.5]},
    "optimizer": "adamw",
    "lr": 1.0e-3,
}


def tiny_sweep(**changes: Any) -> SweepConfig:
    """One pair, three methods, four search trials each; `section__key=value` changes one key."""
    document: dict[str, Any] = {
        "name": "tiny",
        "data": {"scenes": {"kind": "scenes", "size": 32, "classes": 4, "train": 12, "teacher_train": 16, "tune": 4, "test": 4}},
        "recipes": {"teacher": dict(TINY_RECIPE), "student": dict(TINY_RECIPE)},
        "pairs": [
            {
                "teacher": {"model": "segformer-test_vit", "head_channels": 8, "recipe": "teacher"},
                "student": {"model": "deeplabv3-test_resnet", "head_channels": 8, "recipe": "student"},
                "data": "scenes",
            }
        ],
        "methods": ["student", "kd", "heteroakd"],
        "search": {"trials": 4, "bracket": 4, "wave": 12, "rungs": [0.25, 0.5], "finalists": 0},
        "final": {"seeds": [1, 2]},
        "operation": {"round_seconds": 0.05},
    }  # fmt: skip
    for key, value in changes.items():
        node = document
        *path, last = key.split("__")
        for part in path:
            node = node.setdefault(part, {})
        node[last] = value
    return SweepConfig.model_validate(document)


def smoke(*overrides: str) -> SweepConfig:
    """The preset `smoke`."""
    return load_sweep("smoke", overrides)
