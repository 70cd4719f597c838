"""Finds models that cannot be trained on one picture at a time, without training them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from distill.models.model import build_model

TORCH_REFUSES = "Expected more than 1 value per channel"
"""Part of the message of torch's BatchNorm on one value."""


def normalises_one_value(name: str, options: Mapping[str, Any], height: int, width: int) -> bool:
    """Whether a BatchNorm of a model sees one value per channel when it trains on one picture.

    Pooling to one cell is the usual cause: the image branch of DeepLabV3, the pyramids of PSPNet and UPerNet. The model runs
    on the meta device, so nothing is computed or loaded.

    Args:
        name: `head-backbone`.
        options: keyword arguments of `build_model`.
        height: of the picture.
        width: of the picture.
    """
    try:
        with torch.device("meta"):
            model = build_model(name, 2, **{**options, "pretrained": False}).train()
            with torch.no_grad():
                model(torch.empty(1, 3, height, width))
    except ValueError as error:
        return TORCH_REFUSES in str(error)
    except (
        Exception
    ):  # not every network runs on the meta device; the training itself reports what it cannot do
        return False
    return False
