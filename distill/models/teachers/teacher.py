"""A network from elsewhere as a teacher: its own normalisation, its own classes, our output."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, cast

import torch
from pydantic import ConfigDict
from torch import Tensor, nn

from distill.errors import UsageError, unknown
from distill.models.checkpoint import CheckpointMetadata
from distill.models.families import Family
from distill.models.output import ModelInfo, Output
from distill.teacher_source import ClassMap

Kind = Literal["model", "transformers", "torchscript", "export"]
UNNAMED = "LABEL_"  # what transformers writes before the number of a class without a name
Triple = tuple[float, float, float]
Grouping = tuple[tuple[int, ...], ...]
"""For each class of the data set, the teacher's classes that make it up."""


@dataclass(frozen=True)
class TeacherDescription:
    """All that is needed, beside its tensors, to build a teacher again.

    Attributes:
        name: on the board.
        kind: how the network is built: `model` is one of ours, `transformers` a config, else a program's bytes.
        network: what that kind needs, JSON values.
        family: cnn or transformer.
        classes: names of its own classes, in the order of its own logits.
        mean: of its images' normalisation, RGB in [0, 1].
        std: of the same.
        grouping: which of its classes make up the data set's; None where they are the same.
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
    """A frozen network that takes our images and answers with our classes.

    Attributes:
        description: how it was made.
        info: shapes of its outputs.
    """

    def __init__(self, network: nn.Module, description: TeacherDescription, info: ModelInfo) -> None:
        super().__init__()
        self.network = network
        self.description = description
        self.info = info
        ours = [
            torch.tensor(values).view(3, 1, 1) for values in (CheckpointMetadata.mean, CheckpointMetadata.std)
        ]
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (description.mean, description.std))
        self.register_buffer("_scale", ours[1] / std, persistent=False)
        self.register_buffer("_shift", (ours[0] - mean) / std, persistent=False)
        self._renormalises = (description.mean, description.std) != (
            CheckpointMetadata.mean,
            CheckpointMetadata.std,
        )
        self.requires_grad_(False)

    def forward(self, images_b3hw: Tensor) -> Output:
        """Stages, fused map and logits of images normalised by ImageNet's mean and standard deviation."""
        if self._renormalises:
            images_b3hw = images_b3hw * cast(Tensor, self._scale) + cast(Tensor, self._shift)
        output: Output = self.network(images_b3hw)
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


def group_classes(own: Sequence[str], wanted: Sequence[str], class_map: ClassMap | None) -> Grouping | None:
    """Which of a teacher's classes make up each of the data set's; None where they are the same.

    Args:
        own: the teacher's classes, in the order of its logits.
        wanted: the data set's.
        class_map: as written in the config. Without one, and where the teacher's names are numbers, an equal
            number of classes is taken as the same ones.

    Raises:
        UsageError: the classes differ and no map is written, or the map misses, repeats or invents a class.
    """
    if class_map is None:
        unnamed = all(name.removeprefix(UNNAMED).isdigit() for name in own)
        if tuple(own) == tuple(wanted) or (unnamed and len(own) == len(wanted)):
            return None
        raise UsageError(
            f"the teacher's {len(own)} classes ({_some(own)}) are not the data set's {len(wanted)} "
            f"({_some(wanted)}): write `class_map`, with the data set's classes as keys"
        )
    for name in class_map:
        if name not in wanted:
            raise UsageError(f"class_map: {unknown('class of the data set', name, wanted)}")
    missing = [name for name in wanted if not class_map.get(name)]
    if missing:
        raise UsageError(
            f"class_map lacks {', '.join(missing)}: every class of the data set must be made of at least one "
            "of the teacher's"
        )
    groups = tuple(tuple(_position(theirs, own) for theirs in class_map[name]) for name in wanted)
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


def probe(
    network: nn.Module, description: TeacherDescription, num_classes: int, sizes: Sequence[tuple[int, int]]
) -> ModelInfo:
    """Shapes of a network's outputs, from passes of two blank images of each size.

    Raises:
        UsageError: it does not take such images, or its outputs are not four stages, fused map and logits.
    """
    found: ModelInfo | None = None
    for height, width in sizes:
        try:
            with torch.no_grad():
                output = network(torch.zeros(2, 3, height, width))
            info = _shapes(output, description, num_classes, height)
        except UsageError:
            raise
        except (
            Exception
        ) as error:  # whatever a foreign network raises, the person is told what was asked of it
            first_line = str(error).partition("\n")[0]
            raise UsageError(
                f"teacher '{description.name}' does not take two images of {height}×{width}: "
                f"{type(error).__name__}: {first_line}. Give it a crop and data of a size it takes; a program "
                "must be exported for any number and size of images"
            ) from error
        if found is not None and info != found:
            raise UsageError(
                f"teacher '{description.name}' has strides {info.strides} for images of {height}×{width} and "
                f"{found.strides} for others, must have the same"
            )
        found = info
    assert found is not None  # callers pass at least one size
    return found


def _shapes(output: Output, description: TeacherDescription, num_classes: int, height: int) -> ModelInfo:
    maps = [*output.stages, output.fused, output.logits]
    for name, value in zip(("stage1", "stage2", "stage3", "stage4", "fused", "logits"), maps, strict=True):
        if value.ndim != 4 or len(value) != 2:
            raise UsageError(
                f"teacher '{description.name}': {name} is a tensor of shape {tuple(value.shape)} for two images, "
                "must be 2×C×h×w; name another tap"
            )
    if output.logits.shape[1] != len(description.classes):
        raise UsageError(
            f"teacher '{description.name}' predicts {output.logits.shape[1]} classes and "
            f"{len(description.classes)} are named; name them all, in order"
        )
    strides = [round(height / value.shape[2]) for value in maps]
    channels = [value.shape[1] for value in maps]
    return ModelInfo(
        name=description.name,
        family=description.family,
        num_classes=num_classes,
        channels=cast("tuple[int, int, int, int]", tuple(channels[:4])),
        strides=cast("tuple[int, int, int, int]", tuple(strides[:4])),
        fused_channels=channels[4],
        fused_stride=strides[4],
        logits_stride=strides[5],
    )
