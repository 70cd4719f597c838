"""Random views of pictures by albumentations, with an explicit random generator.

albumentations 2.0.8 ignores global seeds, and `Compose.set_random_seed` gives every transform a generator of the same
seed, so zoom, position and flip would use the same numbers. Here all transforms of a view share one generator, which
is keyed by (seed, sample number).
"""

from __future__ import annotations

import os
import random
from typing import Any, NamedTuple

os.environ.setdefault(
    "NO_ALBUMENTATIONS_UPDATE", "1"
)  # otherwise the import asks a server for the newest version

import albumentations as A
import cv2
import numpy as np
from numpy.typing import NDArray

from distill.data.config import AugmentationConfig
from distill.data.philox import bits
from distill.data.sample import IGNORE_INDEX

PAD_COLOUR = (124, 116, 104)
"""ImageNet's mean colour, which is 0 after normalisation: the colour of padding."""

PLACES = 10
"""Maximum number of positions tried for a view that respects `max_class_share`."""


class _Window(NamedTuple):
    """A rectangle in the picture's coordinates; it may extend beyond the picture."""

    top: int
    left: int
    height: int
    width: int

    def inside(self, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The part of the picture inside the window, as a view."""
        return picture[
            max(0, self.top) : max(0, self.top + self.height),
            max(0, self.left) : max(0, self.left + self.width),
        ]


class _ZoomedCrop(A.DualTransform):  # type: ignore[misc]
    """Scales by a uniform random factor, pads to the crop's size with ignored pixels, and crops at random.

    The window is cut out first, then padded and resized. The view is the same as after padding and resizing the whole
    picture, but only the window is processed.
    """

    def __init__(self, size: tuple[int, int], scale: tuple[float, float], max_class_share: float) -> None:
        super().__init__(p=1.0)
        self.size, self.scale, self.max_class_share = size, scale, max_class_share

    def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
        zoom = self.scale[0] + (self.scale[1] - self.scale[0]) * self.py_random.random()
        size = tuple(max(1, round(side / zoom)) for side in self.size)
        for _ in range(PLACES):
            window = self._place(params["shape"][:2], size)
            if self.max_class_share >= 1 or self._is_mixed(window.inside(data["mask"])):
                break
        return {"window": window}

    def _place(self, picture: tuple[int, int], size: tuple[int, ...]) -> _Window:
        pads = [max(0, target - length) for target, length in zip(size, picture, strict=True)]
        before = [int(self.py_random.random() * (pad + 1)) for pad in pads]
        top, left = (
            int(self.py_random.random() * (length + pad - target + 1)) - ahead
            for length, pad, target, ahead in zip(picture, pads, size, before, strict=True)
        )
        return _Window(top, left, *size)

    def _is_mixed(self, labels_hw: NDArray[np.uint8]) -> bool:
        counts = np.bincount(labels_hw.ravel(), minlength=IGNORE_INDEX + 1)[:IGNORE_INDEX]
        return bool(0 < counts.max() <= self.max_class_share * counts.sum())

    def _view(
        self, picture: NDArray[np.uint8], window: _Window, fill: Any, interpolation: int
    ) -> NDArray[np.uint8]:
        view = window.inside(picture)
        above, before = max(0, -window.top), max(0, -window.left)
        below, after = window.height - above - view.shape[0], window.width - before - view.shape[1]
        if above or below or before or after:
            padded = cv2.copyMakeBorder(view, above, below, before, after, cv2.BORDER_CONSTANT, value=fill)
            view = np.asarray(padded, np.uint8)
        return np.asarray(cv2.resize(view, self.size[::-1], interpolation=interpolation), np.uint8)

    def apply(self, img: NDArray[np.uint8], window: _Window, **params: Any) -> NDArray[np.uint8]:
        return self._view(img, window, PAD_COLOUR, cv2.INTER_LINEAR)

    def apply_to_mask(self, mask: NDArray[np.uint8], window: _Window, **params: Any) -> NDArray[np.uint8]:
        return self._view(mask, window, IGNORE_INDEX, cv2.INTER_NEAREST)


class Augmentation:
    """Creates views of pictures; a view is a pure function of picture, config, seed and sample number."""

    def __init__(self, config: AugmentationConfig, seed: int) -> None:
        self.config = config
        self.seed = seed
        transforms: list[A.BasicTransform] = [_ZoomedCrop(config.crop, config.scale, config.max_class_share)]
        if config.flip:
            transforms.append(A.HorizontalFlip(p=0.5))
        if config.colour:
            jitter = config.colour
            transforms.append(A.ColorJitter(jitter, jitter, jitter, jitter / 4, p=1.0))
        self._views = A.Compose(transforms)

    def __call__(
        self, image_hw3: NDArray[np.uint8], labels_hw: NDArray[np.uint8], number: int
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """View `number` of the stream: image `h×w×3` and labels `h×w` of the crop's size."""
        source = bits(self.seed, "views", number)
        python_source = random.Random(int(source.random_raw()))
        self._views.set_random_state(np.random.Generator(source), python_source)
        view = self._views(image=image_hw3, mask=labels_hw)
        return view["image"], view["mask"]
