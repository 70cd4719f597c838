"""Finds methods whose own BatchNorm cannot be trained on one picture at a time, without training them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from distill.methods.factory import build_method
from distill.models.model import build_model
from distill.models.output import ModelInfo, Output
from distill.models.single_values import TORCH_REFUSES

Named = tuple[str, Mapping[str, Any]]
"""A model: `head-backbone`, and keyword arguments of `build_model`."""


def method_normalises_one_value(
    method: str,
    settings: Mapping[str, Any],
    student: Named,
    teacher: Named | None,
    num_classes: int,
    crop: tuple[int, int],
) -> bool:
    """Whether a BatchNorm of a method sees one value per channel when it trains on one picture.

    This happens if a model's map of the crop is one pixel. The models run on the meta device. The method runs on empty maps,
    which are small in that case.

    Args:
        method: its name, or several joined by `+`.
        settings: settings of the method.
        student: the student.
        teacher: the teacher; None if its network is not known by its name. The method then gets the student's maps in its
            place.
        num_classes: number of classes K.
        crop: height and width of the picture.
    """
    try:
        student_info, student_maps = _maps(student, num_classes, crop)
        teacher_info, teacher_maps = (
            _maps(teacher, num_classes, crop) if teacher else (student_info, student_maps)
        )
        maps = [*student_maps.stages, student_maps.fused, *teacher_maps.stages, teacher_maps.fused]
        if not any(one.shape[-2:] == (1, 1) for one in maps):
            return False
        labels = torch.zeros((1, *crop), dtype=torch.int64)
        built = build_method(
            method, student=student_info, teacher=teacher_info, num_classes=num_classes, **settings
        ).train()
        if not any(isinstance(layer, _BatchNorm) for layer in built.modules()):
            return False
        if built.preparation is not None:
            built.use_prepared(built.prepare([(teacher_maps, labels)]))
        built(student_maps, teacher_maps, labels)
    except ValueError as error:
        return TORCH_REFUSES in str(error)
    except Exception:  # the training itself reports what else it cannot do
        return False
    return False


def _maps(model: Named, num_classes: int, crop: tuple[int, int]) -> tuple[ModelInfo, Output]:
    """A model's shapes, and the maps of one picture, filled with zeros."""
    name, options = model
    with torch.device("meta"), torch.no_grad():
        network = build_model(name, num_classes, **{**options, "pretrained": False}).eval()
        found = network(torch.empty(1, 3, *crop))

    def zeros(map_bchw: Tensor) -> Tensor:
        return torch.zeros(map_bchw.shape)

    first, second, third, fourth = map(zeros, found.stages)
    return network.info, Output((first, second, third, fourth), zeros(found.fused), zeros(found.logits))
