"""A teacher of transformers sees a picture as its own image processor would give it."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from distill.errors import UsageError
from distill.models.teachers import read_teacher
from distill.models.teachers.processor import normalisation
from distill.normalisation import normalise
from distill.teacher_source import TransformersSource
from tests.distill.models.foreign_models import dpt, segformer

transformers = pytest.importorskip("transformers", reason="the extra `hub` is not installed")
CLASSES = ("sky", "road", "car", "person")
PICTURE = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
SWITCHES = [
    {"do_rescale": rescale, "do_normalize": normalised, "rescale_factor": factor}
    for rescale, normalised, factor in product([True, False], [True, False], [1 / 255, 1 / 127.5])
]
NESTED, ALONE = "processor_config.json", "preprocessor_config.json"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[Callable[[], nn.Module], Path]:
    found = {}
    for make in (segformer, dpt):
        found[make] = tmp_path_factory.mktemp(make.__name__)
        make().save_pretrained(found[make])  # type: ignore[operator]
    return found


def write_config(folder: Path, config: dict[str, Any], file: str = ALONE) -> None:
    for name in (NESTED, ALONE):
        (folder / name).unlink(missing_ok=True)
    content = {"image_processor": config, "processor_class": "X"} if file == NESTED else config
    (folder / file).write_text(json.dumps(content))


def agree(make: Callable[[], nn.Module], folder: Path) -> None:
    """The teacher's logits of a picture are those of the library's own processor and model."""
    own = transformers.AutoImageProcessor.from_pretrained(folder)
    pixels = own(images=PICTURE, do_resize=False, return_tensors="pt")["pixel_values"].float()
    source = TransformersSource(kind="transformers", path=str(folder))
    teacher = read_teacher("t", source, classes=CLASSES, class_map=None, sizes=[(64, 64)]).model
    bytes_b3hw = torch.from_numpy(PICTURE).permute(2, 0, 1)[None]
    with torch.no_grad():
        wanted = make()(pixels).logits
        found = teacher(normalise(bytes_b3hw)).logits
    if found.shape != wanted.shape:
        found = nn.functional.interpolate(found, wanted.shape[-2:], mode="bilinear", align_corners=True)
    torch.testing.assert_close(found, wanted, atol=2e-3, rtol=1e-3)


@pytest.mark.parametrize("make", [segformer, dpt])
@pytest.mark.parametrize("switches", SWITCHES, ids=str)
def test_logits_are_those_of_the_librarys_processor_and_model_for_every_switch(
    make: Callable[[], nn.Module],
    switches: dict[str, Any],
    folders: dict[Callable[[], nn.Module], Path],
) -> None:
    kind = "SegformerImageProcessor" if make is segformer else "DPTImageProcessor"
    write_config(folders[make], {"image_processor_type": kind, **switches})
    agree(make, folders[make])


@pytest.mark.parametrize("file", [NESTED, ALONE])
@pytest.mark.parametrize(
    "config",
    [
        {},
        {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]},
        {"image_mean": 0.5, "image_std": 0.25},
        {"do_normalize": None, "do_rescale": None},
    ],
    ids=str,
)
def test_both_files_of_a_processor_count_and_what_they_lack_is_its_class_default(
    file: str, config: dict[str, Any], folders: dict[Callable[[], nn.Module], Path]
) -> None:
    write_config(folders[dpt], {"image_processor_type": "DPTImageProcessor", **config}, file)
    agree(dpt, folders[dpt])


def test_the_processors_section_wins_over_the_older_file(tmp_path: Path) -> None:
    write_config(tmp_path, {"image_mean": [0.1] * 3, "image_std": [1.0] * 3}, NESTED)
    (tmp_path / ALONE).write_text(json.dumps({"image_mean": [0.9] * 3, "image_std": [1.0] * 3}))
    assert normalisation(tmp_path, "segformer")[0] == (0.1, 0.1, 0.1)
    (tmp_path / NESTED).write_text(json.dumps({"processor_class": "X"}))
    assert normalisation(tmp_path, "segformer")[0] == (0.9, 0.9, 0.9)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"do_flip_channel_order": True}, "do_flip_channel_order True: a step that this program does not do"),
        ({"do_pad": True}, "do_pad True: a step"),
        ({"do_normalize": "no"}, "do_normalize 'no', must be true or false"),
        ({"rescale_factor": 0}, "rescale_factor 0, must be a number above 0"),
        ({"image_std": [1, 0, 1]}, "must be three finite numbers, none of them 0"),
        ({"image_mean": None}, "image_mean None, must be three finite numbers"),
        ({"image_mean": [1, 0]}, "must be three finite numbers"),
        ({"image_processor_type": "BeitImageProcessor"}, "has no image_mean and is of a BeitImageProcessor"),
    ],
)  # fmt: skip
def test_a_processor_that_does_more_is_refused_with_the_step(
    config: dict[str, Any], message: str, tmp_path: Path
) -> None:
    write_config(tmp_path, config)
    with pytest.raises(UsageError, match=message):
        normalisation(tmp_path, "segformer")
