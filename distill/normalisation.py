"""Normalises pictures for networks: with ImageNet's statistics, and from those to a network's own."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

Triple = tuple[float, float, float]


class Normalisation(NamedTuple):
    """What is subtracted from the channels of RGB in [0, 1], and what they are then divided by."""

    mean: Triple
    std: Triple


def normalisation_of(values: Sequence[Sequence[float]]) -> Normalisation:
    """Mean and standard deviation from a file or a setting.

    Raises:
        ValueError: they are not two times three numbers.
    """
    (red, green, blue), (red_std, green_std, blue_std) = values
    return Normalisation((red, green, blue), (red_std, green_std, blue_std))


IMAGENET = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def normalise(images_b3hw: Tensor, mean: Triple = IMAGENET.mean, std: Triple = IMAGENET.std) -> Tensor:
    """Normalise RGB bytes to the float32 input of a network, with ImageNet's statistics by default.

    Runs on the images' device, so that only bytes are transferred to it.
    """
    mean_311, deviation_311 = (_by_channel(values, images_b3hw.device) for values in (mean, std))
    return images_b3hw.contiguous().float().div_(255).sub_(mean_311).div_(deviation_311)


def renormalise(images_b3hw: Tensor, own: Normalisation) -> Tensor:
    """Images that are normalised with ImageNet's statistics, normalised with a network's own instead."""
    if own == IMAGENET:
        return images_b3hw
    scale_311, shift_311 = (_by_channel(values, images_b3hw.device) for values in _scale_and_shift(own))
    return images_b3hw * scale_311 + shift_311


@cache
def _scale_and_shift(own: Normalisation) -> tuple[Triple, Triple]:
    """Factor and summand of each channel, from ImageNet's normalisation to another one."""
    mean, std, theirs = (np.asarray(values, np.float32) for values in (*own, IMAGENET.std))
    shift = (np.asarray(IMAGENET.mean, np.float32) - mean) / std
    return tuple((theirs / std).tolist()), tuple(shift.tolist())


def _by_channel(values: Triple, device: torch.device) -> Tensor:
    """The values as `3×1×1`, created on the device: copying them there would synchronise."""
    return torch.cat([torch.full((1, 1, 1), value, device=device) for value in values])
