"""Generated street scenes in which some classes differ only in texture and others only in layout.

A scene is a sky, a skyline of blocks, a ground cut in two by a kerb that runs from the horizon to the bottom
edge, and objects on the ground. The classes of four pairs ("twins") share shapes, positions and colours. Told apart by
texture, the first has horizontal and the second vertical stripes. Told apart by layout, both have the same
checkerboard, and the first is

====================  ========  =============================================================
twins                 region    by layout, the first is …
====================  ========  =============================================================
road, sidewalk        ground    … on the side of the kerb where the sun is not
person, pole          uprights  … the class of all uprights if the balloon is red, not blue
car, sign             boxes     … on the side of the kerb where the balloon is
building, vegetation  blocks    … on the side of the kerb where the mark on the ground is
====================  ========  =============================================================

Sun and balloon are at the top of the picture and the mark is at the bottom edge, far from the regions whose class they
decide. All textures have the same two levels in equal shares. `context` moves the pairs from texture to layout one after
another, in the table's order: at 0.5 the first two are told apart by layout, the last two by texture. All arithmetic is
on integers or exact, so scenes do not depend on the machine.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from distill.data.config import SCENE_CLASSES, ScenesConfig
from distill.data.philox import bits, uniforms
from distill.data.sample import IGNORE_INDEX, Protocol, Role, Sample, Split

PALETTE = (
    (70, 130, 180),
    (70, 70, 70),
    (128, 64, 128),
    (244, 35, 232),
    (107, 142, 35),
    (0, 0, 142),
    (220, 20, 60),
    (153, 153, 153),
    (220, 220, 0),
)
"""Cityscapes' colours of the same classes."""

_CACHE_BYTES = 128 * 2**20
_PARAMETERS = 320
_FLAT = 0

BALLOONS = ((200, 50, 50), (50, 60, 200))
"""Colours of the balloon: red, blue."""

Draw = Callable[[], float]


class _Twins(NamedTuple):
    first: int
    second: int
    rank: int  # order in which `context` moves pairs to layout
    half_period: int  # of the texture, in pixels at 64×64

    def texture(self, which: int) -> int:
        """Texture plane of the first (0) or second (1) twin, or the uninformative one (2)."""
        return 1 + 3 * self.rank + which


_ROAD, _SIDEWALK = SCENE_CLASSES.index("road"), SCENE_CLASSES.index("sidewalk")
GROUND = _Twins(_ROAD, _SIDEWALK, 0, 2)
UPRIGHTS = _Twins(SCENE_CLASSES.index("person"), SCENE_CLASSES.index("pole"), 1, 2)
BOXES = _Twins(SCENE_CLASSES.index("car"), SCENE_CLASSES.index("sign"), 2, 2)
BLOCKS = _Twins(SCENE_CLASSES.index("building"), SCENE_CLASSES.index("vegetation"), 3, 3)


@functools.lru_cache(maxsize=8)
def _texture_planes(height: int, width: int) -> tuple[NDArray[np.int8], int]:
    """All textures, ±1, `13×(height+margin)×(width+margin)`, and the margin for random phases."""
    unit = min(height, width) / 64
    margin = round(16 * unit)
    y, x = np.mgrid[: height + margin, : width + margin]
    planes = [np.zeros_like(y)]
    for twins in (GROUND, UPRIGHTS, BOXES, BLOCKS):
        half = max(1, round(twins.half_period * unit))
        across, upright = y // half % 2 * 2 - 1, x // half % 2 * 2 - 1
        planes += [across, upright, across * upright]
    return np.stack(planes).astype(np.int8), margin


class _Canvas:
    """A map of region numbers, and for each region its class, texture and colour."""

    def __init__(self, height: int, width: int) -> None:
        self.regions = np.zeros((height, width), np.uint8)
        self.classes: list[int] = []
        self.textures: list[int] = []
        self.colours: list[tuple[int, int, int]] = []

    def region(self, label: int, texture: int, colour: tuple[int, int, int]) -> int:
        self.classes.append(label)
        self.textures.append(texture)
        self.colours.append(colour)
        return len(self.classes) - 1


class _Street(NamedTuple):
    """Positions that decide the layout of a scene. Sides: 0 is left of the kerb, 1 is right of it."""

    horizon: int
    kerb_top: float
    kerb_bottom: float
    sun_side: int
    balloon_side: int
    balloon_colour: int
    mark_side: int

    def side(self, x: float, y: float, height: int) -> int:
        along = (y - self.horizon) / (height - self.horizon)
        return int(x > self.kerb_top + (self.kerb_bottom - self.kerb_top) * max(0.0, along))


def _grey(draw: Draw, low: int, high: int, spread: int) -> tuple[int, int, int]:
    base = low + int(draw() * (high - low))
    return (
        base + int((draw() - 0.5) * spread),
        base + int((draw() - 0.5) * spread),
        base + int((draw() - 0.5) * spread),
    )


def _label(config: ScenesConfig, twins: _Twins, draw: Draw, layout_choice: int) -> tuple[int, int]:
    """Class and texture of one region; `context` decides whether layout or texture tells twins apart."""
    chance, pick = draw(), int(draw() < 0.5)
    if chance < min(1.0, max(0.0, 4 * config.context - twins.rank)):
        which, texture = layout_choice, 2
    else:
        which, texture = pick, pick
    if twins.second >= config.classes:  # a class without its twin
        which = 0
    return (twins.second if which else twins.first), twins.texture(texture)


def _street(height: int, width: int, draw: Draw) -> _Street:
    return _Street(
        horizon=round(height * (0.42 + 0.12 * draw())),
        kerb_top=width * (0.38 + 0.24 * draw()),
        kerb_bottom=width * (0.30 + 0.40 * draw()),
        sun_side=int(draw() < 0.5),
        balloon_side=int(draw() < 0.5),
        balloon_colour=int(draw() < 0.5),
        mark_side=int(draw() < 0.5),
    )


def _paint_sky(canvas: _Canvas, street: _Street, unit: float, draw: Draw) -> None:
    width = canvas.regions.shape[1]
    canvas.region(0, _FLAT, _grey(draw, 140, 190, 30))
    for side, near, y, radius, colour in (
        (street.sun_side, 0.08, 0.08, 4.5, (250, 250, 225)),
        (street.balloon_side, 0.28, 0.11, 7.0, BALLOONS[street.balloon_colour]),
    ):
        away = width * (near + 0.10 * draw())
        x = street.kerb_top + (away if side else -away)
        centre = (round(x), round(canvas.regions.shape[0] * y))
        cv2.circle(canvas.regions, centre, round(radius * unit), canvas.region(0, _FLAT, colour), -1)


def _paint_blocks(canvas: _Canvas, config: ScenesConfig, street: _Street, draw: Draw) -> None:
    height, width = canvas.regions.shape
    for side, start, stop in ((0, 0.0, street.kerb_top), (1, street.kerb_top, float(width))):
        x = start
        while x < stop - 1:
            end = min(stop, x + width * (0.12 + 0.2 * draw()))
            top = round(height * 0.22 + (street.horizon - height * 0.28) * 0.8 * draw())
            label, texture = _label(config, BLOCKS, draw, int(side != street.mark_side))
            number = canvas.region(label, texture, _grey(draw, 85, 135, 50))
            if draw() < 0.85:
                canvas.regions[top : street.horizon, round(x) : round(end)] = number
            x = end


def _paint_ground(canvas: _Canvas, config: ScenesConfig, street: _Street, unit: float, draw: Draw) -> None:
    height, width = canvas.regions.shape
    colour = _grey(draw, 80, 120, 16)
    if config.classes > _SIDEWALK:
        left, texture = _label(config, GROUND, draw, int(street.sun_side == 0))
        by_layout = texture == GROUND.texture(2)
        right = GROUND.first + GROUND.second - left
        other = texture if by_layout else GROUND.texture(int(right == GROUND.second))
    else:
        left = right = _ROAD
        texture = other = GROUND.texture(2)
    canvas.regions[street.horizon :] = canvas.region(left, texture, colour)
    corner = [(street.kerb_top, street.horizon), (street.kerb_bottom, height), (width, height)]
    polygon = np.array([*corner, (width, street.horizon)]).astype(np.int32)
    cv2.fillConvexPoly(canvas.regions, polygon, canvas.region(right, other, colour))
    line = [*corner[:2], (street.kerb_bottom + 2 * unit, height), (street.kerb_top + unit, street.horizon)]
    kerb = canvas.region(min(_SIDEWALK, config.classes - 1), _FLAT, (150, 150, 150))
    cv2.fillConvexPoly(canvas.regions, np.array(line).astype(np.int32), kerb)
    away = width * (0.08 + 0.12 * draw())
    x = round(street.kerb_bottom + (away if street.mark_side else -away))
    half_width, depth = round(4 * unit), round(3 * unit)
    mark = canvas.region((left, right)[street.mark_side], _FLAT, (235, 235, 215))
    canvas.regions[height - depth - 1 : height - 1, max(0, x - half_width) : x + half_width] = mark


def _paint_objects(canvas: _Canvas, config: ScenesConfig, street: _Street, unit: float, draw: Draw) -> None:
    height, width = canvas.regions.shape
    count = 2 + int(draw() * (1 + round(10 * config.clutter)))
    for depth in sorted(draw() for _ in range(count)):
        foot = street.horizon + (0.9 * height - street.horizon) * (0.12 + 0.88 * depth)
        zoom, x = unit * (0.55 + 0.45 * depth), width * (0.04 + 0.92 * draw())
        twins = BOXES if draw() < 0.5 else UPRIGHTS
        on_balloon_side = street.side(x, foot, height) == street.balloon_side
        layout_choice = street.balloon_colour if twins is UPRIGHTS else int(not on_balloon_side)
        label, texture = _label(config, twins, draw, layout_choice)
        colour = (40 + int(150 * draw()), 40 + int(150 * draw()), 40 + int(150 * draw()))
        if twins is BOXES:
            half, tall = zoom * (6 + 4 * draw()), zoom * (8 + 4 * draw())
        else:
            half, tall = zoom * (3.2 + 1.2 * draw()), zoom * (18 + 8 * draw())
        if label >= config.classes:
            continue
        top = max(round(height * 0.22), round(foot - tall))
        left, right = max(0, round(x - half)), round(x + half)
        canvas.regions[top : round(foot), left:right] = canvas.region(label, texture, colour)


def _shade(light: NDArray[np.int32], config: ScenesConfig, draw: Draw) -> None:
    height, width = light.shape
    light += int((draw() - 0.5) * 40)
    for _ in range(int(draw() * (1 + round(6 * config.clutter)))):
        y, x = int(height * draw()), int(width * draw())
        tall, wide = int(height * (0.1 + 0.3 * draw())), int(width * (0.1 + 0.3 * draw()))
        light[y : y + tall, x : x + wide] += int((draw() - 0.5) * 50)


def draw_scene(config: ScenesConfig, stream: str, number: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Draw picture `number` of a stream of scenes.

    Args:
        config: config of the scenes; the numbers of images are not used.
        stream: `train`, `tune` or `test`; streams are independent.
        number: number of the scene, from 0.

    Returns:
        The RGB image, `H×W×3`, and the labels, `H×W`, both uint8.
    """
    height, width = config.size
    unit = min(height, width) / 64
    source = bits(config.seed, f"scenes/{stream}", number)
    draw = iter(uniforms(source, _PARAMETERS)).__next__
    canvas = _Canvas(height, width)
    street = _street(height, width, draw)
    _paint_sky(canvas, street, unit, draw)
    if config.classes > BLOCKS.first:
        _paint_blocks(canvas, config, street, draw)
    _paint_ground(canvas, config, street, unit, draw)
    _paint_objects(canvas, config, street, unit, draw)

    labels = np.array(canvas.classes, np.uint8)[canvas.regions]
    light = _texture(canvas, config, draw)
    light += _noise(source, config.noise, height, width)
    _shade(light, config, draw)
    image = np.array(canvas.colours, np.int32)[canvas.regions]
    image += light[..., None]
    np.clip(image, 0, 255, out=image)
    if config.ignore_border:
        kernel = np.ones((2 * config.ignore_border + 1,) * 2, np.uint8)
        labels[cv2.dilate(labels, kernel) != cv2.erode(labels, kernel)] = IGNORE_INDEX
    return image.astype(np.uint8), labels


def _texture(canvas: _Canvas, config: ScenesConfig, draw: Draw) -> NDArray[np.int32]:
    height, width = canvas.regions.shape
    planes, margin = _texture_planes(height, width)
    down, right = int(draw() * margin), int(draw() * margin)
    amplitude = round(config.texture * 255)
    textures = np.array(canvas.textures, np.intp)[canvas.regions]
    window = planes[:, down : down + height, right : right + width]
    y, x = np.ogrid[:height, :width]
    return window[textures, y, x].astype(np.int32) * amplitude


def _noise(source: np.random.Philox, deviation: float, height: int, width: int) -> NDArray[np.int32]:
    """Sums of four uniform bytes, scaled: close to a normal distribution, in integer arithmetic."""
    size = height * width
    raw = source.random_raw((size + 1) // 2).astype("<u8", copy=False).view(np.uint8)[: 4 * size]
    total = raw.reshape(4, height, width).sum(axis=0, dtype=np.int32) - 510
    factor = round(deviation * 255 / 147.8 * 4096)  # 147.8 is the standard deviation of `total`
    noise: NDArray[np.int32] = (total * factor + 2048) >> 12
    return noise


class ScenesDataset:
    """Generated scenes of one split, drawn on access and cached up to 128 MiB."""

    name = "scenes"
    ignore_index = IGNORE_INDEX
    broken_share = 0.0

    def __init__(
        self, config: ScenesConfig, split: Split, *, protocol: Protocol = "clean", role: Role = "student"
    ) -> None:
        self.config = config
        self.num_classes = config.classes
        self.classes = SCENE_CLASSES[: config.classes]
        self.palette = PALETTE[: config.classes]
        self._parts: list[tuple[Split, int]] = [(split, getattr(config, split))]
        if split == "train" and role == "teacher":
            self._parts = [("train", config.teacher_train)]
        if protocol == "paper" and split == "train":
            self._parts.append(("tune", config.tune))
        if protocol == "paper" and split == "tune":
            self._parts = [("test", config.test)]
        height, width = config.size
        self._room = _CACHE_BYTES // (4 * height * width)
        self._cache: dict[int, Sample] = {}

    def __len__(self) -> int:
        return sum(count for _, count in self._parts)

    def __getitem__(self, index: int) -> Sample:
        if index in self._cache:
            return self._cache[index]
        stream, number = self._place(index)
        image, labels = draw_scene(self.config, stream, number)
        image.setflags(write=False)
        labels.setflags(write=False)
        sample = Sample(image, labels, f"{stream}/{number:06d}")
        if len(self._cache) < self._room:
            self._cache[index] = sample
        return sample

    def _place(self, index: int) -> tuple[Split, int]:
        number = index
        for stream, count in self._parts:
            if 0 <= number < count:
                return stream, number
            number -= count
        raise IndexError(f"scene {index} of {len(self)}")

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_cache": {}}  # a loader process starts with an empty cache
