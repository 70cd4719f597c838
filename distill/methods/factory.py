"""Builds methods by name: a registered one, or several joined by `+`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from distill.methods.combined import combined_class
from distill.methods.config import parse_config
from distill.methods.registry import Method, registered_class

if TYPE_CHECKING:
    from distill.models.model import SegmentationModel
    from distill.models.output import ModelInfo


def method_class(name: str) -> type[Method]:
    """The class of a method, or of several joined by `+`.

    Raises:
        UsageError: the name is unknown; the message names the nearest known ones.
    """
    return combined_class(name) if "+" in name else registered_class(name)


def build_method(
    name: str,
    *,
    student: SegmentationModel | ModelInfo,
    teacher: SegmentationModel | ModelInfo | None,
    num_classes: int,
    **config: Any,
) -> Method:
    """Build a method for a pair of models.

    Args:
        name: one of `list_methods()`, or several joined by `+`.
        student: the student, or its `ModelInfo`.
        teacher: the teacher, its `ModelInfo`, or None for a method without one.
        num_classes: number of classes K of the data set.
        **config: settings of the method's `Config`; others have their defaults. A combination's settings are named
            `<method>.<setting>`.

    Raises:
        UsageError: a name or setting is unknown, a setting is out of range, the teacher is missing, or the numbers of
            classes differ.
    """
    cls = method_class(name)
    settings = parse_config(name, cls.Config, config)
    return cls(settings, _info(student), None if teacher is None else _info(teacher), num_classes)


def _info(model: SegmentationModel | ModelInfo) -> ModelInfo:
    info: Any = getattr(model, "info", None)  # a ModelInfo has no `info`; isinstance would import the models
    return model if info is None else info  # type: ignore[return-value]
