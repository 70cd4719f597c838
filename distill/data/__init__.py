"""Data sets, augmentation and generated scenes. Only this package imports albumentations."""

from distill.data.check import DatasetReport, check_dataset
from distill.data.config import (
    Ade20kConfig,
    AugmentationConfig,
    CamVidConfig,
    CityscapesConfig,
    CocoStuffConfig,
    DataConfig,
    FolderConfig,
    ScenesConfig,
    VocConfig,
)
from distill.data.factory import build_dataset, licence_of
from distill.data.sample import IGNORE_INDEX, Protocol, Role, Sample, SegmentationDataset, Split

__all__ = [
    "IGNORE_INDEX",
    "Ade20kConfig",
    "AugmentationConfig",
    "CamVidConfig",
    "CityscapesConfig",
    "CocoStuffConfig",
    "DataConfig",
    "DatasetReport",
    "FolderConfig",
    "Protocol",
    "Role",
    "Sample",
    "ScenesConfig",
    "SegmentationDataset",
    "Split",
    "VocConfig",
    "build_dataset",
    "check_dataset",
    "licence_of",
]
