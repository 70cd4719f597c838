"""What a gallery shows of a pair: its pictures as teacher and students predict them, and the maps as drawings."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from distill.data import Sample, SegmentationDataset, build_dataset
from distill.errors import UsageError
from distill.evaluation import confusion_matrices, predicted_classes
from distill.models.teachers import TeacherNetwork
from distill.normalisation import normalise
from distill.recipe import Recipe
from orchestrator.leaderboard.gallery_page import (
    ALONE_RIGHT,
    BOTH_RIGHT,
    BOTH_WRONG,
    DIFFERENCES,
    IGNORED,
    METHOD_RIGHT,
    Drawing,
    PairSection,
    Panel,
)
from orchestrator.leaderboard.gallery_pictures import ChosenPicture, PairGallery
from orchestrator.leaderboard.statistics import mean_iou
from orchestrator.ledger.tables import Ledger
from orchestrator.ledger.weights import load_saved_model
from orchestrator.planning.renamed import read_recorded_config

Bytes = NDArray[np.uint8]
_WHITE = (255, 255, 255)
# Another device or thread count moves a few pixels; more than this is another picture or other weights.
_SCORE_TOLERANCE = 0.05
_ENLARGED = 200


class _Scene(NamedTuple):
    """A picture and its label maps, `H×W`."""

    chosen: ChosenPicture
    sample: Sample
    teacher_hw: Bytes
    alone_hw: Bytes
    method_hw: Bytes


@dataclass(frozen=True)
class Predicted:
    """A pair's gallery with all predictions, at the images' own size."""

    gallery: PairGallery
    dataset: SegmentationDataset
    scenes: tuple[_Scene, ...]


class PairPredictor:
    """Predicts the pictures of a pair as they were scored. The teacher, and the student alone of each seed, predict once.

    Raises:
        UsageError: the config cannot be read, or data or weights are not those that were scored.
        OSError: weights or pictures are missing.
    """

    def __init__(self, ledger: Ledger, gallery: PairGallery, config_yaml: str) -> None:
        config = read_recorded_config(config_yaml)
        self._ledger = ledger
        self._pair = next(pair for pair in config.pairs if pair.label == gallery.pair.pair)
        self._recipe = config.recipes[self._pair.student.recipe]
        teachers = self._pair.teacher.recipe
        self._teachers = self._recipe if teachers is None else config.recipes[teachers]
        self._device = "cuda" if config.compute.device == "cuda" and torch.cuda.is_available() else "cpu"
        self._dataset = build_dataset(
            config.data[self._pair.data],
            "test",
            protocol=config.protocol,
            copies=config.operation.remote_copies,
        )
        self._samples = {chosen.picture: self._dataset[chosen.picture] for chosen in gallery.pictures}
        self._kept: dict[str, dict[int, Bytes]] = {}

    def predict(self, gallery: PairGallery) -> Predicted:
        """The pictures of one run, by the teacher, the student alone and the method."""
        teacher = f"teachers/{gallery.method.teacher_id or gallery.alone.teacher_id}.safetensors"
        for path, scored in ((teacher, self._teachers), (gallery.alone.checkpoint, self._recipe)):
            if path not in self._kept:
                self._kept[path] = self._predicted(path, scored)
        maps = (
            self._kept[teacher],
            self._kept[gallery.alone.checkpoint],
            self._predicted(gallery.method.checkpoint, self._recipe),
        )
        scenes = tuple(
            _Scene(chosen, self._samples[chosen.picture], *(found[chosen.picture] for found in maps))
            for chosen in gallery.pictures
        )
        for scene in scenes:
            _check(scene, self._dataset.num_classes)
        return Predicted(gallery, self._dataset, scenes)

    def _predicted(self, path: str, scored: Recipe) -> dict[int, Bytes]:
        """Label maps of all pictures by a model of the run."""
        model = load_saved_model(self._ledger, path, self._pair.teacher.sha256, self._device)
        maps = _predict(model, list(self._samples.values()), scored, self._device)
        return dict(zip(self._samples, maps, strict=True))


def draw_section(predicted: Predicted, longest: int, number: int) -> PairSection:
    """The drawings of a gallery's first `number` pictures; no side is longer than `longest` pixels."""
    dataset, scenes = predicted.dataset, predicted.scenes[:number]
    seen = np.unique(np.concatenate([m.ravel() for s in scenes for m in (s.sample.labels_hw, *s[2:])]))
    classes = [(dataset.classes[k], dataset.palette[k]) for k in seen if k < dataset.num_classes]
    ignored = [("ignored", _WHITE)] if (seen >= dataset.num_classes).any() else []
    panels = tuple(
        Panel(
            s.chosen,
            s.sample.key,
            tuple(_drawings(s, predicted.gallery, dataset, longest)),
            small=max(s.sample.labels_hw.shape) < _ENLARGED,
            teacher_miou=_picture_miou(s.sample.labels_hw, s.teacher_hw, dataset.num_classes),
        )
        for s in scenes
    )
    return PairSection(predicted.gallery, panels, (*classes, *ignored))


def _predict(model: TeacherNetwork, samples: Sequence[Sample], scored: Recipe, device: str) -> list[Bytes]:
    """A model's classes of every pixel, picture by picture, in the precision and windows of its recipe."""
    model = model.eval()
    found = []
    with torch.inference_mode(), torch.autocast(device, torch.bfloat16, enabled=scored.precision == "bf16"):
        for sample in samples:
            image_13hw = normalise(torch.tensor(sample.image_hw3, device=device).permute(2, 0, 1)[None])
            predicted = predicted_classes(
                lambda pieces: model(pieces).logits, image_13hw, scored.sliding_window
            )
            found.append(predicted[0].to(torch.uint8).cpu().numpy())
    return found


def _check(scene: _Scene, classes: int) -> None:
    """Raises UsageError where a picture's mIoU is not what the tables say."""
    for predicted, recorded in (
        (scene.method_hw, scene.chosen.method_miou),
        (scene.alone_hw, scene.chosen.alone_miou),
    ):
        here = _picture_miou(scene.sample.labels_hw, predicted, classes)
        if not abs(here - recorded) <= _SCORE_TOLERANCE:
            raise UsageError(
                f"picture '{scene.sample.key}' scores {100 * here:.1f} here and {100 * recorded:.1f} in the tables: "
                "data or weights are not those that were scored"
            )


def _picture_miou(labels_hw: Bytes, predicted_hw: Bytes, classes: int) -> float:
    """mIoU of one picture, over the classes that its label or its prediction has."""
    label, predicted = torch.tensor(labels_hw)[None], torch.tensor(predicted_hw)[None].long()
    (matrix,) = confusion_matrices(label, predicted, classes).numpy()
    right = matrix.diagonal()
    return float(mean_iou(right, matrix.sum(0) - right, matrix.sum(1) - right))


def _drawings(
    scene: _Scene, gallery: PairGallery, dataset: SegmentationDataset, longest: int
) -> Iterator[Drawing]:
    yield Drawing("picture", "jpeg", _encoded(Image.fromarray(scene.sample.image_hw3), longest, "JPEG"))
    for caption, labels_hw in (
        ("label", scene.sample.labels_hw),
        (f"teacher {gallery.pair.teacher}", scene.teacher_hw),
        ("student alone", scene.alone_hw),
        (gallery.method.method, scene.method_hw),
    ):
        yield Drawing(caption, "png", _map(labels_hw, dataset.palette, longest))
    differences = _map(_differences(scene, dataset.num_classes), [c for _, c in DIFFERENCES], longest)
    yield Drawing("where they differ", "png", differences)


def _differences(scene: _Scene, classes: int) -> Bytes:
    """Which of the two students is right, pixel by pixel, as a number of `DIFFERENCES`."""
    label = scene.sample.labels_hw
    method, alone = scene.method_hw == label, scene.alone_hw == label
    found = np.select(
        [label >= classes, method & alone, method, alone],
        [IGNORED, BOTH_RIGHT, METHOD_RIGHT, ALONE_RIGHT],
        BOTH_WRONG,
    )
    return found.astype(np.uint8)


def _map(labels_hw: Bytes, palette: Sequence[tuple[int, int, int]], longest: int) -> bytes:
    """A label map as PNG; whatever is no class is white."""
    image = Image.fromarray(labels_hw, "P")
    image.putpalette(
        [channel for k in range(256) for channel in (palette[k] if k < len(palette) else _WHITE)]
    )
    return _encoded(image, longest, "PNG")


def _encoded(image: Image.Image, longest: int, kind: str) -> bytes:
    scale = min(1.0, longest / max(image.size))
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    if size != image.size:
        image = image.resize(size, Image.Resampling.NEAREST if kind == "PNG" else Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, kind, optimize=True)
    return buffer.getvalue()
