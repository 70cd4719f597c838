"""Wraps a network of another library as a teacher: converts normalisation and classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from pydantic import ConfigDict
from torch import Tensor, nn

from distill.errors import UsageError, unknown
from distill.models.families import Family
from distill.models.output import ModelInfo, Output
from distill.normalisation import Normalisation, Triple, renormalise
from distill.teacher_source import ClassMap

Kind = Literal["model", "transformers", "torchscript", "export"]
UNNAMED = "LABEL_"  # transformers' prefix of a class without a name
Grouping = tuple[tuple[int, ...], ...]
"""For each class of the data set, the teacher's classes that make it up."""


@dataclass(frozen=True)
class TeacherDescription:
    """Everything needed to rebuild a teacher, apart from its tensors.

    Attributes:
        name: name on the leaderboard.
        kind: how the network is built: `model` by `build_model`, `transformers` from a config, else from a program.
        network: arguments for that kind, JSON values only.
        family: cnn or transformer.
        classes: names of the teacher's classes, in the order of its logits.
        mean: channel means that its images are normalised with, RGB in [0, 1].
        std: channel standard deviations of the same.
        grouping: the teacher's classes that make up each class of the data set; None if the classes are the same.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", allow_inf_nan=False)

    name: str
    kind: Kind
    network: dict[str, Any]
    family: Family
    classes: tuple[str, ...]
    mean: Triple
    std: Triple
    grouping: Grouping | None = None


class TeacherModel(nn.Module):
    """A frozen network that takes images normalised as ours and returns logits of the data set's classes.

    Attributes:
        description: how the network is built.
        info: shapes of its outputs.
    """

    def __init__(self, network: nn.Module, description: TeacherDescription, info: ModelInfo) -> None:
        super().__init__()
        self.network = network
        self.description = description
        self.info = info
        self._normalisation = Normalisation(description.mean, description.std)
        self.requires_grad_(False)

    def forward(self, images_b3hw: Tensor) -> Output:
        """Stages, fused map and logits of images normalised by ImageNet's mean and standard deviation."""
        output: Output = self.network(renormalise(images_b3hw, self._normalisation))
        grouping = self.description.grouping
        return output if grouping is None else replace(output, logits=grouped(output.logits, grouping))


def grouped(logits: Tensor, grouping: Grouping) -> Tensor:
    """`B×K_teacher×h×w` to `B×K×h×w`: the log of the summed probabilities, up to a constant per pixel."""
    return torch.stack(
        [
            logits[:, theirs[0]] if len(theirs) == 1 else logits[:, list(theirs)].float().logsumexp(1)
            for theirs in grouping
        ],
        dim=1,
    )


def group_classes(own: Sequence[str], targets: Sequence[str], class_map: ClassMap | None) -> Grouping | None:
    """The teacher's classes that make up each class of the data set; None if the classes are the same.

    Args:
        own: the teacher's classes, in the order of its logits.
        targets: the data set's classes, in order.
        class_map: the config's map. Without one, classes named by numbers are taken as the data set's if there are
            as many.

    Raises:
        UsageError: the classes differ and there is no map, or the map lacks, repeats or invents a class.
    """
    if class_map is None:
        unnamed = all(name.removeprefix(UNNAMED).isdigit() for name in own)
        if tuple(own) == tuple(targets) or (unnamed and len(own) == len(targets)):
            return None
        raise UsageError(
            f"the teacher's {len(own)} classes ({_some(own)}) are not the data set's {len(targets)} "
            f"({_some(targets)}): write `class_map`, with the data set's classes as keys"
        )
    for name in class_map:
        if name not in targets:
            raise UsageError(f"class_map: {unknown('class of the data set', name, targets)}")
    missing = [name for name in targets if not class_map.get(name)]
    if missing:
        raise UsageError(
            f"class_map lacks {', '.join(missing)}: every class of the data set must be made of at least one "
            "of the teacher's"
        )
    groups = tuple(tuple(_position(theirs, own) for theirs in class_map[name]) for name in targets)
    used = [index for group in groups for index in group]
    twice = sorted({own[index] for index in used if used.count(index) > 1})
    if twice:
        raise UsageError(
            f"class_map uses the teacher's {', '.join(twice)} twice: a class of the teacher can be part of one "
            "class of the data set only"
        )
    return groups


def _position(theirs: int | str, own: Sequence[str]) -> int:
    if isinstance(theirs, int):
        if not 0 <= theirs < len(own):
            raise UsageError(
                f"class_map holds the teacher's class {theirs}, must be from 0 to {len(own) - 1}"
            )
        return theirs
    if theirs not in own:
        raise UsageError(f"class_map: {unknown('class of the teacher', theirs, own)}")
    return list(own).index(theirs)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 6 else f"{', '.join(names[:5])}, …"
