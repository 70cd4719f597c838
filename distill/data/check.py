"""Checks a data set against its config before a sweep uses it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from distill.data.bucket import prefetched
from distill.data.config import AnyDataConfig, DiskConfig, ScenesConfig
from distill.data.factory import build_dataset
from distill.data.picture_check import (
    PairHeaders,
    content_notes,
    decoded_pairs,
    orientation_notes,
    orientation_problems,
    palette_problems,
    read_pair_headers,
)
from distill.data.remote_copies import RemoteCopiesConfig
from distill.data.roots import is_remote
from distill.data.sample import Protocol
from distill.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from distill.data.check_problems import Problems
    from distill.data.labels import LabelMap
    from distill.data.layout import Pair
    from distill.data.roots import File
    from distill.data.split_shares import SplitShares
    from distill.data.splits import Splits

SAMPLE = 200
"""Number of label maps of train that a quick check decodes, besides all of tune and test."""

_SHOWN = 10
_TEACHER = "train (teacher)"
_COLUMNS = {"train": _TEACHER, "tune": "tune", "test": "test"}
"""Splits whose labels are counted, and the role that has all their pictures."""


@dataclass(frozen=True)
class DatasetReport:
    """Result of a check.

    Attributes:
        name: the data set's kind.
        licence: name and page of the licence; None for generated scenes.
        images: number of pictures by split and role: `train (student)`, `train (teacher)`, `tune`, `test`. In the
            protocol `paper` there is no tune split of its own.
        sizes: number of pictures by (height, width).
        classes: class names.
        decoded: number of decoded label maps by split; all in a full check.
        pixels: pixels per class in them, followed by the ignored ones, by split.
        notes: remarks about allowed but unusual findings.
        coverage: what was decoded, if it was not everything; otherwise empty.
    """

    name: str
    licence: str | None
    images: dict[str, int]
    sizes: dict[tuple[int, int], int]
    classes: tuple[str, ...]
    decoded: dict[str, int]
    pixels: dict[str, tuple[int, ...]]
    notes: tuple[str, ...]
    coverage: str = ""

    def describe(self) -> str:
        """The report as text for a terminal."""
        names = (*self.classes, "ignored")
        width = max(len(name) for name in names)
        splits = [split for split, count in self.decoded.items() if count]
        lines = ["pictures  " + " · ".join(f"{count} {name}" for name, count in self.images.items())]
        sizes = sorted(self.sizes.items())
        more = f" and {len(sizes) - _SHOWN} other sizes" if sizes[_SHOWN:] else ""
        lines.append(
            "sizes     " + ", ".join(f"{count} of {h}×{w}" for (h, w), count in sizes[:_SHOWN]) + more
        )
        maps = " · ".join(f"{self.decoded[split]} of {split}" for split in splits)
        lines.append(f"labels    share of the pixels of the label maps that were decoded: {maps}")
        lines.append(f"  {'':<{width}}" + "".join(f"  {split:>8}" for split in splits))
        for label, name in enumerate(names):
            shares = (100 * self.pixels[split][label] / max(1, sum(self.pixels[split])) for split in splits)
            lines.append(f"  {name:<{width}}" + "".join(f"  {share:6.2f} %" for share in shares))
        if self.licence is not None:
            lines.append(f"licence   {self.licence}")
        notes = (*self.notes, self.coverage) if self.coverage else self.notes
        return "\n".join(lines + [f"note      {note}" for note in notes])


def check_dataset(
    config: AnyDataConfig,
    *,
    full: bool = False,
    skip_broken: bool = False,
    copies: RemoteCopiesConfig | None = None,
    protocol: Protocol = "clean",
) -> DatasetReport:
    """Check folders, pairs, image headers, sizes and label values, and count pictures and pixels.

    Args:
        config: config of the data set.
        full: decode every picture and label map. Otherwise read all headers, and decode the pairs of tune and test and
            `SAMPLE` label maps of train, spread evenly. Of a bucket, all names are checked, but no other files.
        skip_broken: check as a run does: accept unreadable train pictures, up to the config's `broken_share`, and decode
            all pictures of train if there are at most `SAMPLE`.
        copies: local copies of pictures in a bucket; None uses the defaults of `RemoteCopiesConfig`.
        protocol: protocol whose splits are checked; in `paper` the tune split is the test split.

    Raises:
        UsageError: something is missing or wrong; the message names up to ten files with value, rule and remedy.
    """
    if isinstance(config, ScenesConfig):
        return _check_scenes(config, full)
    return _check_disk(config, full, skip_broken, copies, protocol)


def _check_scenes(config: ScenesConfig, full: bool) -> DatasetReport:
    from distill.data.split_shares import label_counts

    dataset = build_dataset(config, "train", role="teacher")
    chosen = range(0, len(dataset), 1 if full else -(-len(dataset) // SAMPLE))
    counts = [label_counts(dataset[index].labels_hw, len(dataset.classes)) for index in chosen]
    images = {
        "train (student)": len(build_dataset(config, "train")),
        "train (teacher)": len(dataset),
        "tune": config.tune,
        "test": config.test,
    }
    sizes = {config.size: len(dataset)}
    counted = {"train": tuple(sum(map(int, of_class)) for of_class in zip(*counts, strict=True))}
    return DatasetReport(
        config.kind, None, images, sizes, dataset.classes, {"train": len(chosen)}, counted, ()
    )


@dataclass(frozen=True)
class _Chosen:
    """What a check decodes: the label maps of some pairs, and the pictures of some."""

    used: frozenset[Pair]
    """The pairs of all splits."""
    labels: frozenset[Pair]
    pictures: frozenset[Pair]

    @classmethod
    def of(cls, listed: Mapping[str, list[Pair]], full: bool, skip_broken: bool) -> _Chosen:
        """Choose by split. A broken picture of tune or test would end a run after hours.

        So would one of a small train split, of which none may be skipped.
        """
        from distill.data.split_shares import spread

        used = frozenset(pair for of_split in listed.values() for pair in of_split)
        scored = frozenset(pair for name in ("tune", "test") for pair in listed.get(name, ()))
        is_small = skip_broken and len(listed["train"]) <= SAMPLE
        labels = used if full else scored.union(spread(listed["train"], SAMPLE))
        return cls(used, labels, used if full or is_small else scored)

    def with_deep_pictures(self, headers: list[PairHeaders]) -> _Chosen:
        """The same and all pictures of 16 bits, whose scale shows in the pixels only."""
        deep = {sound.pair for sound in headers if sound.image.bits > 8} & self.used
        return replace(self, labels=self.labels | deep, pictures=self.pictures | deep)


def _check_disk(
    config: DiskConfig,
    full: bool,
    skip_broken: bool,
    copies: RemoteCopiesConfig | None,
    protocol: Protocol,
) -> DatasetReport:
    from distill.data.check_problems import Problems
    from distill.data.duplicates import repeated_files, similar_pictures
    from distill.data.split_shares import SplitShares
    from distill.data.splits import Splits

    splits, found = Splits(config, copies), Problems()
    pairs = _listed(splits, found)
    roles = _roles(splits, protocol, found)
    if skip_broken:
        found.skippable = {pair.key for pair in roles.get(_TEACHER, ())}
    listed = {name: roles[role] for name, role in _COLUMNS.items() if role in roles} or {"train": pairs}
    sampled = is_remote(config.root) and not full
    chosen = _Chosen.of(listed, full, skip_broken)
    of_headers = [pair for pair in pairs if pair in chosen.labels] if sampled else pairs
    headers = _sound_headers(of_headers, found)
    chosen = chosen.with_deep_pictures(headers)
    label_map, kept = splits.layout.label_map, {sound.pair for sound in headers}
    by_split = {name: [pair for pair in of_split if pair in kept] for name, of_split in listed.items()}
    shares = SplitShares(by_split, label_map.names)
    decoded = [sound.pair for sound in headers if sound.pair in chosen.labels]
    thumbnails = _decode(decoded, chosen.pictures, label_map, shares, found)
    for problem in orientation_problems(headers) + palette_problems(headers):
        found.add(UsageError(problem))
    if len(found.skipped) > int(config.broken_share * len(found.skippable)):
        for broken in found.skipped:
            found.add(broken)
    if not found:
        _refuse_unlabelled(roles, shares, set(decoded), label_map, found)
    if found:
        raise found.error(config.root)
    notes = [f"will be skipped: {problem}" for problem in found.skipped]
    notes += orientation_notes(headers) + content_notes(headers, chosen.pictures)
    notes += shares.notes() + _equal_colours(label_map) + _extra_files(splits, pairs)
    notes += [] if sampled else repeated_files(by_split)
    notes += similar_pictures(by_split, thumbnails)
    coverage = (
        f"decoded were the pictures of tune and test, and {sum(shares.decoded.values())} of {len(pairs)} label maps"
        f"{', and no other file was fetched' if sampled else ''}; --full decodes everything"
    )
    return DatasetReport(
        config.kind,
        splits.layout.licence,
        {name: len(of_role) for name, of_role in roles.items()},
        dict(Counter(sound.image.size for sound in headers)),
        label_map.names,
        shares.decoded,
        {name: tuple(int(count) for count in counts) for name, counts in shares.pixels.items()},
        tuple(notes),
        coverage="" if full or chosen.pictures == chosen.used else coverage,
    )


def _roles(splits: Splits, protocol: Protocol, found: Problems) -> dict[str, list[Pair]]:
    """Pairs by split and role; empty if they cannot be listed."""
    if found:
        return {}
    try:
        roles = {
            "train (student)": splits.select("train", protocol=protocol),
            _TEACHER: splits.select("train", protocol=protocol, role="teacher"),
        }
        if protocol == "clean":
            roles["tune"] = splits.select("tune")
        return {**roles, "test": splits.select("test")}
    except UsageError as problem:
        found.add(problem)
        return {}


def _refuse_unlabelled(
    roles: dict[str, list[Pair]],
    shares: SplitShares,
    decoded: set[Pair],
    label_map: LabelMap,
    found: Problems,
) -> None:
    """Add a problem for each split and role without a valid pixel; decode more label maps only to find one."""
    for role, pairs in roles.items():
        if any(pair.image in shares.valid for pair in pairs):
            continue
        rest = [pair for pair in pairs if pair not in decoded]
        decoded |= {*rest}
        _decode(rest, (), label_map, shares, found)
        if not any(pair.image in shares.valid for pair in pairs):
            values = ", ".join(map(str, sorted(label_map.ignored)))
            found.add(
                UsageError(
                    f"the {len(pairs)} label maps of {role} have only ignored pixels (values {values}), must have a "
                    "pixel of a class; check the label maps and `ignored`, or choose other pictures"
                )
            )


def _listed(splits: Splits, found: Problems) -> list[Pair]:
    """All pairs of all published splits that can be listed."""
    pairs: list[Pair] = []
    for published in ("train", "tune", "test"):
        try:
            pairs += getattr(splits, published)
        except UsageError as problem:
            found.add(problem)
    if not found:
        for message in _in_two_splits(splits):
            found.add(UsageError(message))
    return pairs


def _sound_headers(pairs: Iterable[Pair], found: Problems) -> list[PairHeaders]:
    """The pairs whose headers and file ends are valid."""
    sound: list[PairHeaders] = []
    for pair in prefetched((pair, (pair.image, pair.labels)) for pair in pairs):
        try:
            sound.append(read_pair_headers(pair))
        except UsageError as problem:
            found.note(pair, problem)
    return sound


def _decode(
    pairs: list[Pair],
    pictures: Collection[Pair],
    label_map: LabelMap,
    shares: SplitShares,
    found: Problems,
) -> dict[File, NDArray[np.float32]]:
    """Decode label maps, and some pictures with them, and count the labels; returns the pictures' thumbnails."""
    thumbnails = {}
    for pair, decoded in decoded_pairs(pairs, pictures, label_map):
        if isinstance(decoded, UsageError):
            found.note(pair, decoded)
            continue
        shares.add(pair.image, decoded.counts)
        if decoded.thumbnail is not None:
            thumbnails[pair.image] = decoded.thumbnail
    return thumbnails


def _in_two_splits(splits: Splits) -> list[str]:
    """Messages about pictures that are in two splits."""
    files = {name: {pair.image for pair in getattr(splits, name)} for name in ("train", "tune", "test")}
    problems = []
    for one, other in (("train", "tune"), ("train", "test"), ("tune", "test")):
        if both := files[one] & files[other]:
            problems.append(
                f"{len(both)} pictures are in {one} and in {other} (first: {min(both, key=str)}), must be in one; "
                "take them out of one list"
            )
    return problems


def _equal_colours(label_map: LabelMap) -> list[str]:
    """A note on each colour that several classes have."""
    names: dict[object, list[str]] = {}
    for label in label_map.classes:
        names.setdefault(label.colour, []).append(label.name)
    return [
        f"the classes {', '.join(same)} have the same colour {colour}: galleries and overlays do not tell them apart"
        for colour, same in names.items()
        if len(same) > 1
    ]


def _extra_files(splits: Splits, pairs: list[Pair]) -> list[str]:
    """A note on pictures and label files that are in no split."""
    from distill.data.layout import count_files

    sources = [s for s in (splits.layout.train, splits.layout.tune, splits.layout.test) if s is not None]
    root = splits.root
    images = sum(count_files(root, *place) for place in {(s.images, s.image_suffixes) for s in sources})
    labels = sum(count_files(root, *place) for place in {(s.labels, (s.label_suffix,)) for s in sources})
    spare_images = images - len({pair.image for pair in pairs})
    spare_labels = labels - len({pair.labels for pair in pairs})
    if not spare_images and not spare_labels:
        return []
    return [f"{spare_images} pictures and {spare_labels} label maps are in no split"]
