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
    """The pictures that one role may see in one split.

    Args:
        config: which data set.
        split: `train` to fit, `tune` to search, `test` to report.
        protocol: `clean` cuts tune out of the training pictures; `paper` trains on all of them, and its tune
            split is the test split (not free of leakage).
        role: the teacher may have more labelled training pictures than the student.
        cache: where decoded pictures of a data set on disk are kept; None decodes them every time.
        copies: where pictures that are fetched from a bucket are kept on this node; by default as `RemoteCopiesConfig` has it.

    Raises:
        UsageError: files are missing, the split would be empty, or a bucket cannot be read.
    """
    if isinstance(config, ScenesConfig):
        from distill.data.scenes import ScenesDataset

        return ScenesDataset(config, split, protocol=protocol, role=role)
    from distill.data.disk import DiskDataset

    return DiskDataset(config, split, protocol=protocol, role=role, cache=cache, copies=copies)


def licence_of(config: AnyDataConfig) -> str | None:
    """The page that says who may use a data set for what; None where nobody has to ask: its scenes are generated."""
    if isinstance(config, ScenesConfig):
        return None
    from distill.data.layouts import layout_of

    return layout_of(config).licence
