"""A user's own pictures: a folder of images, one of masks, a table of classes, and lists of names."""

from __future__ import annotations

import re

from distill.data.config import PICTURE_SUFFIXES, FolderConfig
from distill.data.labels import LabelClass, LabelMap, distinct_colour
from distill.data.layout import Layout, Source


def layout(config: FolderConfig) -> Layout:
    """The layout that a config of a user's own pictures describes."""
    classes = tuple(
        LabelClass(label.value, label.name, label.colour or distinct_colour(place))
        for place, label in enumerate(config.classes)
    )
    lists = ", ".join(f"ROOT/{name}" for name in (config.train, config.tune, config.test) if name)
    return Layout(
        title="pictures of your own",
        licence="your own",
        expected=f"ROOT/{config.images}/NAME.jpg, .png or .tif, ROOT/{config.masks}/NAME.png and lists of names: {lists}",
        label_map=LabelMap(classes, frozenset(config.ignored), advice="add it to `classes` or `ignored`"),
        train=_source(config, config.train),
        tune=None if config.tune is None else _source(config, config.tune),
        test=_source(config, config.test),
        group_of=str if config.group is None else _Group(config.group),
        group_words=("picture", "pictures") if config.group is None else ("group", "groups"),
    )


def _source(config: FolderConfig, listed: str) -> Source:
    return Source(
        config.images,
        config.masks,
        PICTURE_SUFFIXES if config.image_suffix is None else (config.image_suffix,),
        config.mask_suffix,
        image_setting="image_suffix",
        label_setting="mask_suffix",
        listed=listed,
    )


class _Group:
    """The part of a key that a regular expression matches: the first group, or the whole match."""

    def __init__(self, pattern: str) -> None:
        self._pattern = re.compile(pattern)

    def __call__(self, key: str) -> str:
        match = self._pattern.search(key)
        return key if match is None else match.group(min(1, self._pattern.groups)) or key
