"""Loads a file of weights into a backbone, tensor by tensor, and refuses a file that lacks one."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from distill.errors import UsageError, nearest
from distill.models.weight_files import WeightFile, read_weight_file
from distill.models.weight_layouts import (
    State,
    Vocabulary,
    is_computed,
    plain_name,
    resemblance,
    views,
    vocabularies,
)
from distill.normalisation import Normalisation


@dataclass(frozen=True)
class LoadedWeights:
    """Origin of a backbone's weights.

    Attributes:
        file: path of the file.
        sha256: hash of the file.
        key: key and prefix of the tensors in the file; empty if they have none.
        names: vocabulary of the file's names, such as `timm`.
        loaded: number of the backbone's tensors; all of them are from the file.
        unused: number of the file's tensors that the backbone does not have, such as a classifier's.
        normalisation: what the weights were trained with; None if the file's names do not say it.
    """

    file: str
    sha256: str
    key: str
    names: str
    loaded: int
    unused: int
    normalisation: Normalisation | None


@dataclass(frozen=True)
class WeightsPath:
    """A file of backbone weights, and the key under which they are if the file has several sets."""

    path: Path
    key: str | None = None


def weights_path(pretrained: bool | str | Path | Mapping[str, str | None]) -> bool | WeightsPath:
    """The setting `pretrained` of a model, with a file as a `WeightsPath`."""
    if isinstance(pretrained, bool):
        return pretrained
    if isinstance(pretrained, Mapping):
        return WeightsPath(Path(str(pretrained["path"])), pretrained.get("key"))
    return WeightsPath(Path(pretrained))


class _FileTensor(Tensor):
    """A tensor of a file. What is computed from it knows which of the file's tensors it is made of.

    timm translates and resizes tensors before it copies them into a network. This class records where they go.
    """

    made_of: frozenset[str]
    record: _Record

    def __deepcopy__(self, memo: dict[int, Any]) -> _FileTensor:
        """Itself: timm copies the settings that hold the state dict, and changes no tensor in place."""
        return self

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        sources = [value for value in _flat((*args, *(kwargs or {}).values())) if isinstance(value, cls)]
        result = super().__torch_function__(func, types, args, kwargs or {})  # type: ignore[no-untyped-call]
        sources = [source for source in sources if hasattr(source, "record")]
        if not sources:
            return result
        made_of = frozenset[str]().union(*(source.made_of for source in sources))
        if func is Tensor.copy_ and not isinstance(args[0], cls):
            sources[0].record.copied[id(args[0])] = made_of
            return args[0]
        for value in _flat((result,)):
            if isinstance(value, cls):
                value.made_of, value.record = made_of, sources[0].record
        return result


class _Record:
    """Which parameters were copied from a file, by identity, and from which of its tensors."""

    def __init__(self) -> None:
        self.copied: dict[int, frozenset[str]] = {}

    def tagged(self, state: Mapping[str, Tensor]) -> State:
        """The same tensors, which add to this record when they are copied into a parameter."""
        found: State = {}
        for name, tensor in state.items():
            tagged = tensor.detach().as_subclass(_FileTensor)
            tagged.made_of, tagged.record = frozenset((name,)), self
            found[name] = tagged
        return found


def _flat(values: Sequence[Any]) -> list[Any]:
    return [
        inner for value in values for inner in (_flat(value) if isinstance(value, list | tuple) else (value,))
    ]


def read_pretrained(source: WeightsPath) -> WeightFile:
    """Read a backbone's file; errors say that it is one of pretrained weights."""
    try:
        return read_weight_file(source.path, source.key)
    except UsageError as error:
        raise UsageError(f"pretrained weights {error}") from error


def load_backbone(
    name: str, file: WeightFile, shapes: Mapping[str, tuple[int, ...]], build: Callable[[State], nn.Module]
) -> tuple[nn.Module, LoadedWeights]:
    """Build a backbone with the weights of a file.

    Args:
        name: the backbone's name, for messages.
        file: its weights; names may have a prefix of `PARTS` and be of any of the `VOCABULARIES`.
        shapes: shapes of the tensors of timm's whole network with this backbone, by name.
        build: builds the backbone from a state dict with timm's names, or with those that timm itself translates.

    Raises:
        UsageError: the backbone has a tensor that the file lacks, the file has another shape of it, or the file has
            more blocks than the backbone.
    """
    record = _Record()
    prefix, vocabulary, state = _best_view(record.tagged(file.tensors), shapes)
    place = f"pretrained weights '{file.path}' do not fit backbone '{name}'"
    wrong = [
        key for key, tensor in state.items() if shapes.get(key, tuple(tensor.shape)) != tuple(tensor.shape)
    ]
    try:
        network = build(dict(state))
    except Exception as error:  # timm's translation raises any error for tensors of another network
        if wrong:
            key = wrong[0]
            raise UsageError(
                f"{place}: {len(wrong)} of its {len(shapes)} tensors have another shape in the file, first {key}: "
                f"{tuple(state[key].shape)}, must be {shapes[key]}; give a checkpoint of this architecture"
            ) from error
        raise UsageError(f"{place}: {_first_lines(error)}{resemblance(file.tensors)}") from error
    wanted = {
        key: tensor for key, tensor in network.state_dict(keep_vars=True).items() if not is_computed(key)
    }
    missing = [plain_name(key, shapes) for key, tensor in wanted.items() if id(tensor) not in record.copied]
    if missing:
        raise UsageError(_missing_text(place, missing, len(wanted), state, file.tensors))
    used = frozenset[str]().union(*record.copied.values())
    _refuse_more_blocks(place, used, file.tensors, state, shapes)
    origin = ".".join(part for part in (file.key, prefix.rstrip(".")) if part)
    counted = sum(not is_computed(key) for key in file.tensors.keys() - used)
    normalisation = file.normalisation or vocabulary.normalisation
    return network, LoadedWeights(
        str(file.path), file.sha256, origin, vocabulary.name, len(wanted), counted, normalisation
    )


def _best_view(tagged: State, shapes: Mapping[str, tuple[int, ...]]) -> tuple[str, Vocabulary, State]:
    """Prefix, vocabulary and tensors of the view of a file that has most of a network's names."""
    best: tuple[int, str, Vocabulary, State] | None = None
    for prefix, view in views(tagged):
        for vocabulary in vocabularies(view):
            state = vocabulary.translate(view, shapes.keys())
            found = len(state.keys() & shapes.keys())
            if best is None or found > best[0]:
                best = (found, prefix, vocabulary, state)
    assert best is not None  # there is a view of all tensors, and timm's vocabulary recognises any
    return best[1:]


def _missing_text(
    place: str, missing: list[str], count: int, state: Collection[str], names: Collection[str]
) -> str:
    first = missing[0]
    near = nearest(first, state) or nearest(first, names)
    hint = (
        f"; nearest in the file: {', '.join(near)}"
        if near
        else f"; the file has {', '.join(list(names)[:3])}"
    )
    return (
        f"{place}: of its {count} tensors the file lacks {len(missing)}: {', '.join(missing[:3])}"
        f"{', …' if missing[3:] else ''}{hint}{resemblance(names)}; give a checkpoint of this architecture"
    )


def _refuse_more_blocks(
    place: str,
    used: Collection[str],
    names: Collection[str],
    state: Mapping[str, Tensor],
    shapes: Mapping[str, tuple[int, ...]],
) -> None:
    """Refuse a file of a deeper network: its first blocks alone would compute something else."""
    known = {name for key, tensor in state.items() if key in shapes for name in tensor.made_of}  # type: ignore[attr-defined]
    groups = {group for name in used if (group := _block_group(name)) is not None}
    more = [
        name
        for name in names
        if name not in used and name not in known and not is_computed(name) and _block_group(name) in groups
    ]
    if more:
        raise UsageError(
            f"{place}: the file has {len(more)} tensors more in the same stages, first {more[0]}: it is of a "
            "deeper network; give a checkpoint of this architecture"
        )


def _block_group(name: str) -> str | None:
    """The part of a name before its first number, such as `layer3` or `blocks`; None for a name without one."""
    found = re.match(r"(.*?[a-z_]+\d*)\.\d+\.", name)
    return found[1] if found else None


def _first_lines(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {' '.join(lines[:2])[:300]}"
