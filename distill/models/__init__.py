"""Segmentation models: a timm backbone and a head, by name."""

from distill.models.checkpoint import CheckpointMetadata, load_model, save_model
from distill.models.heads import list_heads
from distill.models.model import ModelOptions, SegmentationModel, build_model
from distill.models.output import ModelInfo, Output

__all__ = [
    "CheckpointMetadata",
    "ModelInfo",
    "ModelOptions",
    "Output",
    "SegmentationModel",
    "build_model",
    "list_heads",
    "load_model",
    "save_model",
]
