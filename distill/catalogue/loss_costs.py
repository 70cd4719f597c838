"""FLOPs of the methods' losses, and the numbers that their own layers keep, by formula and without torch.

There is one function per method that has convolutions or matrix products; other losses read a few maps and count as
nothing beside the networks. A test compares the formulas with the operators that a step runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

_TRAINED = 3  # a product that is trained: forward, and both gradients
_BLOCK = 2**24  # similarities in memory; more of them are computed again in the backward pass
_POOLED_STRIDE = 16
Settings = Mapping[str, Any]


@dataclass(frozen=True)
class ModelShapes:
    """Channels and strides of a model's four stages, and of what its classifier sees."""

    channels: tuple[int, ...]
    strides: tuple[int, ...]
    fused_channels: int
    fused_stride: int

    def at(self, tap: str) -> tuple[int, int]:
        """Channels and stride at a tap."""
        if tap == "fused":
            return self.fused_channels, self.fused_stride
        if tap == "stride8":
            fine = [i for i, stride in enumerate(self.strides) if stride <= 8]
            near = min(range(4), key=lambda i: (abs(self.strides[i] - 8), -i))
            stage = fine[-1] if fine else near
        else:
            stage = int(tap.removeprefix("stage")) - 1
        return self.channels[stage], self.strides[stage]


@dataclass(frozen=True)
class LossShapes:
    """What the cost of a loss depends on: both models, number of classes K, pictures in a batch, and their size."""

    student: ModelShapes
    teacher: ModelShapes
    classes: int
    batch: int
    height: int
    width: int

    def positions(self, stride: int) -> int:
        """Positions of a map of the whole batch."""
        return self.batch * -(-self.height // stride) * -(-self.width // stride)


def loss_flops(method: str, settings: Settings, shapes: LossShapes) -> float:
    """FLOPs of a step's loss, forward and backward; methods joined by `+` add up.

    Args:
        method: its name; one of another package counts as nothing.
        settings: all settings of the method, defaults included; a combination's are `<method>.<setting>`.
        shapes: of the pair and the batch.
    """
    return sum(_LOSSES[part](own, shapes) for part, own in _parts(method, settings) if part in _LOSSES)


@dataclass(frozen=True)
class LayerNumbers:
    """Numbers that a method's own layers keep on the device.

    Attributes:
        trained: weights, which have a gradient and the optimiser's state.
        remembered: features of earlier batches.
    """

    trained: int = 0
    remembered: int = 0

    def __add__(self, other: LayerNumbers) -> LayerNumbers:
        return LayerNumbers(self.trained + other.trained, self.remembered + other.remembered)


def layer_numbers(method: str, settings: Settings, shapes: LossShapes) -> LayerNumbers:
    """What a method's own layers keep. Layers of a few hundred thousand numbers count as nothing. See `loss_flops`."""
    own = [_LAYERS[part](its, shapes) for part, its in _parts(method, settings) if part in _LAYERS]
    return sum(own, LayerNumbers())


def _parts(method: str, settings: Settings) -> list[tuple[str, Settings]]:
    """The methods that are joined by `+`, each with its own settings."""
    parts = method.split("+")
    if len(parts) == 1:
        return [(method, settings)]
    return [
        (
            part,
            {
                key.removeprefix(f"{part}."): value
                for key, value in settings.items()
                if key.startswith(f"{part}.")
            },
        )
        for part in parts
    ]


def methods_with_products() -> list[str]:
    """Methods that have a formula, sorted."""
    return sorted(_LOSSES)


def _aligned(settings: Settings, shapes: LossShapes) -> float:
    """A 1×1 convolution from the student's channels to the teacher's."""
    channels, stride = shapes.student.at(settings["tap"])
    return _TRAINED * 2.0 * shapes.positions(stride) * channels * shapes.teacher.at(settings["tap"])[0]


def _cwd(settings: Settings, shapes: LossShapes) -> float:
    return _aligned(settings, shapes) if settings["where"] == "features" else 0.0


def _restored(settings: Settings, shapes: LossShapes) -> float:
    """The alignment, and two 3×3 convolutions between the teacher's channels."""
    _, stride = shapes.student.at(settings["tap"])
    wide, _ = shapes.teacher.at(settings["tap"])
    return _aligned(settings, shapes) + _TRAINED * 2.0 * 2 * 9 * shapes.positions(stride) * wide * wide


def _cirkd(settings: Settings, shapes: LossShapes) -> float:
    narrow, stride = shapes.student.at(settings["tap"])
    wide, _ = shapes.teacher.at(settings["tap"])
    total = 0.0
    if settings["cirkd_weight"]:
        pool = settings["pool"] or max(1, _POOLED_STRIDE // stride)
        rows = shapes.positions(stride * pool)
        total += _similarities(rows, rows, narrow, wide, columns_trained=True)
    memories = [name for name in ("pixel", "region") if settings[f"{name}_weight"]]
    rows = shapes.positions(stride)
    if memories:
        total += _TRAINED * 2.0 * rows * wide * (narrow + wide)
    for name in memories:
        columns = (settings[f"{name}_draws"] // shapes.classes + 1) * shapes.classes
        total += _similarities(rows, columns, wide, wide, columns_trained=False)
    return total


def _similarities(rows: int, columns: int, narrow: int, wide: int, *, columns_trained: bool) -> float:
    """Similarities of the student's rows and columns, and of the teacher's."""
    passes = 2 if rows * columns > _BLOCK else 1
    gradients = 2 if columns_trained else 1
    return 2.0 * rows * columns * (narrow * (passes + gradients) + wide * passes)


def _skd(settings: Settings, shapes: LossShapes) -> float:
    (narrow, stride), (wide, _) = shapes.student.at(settings["tap"]), shapes.teacher.at(settings["tap"])
    positions = shapes.positions(stride * settings["pool"])
    in_picture = positions // shapes.batch
    if in_picture > max(narrow, wide):
        return 2.0 * positions * (narrow * narrow * _TRAINED + 2 * narrow * wide + wide * wide)
    passes = 2 if positions * in_picture > _BLOCK else 1
    return 2.0 * positions * in_picture * (narrow * (passes + 2) + wide * passes)


def _ifvd(settings: Settings, shapes: LossShapes) -> float:
    (narrow, stride), (wide, _) = shapes.student.at(settings["tap"]), shapes.teacher.at(settings["tap"])
    return 4.0 * shapes.positions(stride) * shapes.classes * (narrow * 2.5 + wide)


def _ofa(settings: Settings, shapes: LossShapes) -> float:
    if not settings["stages_weight"]:
        return 0.0
    stages = zip(shapes.student.channels, shapes.student.strides, strict=True)
    return sum(_TRAINED * 2.0 * shapes.positions(stride) * c * (c + shapes.classes) for c, stride in stages)


def _heteroakd(settings: Settings, shapes: LossShapes) -> float:
    compared = settings["hakd_weight"] or settings["l2_weight"]
    supervised = settings["proj_weight"] and settings["proj_supervision"] != "none"
    if not compared and not (supervised and settings["keep_proj"]):
        return 0.0
    (narrow, stride), (wide, coarse) = shapes.student.at(settings["tap"]), shapes.teacher.at(settings["tap"])
    student = _TRAINED * shapes.positions(stride) * narrow
    if (
        supervised and settings["proj_gradient"] == "projector"
    ):  # another pass over features without a gradient
        student += 2 * shapes.positions(stride) * narrow
    teacher = 2 * shapes.positions(coarse) * wide if compared else 0
    return 2.0 * shapes.classes * (student + teacher)


_LOSSES: Mapping[str, Callable[[Settings, LossShapes], float]] = {
    "af_dcd": _restored,
    "cirkd": _cirkd,
    "cwd": _cwd,
    "fitnet": _aligned,
    "heteroakd": _heteroakd,
    "ifvd": _ifvd,
    "mgd": _restored,
    "ofa": _ofa,
    "skd": _skd,
}


def _restoring_layers(settings: Settings, shapes: LossShapes) -> LayerNumbers:
    """See `_restored`."""
    narrow, wide = shapes.student.at(settings["tap"])[0], shapes.teacher.at(settings["tap"])[0]
    return LayerNumbers(trained=narrow * wide + 2 * 9 * wide * wide)


def _queues(settings: Settings, shapes: LossShapes) -> LayerNumbers:
    """Features of the teacher for every class, and one more for the pixels of none."""
    entries = [settings[f"{name}_queue"] + 1 for name in ("pixel", "region") if settings[f"{name}_weight"]]
    return LayerNumbers(remembered=sum(entries) * shapes.classes * shapes.teacher.at(settings["tap"])[0])


_LAYERS: Mapping[str, Callable[[Settings, LossShapes], LayerNumbers]] = {
    "af_dcd": _restoring_layers,
    "cirkd": _queues,
    "mgd": _restoring_layers,
}
