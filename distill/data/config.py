"""Configs of data sets and augmentation. Imports nothing slower than pydantic."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from distill.data.class_table import read_class_table
from distill.data.roots import Root, as_root
from distill.data.text_files import count_lines
from distill.errors import is_plain

SCENE_CLASSES = ("sky", "building", "road", "sidewalk", "vegetation", "car", "person", "pole", "sign")
"""Classes of generated scenes; a config with K classes uses the first K."""


MOST_CLASSES = 254
"""Labels are bytes: 255 is ignored, and one value marks invalid labels."""

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp", ".bmp")
"""Suffixes of pictures in folders, in upper or lower case; the content decides the format."""

MOST_IMAGES = 10**7
"""Maximum number of images of a generated split."""

Level = Annotated[int, Field(ge=0, le=255)]
"""Value of a byte."""


class _Config(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ScenesConfig(_Config):
    """Generated street scenes: drawn on the fly, with the same pixels on every machine.

    Building and vegetation, road and sidewalk, car and sign, person and pole are twins: same shapes, same
    places, same mean colours. They differ in a local texture or in a distant mark of the picture; `context` is the share of
    the latter (see `distill.data.scenes`).
    """

    kind: Literal["scenes"] = "scenes"
    size: tuple[int, int] = Field(
        (64, 64), description="height and width in pixels; one number means a square; at least 32"
    )
    classes: int = Field(9, ge=3, le=len(SCENE_CLASSES), description="how many classes, sky first")
    train: int = Field(240, ge=1, le=MOST_IMAGES, description="labelled images the student trains on")
    teacher_train: int = Field(
        4000,
        ge=1,
        le=MOST_IMAGES,
        description="labelled images the teacher trains on; the student's are the first of them",
    )
    tune: int = Field(200, ge=1, le=MOST_IMAGES, description="images the search is scored on")
    test: int = Field(500, ge=1, le=MOST_IMAGES, description="images the final runs are scored on")
    seed: int = Field(0, ge=0, lt=2**63, description="another seed, other scenes")
    context: float = Field(
        0.5, ge=0, le=1, description="share of the twins told apart by far context instead of local texture"
    )
    texture: float = Field(0.1, ge=0, le=0.5, description="amplitude of the textures, as a share of white")
    noise: float = Field(
        0.06, ge=0, le=0.5, description="standard deviation of the noise, as a share of white"
    )
    clutter: float = Field(0.5, ge=0, le=1, description="amount of objects and shadows in a scene")
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


class DiskConfig(_Config):
    """A data set read from a folder or bucket as its publisher packs it; nothing else is ever downloaded."""

    kind: str
    root: Root = Field(description="the folder that holds the data set, or its address: s3://…, gs://…")
    student_images: int | None = Field(
        None, ge=1, description="labelled images the student has, drawn by tune_seed; the teacher has all"
    )
    tune_seed: int = Field(0, ge=0, lt=2**63, description="which train images are drawn, for tune or student")
    broken_share: float = Field(
        0.001,
        ge=0,
        lt=1,
        description="share of the train images that may be unreadable: skipped and reported",
    )

    @property
    def class_count(self) -> int:
        """Number of classes K."""
        raise NotImplementedError

    @property
    def scored_images(self) -> int:
        """Approximate number of images on which a final run is scored, tune and test together."""
        raise NotImplementedError


class CutConfig(DiskConfig):
    """A data set without a published tune split: one is taken out of train."""

    tune_share: float = Field(
        0.1, gt=0, lt=1, description="share of the train images held out as tune split, at most"
    )


class CityscapesConfig(CutConfig):
    """Cityscapes as unpacked: `leftImg8bit/` and `gtFine/` under one root."""

    kind: Literal["cityscapes"] = "cityscapes"
    tune_cities: tuple[str, ...] | None = Field(
        None, description="train cities held out as tune split; by default drawn by tune_seed"
    )

    @property
    def class_count(self) -> int:
        """Number of classes K."""
        return 19

    @property
    def scored_images(self) -> int:
        """Approximate number of images on which a final run is scored, tune and test together."""
        return 500 + round(2975 * self.tune_share)


class VocConfig(CutConfig):
    """Pascal VOC 2012 with the labels of SBD: `JPEGImages/`, `SegmentationClassAug/` … under one root."""

    kind: Literal["voc"] = "voc"
    train_labels: Literal["SegmentationClassAug", "SegmentationClass"] = Field(
        "SegmentationClassAug", description="folder of the train labels: 10582 pictures, or VOC's own 1464"
    )

    @property
    def class_count(self) -> int:
        """Number of classes K, the background among them."""
        return 21

    @property
    def scored_images(self) -> int:
        """Approximate number of images on which a final run is scored, tune and test together."""
        return 1449 + round((10582 if self.train_labels.endswith("Aug") else 1464) * self.tune_share)


class Ade20kConfig(CutConfig):
    """ADE20K, the scene parsing benchmark of 150 classes: `images/` and `annotations/` under one root."""

    kind: Literal["ade20k"] = "ade20k"

    @property
    def class_count(self) -> int:
        """Number of classes K."""
        return 150

    @property
    def scored_images(self) -> int:
        """Approximate number of images on which a final run is scored, tune and test together."""
        return 2000 + round(20210 * self.tune_share)


class CamVidConfig(DiskConfig):
    """CamVid in 11 classes: `train/`, `trainannot/`, `val/` … under one root. Its own val set is the tune split."""

    kind: Literal["camvid"] = "camvid"

    @property
    def class_count(self) -> int:
        """Number of classes K."""
        return 11

    @property
    def scored_images(self) -> int:
        """Approximate number of images on which a final run is scored, tune and test together."""
        return 101 + 233


class CocoStuffConfig(CutConfig):
    """COCO-Stuff 164k: `images/{train2017,val2017}` and `annotations/{train2017,val2017}` under one root."""

    kind: Literal["cocostuff"] = "cocostuff"
    tune_share: float = Field(
        0.04, gt=0, lt=1, description="share of the train images held out as tune split, at most"
    )

    @property
    def class_count(self) -> int:
        """Number of classes K."""
        return 171

    @property
    def scored_images(self) -> int:
        """Approximate number of images on which a final run is scored, tune and test together."""
        return 5000 + round(118287 * self.tune_share)


class FolderClass(_Config):
    """A class of a `folder` data set: its value in the masks, its name, and its colour in drawings."""

    value: int = Field(ge=0, le=255, description="the value of its pixels in the masks")
    name: str = Field(min_length=1, max_length=100, description="the class on the board")
    colour: tuple[Level, Level, Level] | None = Field(
        None, description="red, green, blue; one is made by default"
    )

    @field_validator("name")
    @classmethod
    def _shown(cls, name: str) -> str:
        if "\n" in name or not all(map(is_plain, name)):
            raise ValueError(
                f"name {name!r} holds a control character, must be one line of text that can be shown"
            )
        return name


class FolderConfig(CutConfig):
    """Pictures of your own: a folder of images, one of masks, a table of classes, and lists of names."""

    kind: Literal["folder"] = "folder"
    images: str = Field("images", description="folder of the pictures, below root")
    masks: str = Field("masks", description="folder of the masks (8-bit PNG), below root")
    classes: tuple[FolderClass, ...] = Field(
        description="names in the order of the values 0, 1, …; or {value: name}; or a CSV file below root "
        "with the columns value, name and, if you like, red, green, blue"
    )
    image_suffix: str | None = Field(
        None,
        exclude_if=lambda suffix: suffix is None,  # keeps plan hashes from before this setting existed
        description="end of the pictures' names, such as _rgb.png; by default .jpg, .png, .tif and other kinds",
    )
    mask_suffix: str = Field(
        ".png",
        exclude_if=lambda suffix: suffix == ".png",
        description="end of the masks' names, such as _mask.png; what is before it is the picture's name",
    )
    ignored: tuple[Level, ...] = Field(
        (255,), max_length=256, description="values in the masks that count neither in a loss nor in a score"
    )
    train: str = Field("train.txt", description="list of the train pictures, a name a line, below root")
    tune: str | None = Field(None, description="list of the tune pictures; by default cut out of train")
    test: str = Field("test.txt", description="list of the test pictures")
    group: str | None = Field(
        None, description="regular expression; pictures whose names match it alike are held out together"
    )

    @property
    def class_count(self) -> int:
        """Number of classes K."""
        return len(self.classes)

    @property
    def scored_images(self) -> int:
        """Images on which a final run is scored, tune and test together; read from the lists."""
        if self.tune is not None:
            return count_lines(self.root / self.tune) + count_lines(self.root / self.test)
        return count_lines(self.root / self.test) + round(
            count_lines(self.root / self.train) * self.tune_share
        )

    @model_validator(mode="before")
    @classmethod
    def _class_table(cls, data: object) -> object:
        """Put the classes into the config, however they were written, because results depend on them."""
        if not isinstance(data, dict):
            return data
        written = data.get("classes")
        if isinstance(written, str) and "root" in data:
            try:
                root = as_root(data["root"])
            except ValueError as error:
                raise ValueError(f"root {error}") from None
            return {**data, "root": root, "classes": read_class_table(root / written)}
        if isinstance(written, dict):
            if written and all(isinstance(k, str) and isinstance(v, int) for k, v in written.items()):
                name, value = next(iter(written.items()))
                raise ValueError(
                    f"classes are written name: value, must be value: name; write {{{value}: {name}, …}}"
                )
            return {**data, "classes": [{"value": value, "name": name} for value, name in written.items()]}
        if isinstance(written, (list, tuple)) and not any(
            isinstance(c, (dict, FolderClass)) for c in written
        ):
            return {**data, "classes": [{"value": value, "name": name} for value, name in enumerate(written)]}
        return data

    @model_validator(mode="after")
    def _classes_differ(self) -> Self:
        if not 2 <= len(self.classes) <= MOST_CLASSES:
            raise ValueError(f"classes are {len(self.classes)}, must be from 2 to {MOST_CLASSES}")
        for what in ("value", "name"):
            values = [getattr(label, what) for label in self.classes]
            if twice := [value for value in values if values.count(value) > 1]:
                raise ValueError(f"{what} {twice[0]!r} occurs twice in classes, must be unique")
        if both := sorted({label.value for label in self.classes} & set(self.ignored)):
            left = [value for value in self.ignored if value not in both]
            raise ValueError(
                f"value {both[0]} is a class and ignored, must be one of them; set ignored to {left}"
            )
        return self

    @field_validator("image_suffix", "mask_suffix")
    @classmethod
    def _is_image(cls, suffix: str | None, info: ValidationInfo) -> str | None:
        kinds = (".png",) if info.field_name == "mask_suffix" else PICTURE_SUFFIXES
        if suffix is not None and not suffix.lower().endswith(kinds):
            raise ValueError(f"must end in {' or '.join(kinds)}")
        return suffix

    @field_validator("group")
    @classmethod
    def _group_compiles(cls, group: str | None) -> str | None:
        try:
            re.compile(group or "")
        except re.error as error:
            raise ValueError(f"must be a regular expression ({error})") from None
        return group


class AugmentationConfig(_Config):
    """One random view of a picture: scale, pad with ignored pixels, crop, flip, colour."""

    crop: tuple[int, int] = Field(
        (64, 64), description="height and width of the view in pixels; one number means a square"
    )
    scale: tuple[float, float] = Field((0.5, 2.0), description="smallest and largest zoom, drawn uniformly")
    flip: bool = Field(True, description="mirror left and right, half of the time")
    max_class_share: float = Field(
        1.0,
        gt=0,
        le=1,
        description="largest share of one class among a view's labelled pixels; up to "
        "ten places are tried for it (0.75 is common); 1 takes the first",
    )
    colour: float = Field(
        0.0, ge=0, le=1, description="jitter of brightness, contrast and saturation; the hue gets a quarter"
    )
    views: int | None = Field(
        None,
        ge=1,
        le=10**6,
        exclude_if=lambda views: views is None,  # keeps recipe hashes from before this setting existed
        description="different views of each picture in a stream, which then shows the same batches again in another "
        "order; by default every view is a new one",
    )

    @field_validator("crop", mode="before")
    @classmethod
    def _square(cls, crop: object) -> object:
        return (crop, crop) if isinstance(crop, int) else crop

    @field_validator("crop")
    @classmethod
    def _positive(cls, crop: tuple[int, int]) -> tuple[int, int]:
        if min(crop) < 1 or max(crop) > 16_384:
            raise ValueError(f"crop is {crop[0]}×{crop[1]}, each side must be from 1 to 16384 pixels")
        return crop

    @field_validator("scale")
    @classmethod
    def _ordered(cls, scale: tuple[float, float]) -> tuple[float, float]:
        low, high = scale
        if not 0.05 <= low <= high <= 20:
            raise ValueError(f"scale is ({low}, {high}), must be 0.05 ≤ smallest ≤ largest ≤ 20")
        return scale


AnyDataConfig = (
    ScenesConfig | CityscapesConfig | VocConfig | Ade20kConfig | CamVidConfig | CocoStuffConfig | FolderConfig
)
DataConfig = Annotated[AnyDataConfig, Field(discriminator="kind")]
KINDS: dict[Any, type[AnyDataConfig]] = {
    config.model_fields["kind"].default: config for config in get_args(AnyDataConfig)
}
"""Config of each kind of data set, by the value of `kind`."""
