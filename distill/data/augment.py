"""Random views of pictures, drawn by albumentations from an explicit stream of bits.

albumentations 2.0.8 ignores the global seeds, and `Compose.set_random_seed` gives every transform a generator
of the same seed, so that zoom, place and flip would be drawn from the same number. Here one generator per
picture, keyed by (seed, sample number), is handed to all transforms in turn.
"""

from __future__ import annotations

import os
import random
from typing import Any

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # or importing it asks a server for its newest version

import albumentations as A
import cv2
import numpy as np
from albumentations.augmentations.crops import functional as crops
from albumentations.augmentations.geometric import functional as geometry
from numpy.typing import NDArray

from distill.data.config import AugmentationConfig
from distill.data.dataset import IGNORE_INDEX
from distill.data.randomness import bits

PAD_COLOUR = (124, 116, 104)
"""ImageNet's mean colour: what lies outside the picture is 0 to the network."""


class _ZoomedCrop(A.DualTransform):  # type: ignore[misc]
    """Scale by a factor drawn uniformly, pad to the crop's size with ignored pixels, crop at random.

    The window is cut out of the source first and then resized, which gives the same views as resizing the
    whole picture, at the cost of the window alone.
    """

    def __init__(self, size: tuple[int, int], scale: tuple[float, float]) -> None:
        super().__init__(p=1.0)
        self.size, self.scale = size, scale

    def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
        height, width = params["shape"][:2]
        zoom = self.scale[0] + (self.scale[1] - self.scale[0]) * self.py_random.random()
        tall, wide = (max(1, round(side / zoom)) for side in self.size)
        pad_height, pad_width = max(0, tall - height), max(0, wide - width)
        above, before = (int(self.py_random.random() * (pad + 1)) for pad in (pad_height, pad_width))
        top = int(self.py_random.random() * (height + pad_height - tall + 1))
        left = int(self.py_random.random() * (width + pad_width - wide + 1))
        return {
            "pads": (above, pad_height - above, before, pad_width - before),
            "window": (left, top, left + wide, top + tall),
        }

    def _view(
        self, picture: NDArray[np.uint8], pads: Any, window: Any, fill: Any, interpolation: int
    ) -> NDArray[np.uint8]:
        if any(pads):
            picture = geometry.pad_with_params(picture, *pads, border_mode=cv2.BORDER_CONSTANT, value=fill)
        view = crops.crop(picture, *window)
        view = geometry.resize(view, self.size, interpolation=interpolation)
        return np.ascontiguousarray(view)

    def apply(self, img: NDArray[np.uint8], pads: Any, window: Any, **params: Any) -> NDArray[np.uint8]:
        return self._view(img, pads, window, PAD_COLOUR, cv2.INTER_LINEAR)

    def apply_to_mask(
        self, mask: NDArray[np.uint8], pads: Any, window: Any, **params: Any
    ) -> NDArray[np.uint8]:
        return self._view(mask, pads, window, IGNORE_INDEX, cv2.INTER_NEAREST)


class Augmentation:
    """Views of pictures: a pure function of picture, config, seed and sample number."""

    def __init__(self, config: AugmentationConfig, seed: int) -> None:
        self.config = config
        self.seed = seed
        transforms: list[A.BasicTransform] = [_ZoomedCrop(config.crop, config.scale)]
        if config.flip:
            transforms.append(A.HorizontalFlip(p=0.5))
        if config.colour:
            jitter = config.colour
            transforms.append(A.ColorJitter(jitter, jitter, jitter, jitter / 4, p=1.0))
        self._views = A.Compose(transforms)

    def __call__(
        self, image_hw3: NDArray[np.uint8], labels_hw: NDArray[np.uint8], number: int
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """View `number` of the stream: image `h×w×3` and labels `h×w`, both of the crop's size."""
        source = bits(self.seed, "views", number)
        python_source = random.Random(int(source.random_raw()))
        self._views.set_random_state(np.random.Generator(source), python_source)
        view = self._views(image=image_hw3, mask=labels_hw)
        return view["image"], view["mask"]
