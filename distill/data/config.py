"""What a data set and its augmentation are, as configs. Imports pydantic and nothing slower."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

SCENE_CLASSES = (
    "sky",
    "building",
    "road",
    "sidewalk",
    "vegetation",
    "car",
    "person",
    "pole",
    "sign",
)
"""Classes of generated scenes; a config with fewer takes the first ones."""


class _Config(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ScenesConfig(_Config):
    """Generated street scenes: drawn on the fly, the same pixels on every machine.

    Building and vegetation, road and sidewalk, car and sign, person and pole are twins: same shapes, same
    places, same mean colours. What tells one twin from the other is a local texture or a mark far away in
    the picture, in the proportion that `context` sets (see `distill.data.scenes`).
    """

    kind: Literal["scenes"] = "scenes"
    size: tuple[int, int] = Field(
        (64, 64), description="height and width in pixels; one number means a square; at least 32"
    )
    classes: int = Field(9, ge=3, le=len(SCENE_CLASSES), description="how many classes, sky first")
    train: int = Field(240, ge=1, description="labelled images the student trains on")
    teacher_train: int = Field(
        4000, ge=1, description="labelled images the teacher trains on; the student's are the first of them"
    )
    tune: int = Field(200, ge=1, description="images the search is scored on")
    test: int = Field(500, ge=1, description="images the final runs are scored on")
    seed: int = Field(0, ge=0, lt=2**63, description="another seed, other scenes")
    context: float = Field(
        0.5, ge=0, le=1, description="share of the twins told apart by far context instead of local texture"
    )
    texture: float = Field(0.1, ge=0, le=0.5, description="amplitude of the textures, as a share of white")
    noise: float = Field(
        0.06, ge=0, le=0.5, description="standard deviation of the noise, as a share of white"
    )
    clutter: float = Field(0.5, ge=0, le=1, description="how many objects and shadows stand in a scene")
    ignore_border: int = Field(
        0, ge=0, le=8, description="ignored pixels on either side of a border between regions of two classes"
    )

    @property
    def class_count(self) -> int:
        """Number of classes K."""
        return self.classes

    @property
    def scored_images(self) -> int:
        """Images on which a final run is scored, tune and test together."""
        return self.tune + self.test

    @field_validator("size", mode="before")
    @classmethod
    def _square(cls, size: object) -> object:
        return (size, size) if isinstance(size, int) else size

    @field_validator("size")
    @classmethod
    def _large_enough(cls, size: tuple[int, int]) -> tuple[int, int]:
        if min(size) < 32 or max(size) > 4096:
            raise ValueError(f"size is {size[0]}×{size[1]}, each side must be from 32 to 4096 pixels")
        return size


class CityscapesConfig(_Config):
    """Cityscapes, read from disk as it is unpacked: `leftImg8bit/` and `gtFine/` under one root."""

    kind: Literal["cityscapes"] = "cityscapes"
    root: Path = Field(description="the folder that holds leftImg8bit/ and gtFine/")
    tune_cities: tuple[str, ...] | None = Field(
        None, description="train cities held out as tune split; by default drawn by tune_seed"
    )
    tune_share: float = Field(
        0.1, gt=0, lt=1, description="share of the train images that the drawn tune cities hold at most"
    )
    tune_seed: int = Field(0, ge=0, lt=2**63, description="which cities are drawn")
    student_images: int | None = Field(
        None, ge=1, description="labelled images the student has, drawn by tune_seed; the teacher has all"
    )

    @property
    def class_count(self) -> int:
        """Number of classes K."""
        return 19

    @property
    def scored_images(self) -> int:
        """Images on which a final run is scored, tune and test together, about."""
        return 500 + round(2975 * self.tune_share)


class AugmentationConfig(_Config):
    """One random view of a picture: scale, pad with ignored pixels, crop, flip, colour."""

    crop: tuple[int, int] = Field(
        (64, 64), description="height and width of the view in pixels; one number means a square"
    )
    scale: tuple[float, float] = Field((0.5, 2.0), description="smallest and largest zoom, drawn uniformly")
    flip: bool = Field(True, description="mirror left and right, half of the time")
    colour: float = Field(
        0.0, ge=0, le=1, description="jitter of brightness, contrast and saturation; the hue gets a quarter"
    )

    @field_validator("crop", mode="before")
    @classmethod
    def _square(cls, crop: object) -> object:
        return (crop, crop) if isinstance(crop, int) else crop

    @field_validator("crop")
    @classmethod
    def _positive(cls, crop: tuple[int, int]) -> tuple[int, int]:
        if min(crop) < 1:
            raise ValueError(f"crop is {crop[0]}×{crop[1]}, each side must be at least 1 pixel")
        return crop

    @field_validator("scale")
    @classmethod
    def _ordered(cls, scale: tuple[float, float]) -> tuple[float, float]:
        low, high = scale
        if not 0.05 <= low <= high <= 20:
            raise ValueError(f"scale is ({low}, {high}), must be 0.05 ≤ smallest ≤ largest ≤ 20")
        return scale


DataConfig = Annotated[ScenesConfig | CityscapesConfig, Field(discriminator="kind")]
