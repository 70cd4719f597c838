"""Which pictures of a data set on disk a role may see in a split."""

from __future__ import annotations

import functools
import hashlib
from collections import Counter
from collections.abc import Mapping

from distill.data.config import CutConfig, DiskConfig
from distill.data.layout import Layout, Pair, Source, find_pairs
from distill.data.layouts import layout_of
from distill.data.philox import permutation
from distill.data.remote_copies import RemoteCopiesConfig
from distill.data.roots import with_copies
from distill.data.sample import Protocol, Role, Split
from distill.errors import UsageError, unknown


class Splits:
    """The splits of one data set; folders are listed once, on first use."""

    def __init__(self, config: DiskConfig, copies: RemoteCopiesConfig | None = None) -> None:
        self.config = config
        self.root = with_copies(config.root, copies)
        self.layout = layout_of(config)

    @functools.cached_property
    def train(self) -> list[Pair]:
        """The published train split."""
        return self._published(self.layout.train)

    @functools.cached_property
    def tune(self) -> list[Pair]:
        """The published tune split; empty if there is none."""
        return [] if self.layout.tune is None else self._published(self.layout.tune)

    @functools.cached_property
    def test(self) -> list[Pair]:
        """The split that papers report."""
        return self._published(self.layout.test)

    def _published(self, source: Source) -> list[Pair]:
        return find_pairs(self.root, self.layout, source)

    def select(self, split: Split, *, protocol: Protocol = "clean", role: Role = "student") -> list[Pair]:
        """The pictures of one split.

        Raises:
            UsageError: files are missing, or the split cannot be created.
        """
        if split == "test" or (split == "tune" and protocol == "paper"):
            return self.test
        if split == "tune" and self.layout.tune is not None:
            return self.tune
        pairs = self.train
        if protocol == "clean" and self.layout.tune is None:
            held = self.held_out()
            pairs = [pair for pair in pairs if (self.layout.group_of(pair.key) in held) == (split == "tune")]
        limit = self.config.student_images
        if split == "train" and role == "student" and limit is not None:
            if limit > len(pairs):
                raise UsageError(
                    f"student_images is {limit}, must be at most {len(pairs)}, "
                    f"the train pictures of the {protocol} protocol under {self.config.root}"
                )
            order = permutation(self.config.tune_seed, f"{self.config.kind}/student", 0, len(pairs))
            pairs = [pairs[i] for i in sorted(order[:limit])]
        return pairs

    def held_out(self) -> frozenset[str]:
        """The groups of train that the clean protocol holds out for tuning."""
        if not isinstance(self.config, CutConfig):
            return frozenset()
        groups = Counter(self.layout.group_of(pair.key) for pair in self.train)
        return frozenset(hold_out(self.config, self.layout, groups))


def hold_out(config: CutConfig, layout: Layout, groups: Mapping[str, int]) -> tuple[str, ...]:
    """The groups of train pictures that form the tune split: those named in the config, or a random choice.

    Groups are chosen in the order of a hash of seed and name, as long as they fit into `tune_share` of the pictures. So
    the choice does not depend on the order of files, and adding a picture changes it little.

    Args:
        config: share and seed.
        layout: names for messages, and the groups named in the config.
        groups: pictures per group.

    Raises:
        UsageError: a named group does not exist, or nothing would be left to train on.
    """
    one, many = layout.group_words
    if len(groups) < 2:
        raise UsageError(
            f"{config.root} has 1 train {one} ({', '.join(groups)}), the clean protocol needs at least 2 "
            f"to hold one out for tuning; add a {one}, or set protocol: paper"
        )
    if layout.named_groups is not None:
        named = set(layout.named_groups)
        for group in named:
            if group not in groups:
                raise unknown(f"tune {one}", group, groups)
        if not 0 < len(named) < len(groups):
            raise UsageError(
                f"the config names {len(named)} of {len(groups)} train {many} for tuning, "
                "must name at least one and leave at least one"
            )
        return tuple(sorted(named))
    seed = config.tune_seed
    order = sorted(groups, key=lambda group: hashlib.sha256(f"{seed}/{group}".encode()).digest())
    room, chosen = config.tune_share * sum(groups.values()), []
    for group in order:
        if groups[group] <= room:
            chosen.append(group)
            room -= groups[group]
    return tuple(sorted(chosen or [min(order, key=groups.__getitem__)]))
