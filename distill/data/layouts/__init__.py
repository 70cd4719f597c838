"""Layouts of the supported data sets, one module each: folders, labels and licence."""

from __future__ import annotations

from distill.data.config import (
    Ade20kConfig,
    CamVidConfig,
    CityscapesConfig,
    CocoStuffConfig,
    DiskConfig,
    FolderConfig,
    VocConfig,
)
from distill.data.layout import Layout
from distill.data.layouts import ade20k, camvid, cityscapes, cocostuff, folder, voc


def layout_of(config: DiskConfig) -> Layout:
    """The layout of a configured data set."""
    match config:
        case CityscapesConfig():
            return cityscapes.layout(config)
        case VocConfig():
            return voc.layout(config)
        case Ade20kConfig():
            return ade20k.layout()
        case CamVidConfig():
            return camvid.layout()
        case CocoStuffConfig():
            return cocostuff.layout()
        case FolderConfig():
            return folder.layout(config)
    raise TypeError(f"{type(config).__name__} has no layout")
