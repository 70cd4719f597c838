"""Short names of pairs, for pages and terminals. Tables, ids and commands have the names in full."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from orchestrator.planning.config import PairConfig

# What a name of timm has beside the architecture: the origin of the code, the training of the weights, the sizes of picture,
# patch and window, the width.
_PREFIX = re.compile(r"^(?:tf_)?(?:efficientnet_(?=lite))?")
_SUFFIX = re.compile(r"(?:_(?:patch|window)\d+|_[1-9]\d\d)+$")


class NamedPair(NamedTuple):
    """A pair by its name and the names of its models."""

    name: str
    teacher: str
    student: str

    @property
    def is_default(self) -> bool:
        """Whether the name is made of the names of the models."""
        return self.name == f"{self.teacher}_to_{self.student}"


def short_pair_names(pairs: Iterable[NamedPair]) -> dict[str, str]:
    """The short name of each pair by its name, such as `lite0 → test_resnet`; two pairs never have the same one.

    A default name is made of the short names of its models: without head, and without what timm's names have beside the
    architecture, as far as this tells the models apart. A name that was given is kept, and one that has nothing to leave out.
    """
    known = sorted(set(pairs))
    times = Counter(pair.name for pair in known)
    defaults = [pair for pair in known if pair.is_default and times[pair.name] == 1]
    models = _short_models({model for pair in defaults for model in (pair.teacher, pair.student)})
    names = {pair.name: pair.name for pair in known}
    for pair in defaults:
        short = f"{models[pair.teacher]} → {models[pair.student]}"
        if (models[pair.teacher], models[pair.student]) != (pair.teacher, pair.student):
            names[pair.name] = short
    return names if len(set(names.values())) == len(names) else {name: name for name in names}


def short_names_of(pairs: Iterable[PairConfig]) -> dict[str, str]:
    """The short name of each pair of a sweep file."""
    return short_pair_names(NamedPair(pair.label, pair.teacher.model, pair.student.model) for pair in pairs)


def _short_models(models: set[str]) -> dict[str, str]:
    """A name for each model, no two the same: those that are the same become longer until they differ."""
    forms = {model: _forms(model) for model in models}
    chosen = dict.fromkeys(models, 0)
    while True:
        shown = {model: forms[model][place] for model, place in chosen.items()}
        times = Counter(shown.values())
        again = [m for m in models if times[shown[m]] > 1 and chosen[m] < len(forms[m]) - 1]
        if not again:
            return shown
        for model in again:
            chosen[model] += 1


def _forms(model: str) -> Sequence[str]:
    """The forms of a model's name (`head-backbone`), the shortest one first."""
    head, _, backbone = model.rpartition("-") if model.count("-") == 1 else ("", "", model)
    untagged = backbone.partition(".")[0] or backbone
    stem = _SUFFIX.sub("", _PREFIX.sub("", untagged)) or backbone
    with_head = [f"{head}-{stem}"] if head else []
    return [stem, untagged, backbone, *with_head, model]
