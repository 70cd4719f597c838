"""Conformance tests for methods, also for those of other packages."""

from distill.testing.conformance import (
    CNN,
    NUM_CLASSES,
    PAIRS,
    TRANSFORMER,
    MethodConformance,
    maps_of,
    random_labels,
    random_output,
    tiny_model,
    training_losses,
)

__all__ = [
    "CNN",
    "NUM_CLASSES",
    "PAIRS",
    "TRANSFORMER",
    "MethodConformance",
    "maps_of",
    "random_labels",
    "random_output",
    "tiny_model",
    "training_losses",
]
