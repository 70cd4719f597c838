"""Builds a data set from its config."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distill.data.config import AnyDataConfig, ScenesConfig
from distill.data.remote_copies import RemoteCopiesConfig
from distill.data.sample import Protocol, Role, SegmentationDataset, Split

if TYPE_CHECKING:
    from distill.data.picture_cache import PictureCache


def build_dataset(
    config: AnyDataConfig,
    split: Split,
    *,
    protocol: Protocol = "clean",
    role: Role = "student",
    cache: PictureCache | None = None,
    copies: RemoteCopiesConfig | None = None,
) -> SegmentationDataset:
    """Build the data set of one split for one role.

    Args:
        config: config of the data set.
        split: `train` to train on, `tune` to select on, `test` to report.
        protocol: `clean` takes the tune split out of the training pictures. `paper` trains on all of them and uses
            the test split as tune split, which is not leakage-free.
        role: a teacher may have more labelled training pictures than a student.
        cache: cache of decoded pictures of a data set on disk; None decodes them each time.
        copies: local copies of pictures in a bucket; None uses the defaults of `RemoteCopiesConfig`.

    Raises:
        UsageError: files are missing, the split is empty, or a bucket cannot be read.
    """
    if isinstance(config, ScenesConfig):
        from distill.data.scenes import ScenesDataset

        return ScenesDataset(config, split, protocol=protocol, role=role)
    from distill.data.disk import DiskDataset

    return DiskDataset(config, split, protocol=protocol, role=role, cache=cache, copies=copies)


def licence_of(config: AnyDataConfig) -> str | None:
    """Name and page of a data set's licence; None for generated scenes, which need none."""
    if isinstance(config, ScenesConfig):
        return None
    from distill.data.layouts import layout_of

    return layout_of(config).licence
