"""Data sets, augmentation and generated scenes. The only package that imports albumentations."""

from distill.data.check import DatasetReport, check_dataset
from distill.data.config import (
    AugmentationConfig,
    CityscapesConfig,
    DataConfig,
    ScenesConfig,
)
from distill.data.dataset import (
    IGNORE_INDEX,
    Protocol,
    Role,
    Sample,
    SegmentationDataset,
    Split,
    build_dataset,
)

__all__ = [
    "IGNORE_INDEX",
    "AugmentationConfig",
    "CityscapesConfig",
    "DataConfig",
    "DatasetReport",
    "Protocol",
    "Role",
    "Sample",
    "ScenesConfig",
    "SegmentationDataset",
    "Split",
    "build_dataset",
    "check_dataset",
]
