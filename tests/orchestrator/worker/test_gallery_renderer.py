"""What the gallery draws: the pictures and predictions that were scored, or nothing."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from distill.data import FolderConfig, build_dataset
from distill.errors import UsageError
from distill.evaluation import Counts, evaluate
from distill.models import CheckpointMetadata, build_model, save_model
from distill.recipe import SlidingWindow
from orchestrator.leaderboard.board import build_boards
from orchestrator.leaderboard.gallery_page import DIFFERENCES
from orchestrator.leaderboard.gallery_pictures import PairGallery, pair_galleries
from orchestrator.leaderboard.run_records import read_run_records
from orchestrator.ledger.row_builders import count_rows
from orchestrator.ledger.tables import Ledger
from orchestrator.planning.config import SweepConfig
from orchestrator.worker.gallery_renderer import draw_section, predict_gallery
from tests.distill.data.trees import write_folder_tree
from tests.orchestrator.sweep_files import TINY_RECIPE

MODEL = {"model": "fcn-test_resnet", "head_channels": 8, "recipe": "short"}


@pytest.fixture
def scored(tmp_path: Path) -> tuple[Ledger, PairGallery, str]:
    """A run on a folder of pictures, scored in windows, as a sweep would have left it; the models are random."""
    ledger = Ledger(tmp_path / "run")
    root = write_folder_tree(tmp_path / "mine")
    config = SweepConfig.model_validate(
        {
            "name": "own",
            "data": {"mine": {"kind": "folder", "root": str(root), "classes": "classes.csv"}},
            "recipes": {"short": {**TINY_RECIPE, "sliding_window": {"size": 32, "stride": 16}}},
            "pairs": [{"name": "pair", "teacher": MODEL, "student": MODEL, "data": "mine"}],
            "methods": ["student", "kd"],
        }
    )
    data = config.data["mine"]
    assert isinstance(data, FolderConfig)
    dataset = build_dataset(data, "test")
    rows = []
    for seed, (trial, method) in enumerate((("f0", "student"), ("f1", "kd"), ("t0", "teacher"))):
        torch.manual_seed(seed)
        model = build_model("fcn-test_resnet", dataset.num_classes, head_channels=8)
        path = f"teachers/{trial}.safetensors" if method == "teacher" else f"models/{trial}.safetensors"
        save_model(Path(ledger.root) / path, model, CheckpointMetadata(dataset.classes))
        window = SlidingWindow(size=(32, 32), stride=(16, 16))
        found: Counts = evaluate(model, dataset, window=window)
        table = count_rows(trial, "test", found.image_index, found.tp, found.fp, found.fn, dataset.classes)
        ledger.append("counts", table, trial)
        rows.append({
            "trial_id": trial, "attempt": 1, "study_id": trial, "phase": "teacher" if method == "teacher" else "final",
            "status": "ok", "dataset": "folder", "protocol": "clean", "pair": "pair", "teacher": "big", "student": "small",
            "teacher_id": "t0", "method": method, "method_family": "logits", "seed": 1, "recipe_hash": "r", "params": {},
            "provenance_id": "p", "checkpoint": path, "tune_miou": 0.5,
        })  # fmt: skip
    ledger.append("trials", rows, "trials")
    records = read_run_records([ledger])
    (board,) = build_boards(records)
    (gallery,) = pair_galleries(board, records)
    return ledger, gallery, yaml.safe_dump(config.model_dump(mode="json"))


def test_pictures_of_a_data_set_on_disk_are_drawn_as_they_were_scored(
    scored: tuple[Ledger, PairGallery, str],
) -> None:
    predicted = predict_gallery(*scored)
    section = draw_section(predicted, longest=20)
    assert [panel.chosen for panel in section.panels] == list(predicted.gallery.pictures)
    for panel, scene in zip(section.panels, predicted.scenes, strict=True):
        images = [Image.open(io.BytesIO(drawing.data)) for drawing in panel.drawings]
        assert all(max(image.size) <= 20 for image in images)
        assert panel.key == scene.sample.key
    full = draw_section(predicted, longest=4096).panels[0].drawings
    scene = predicted.scenes[0]
    method, label = (np.asarray(Image.open(io.BytesIO(full[place].data))) for place in (4, 1))
    assert (method == scene.method_hw).all()
    assert (label == scene.sample.labels_hw).all()
    drawn = np.asarray(Image.open(io.BytesIO(full[5].data)))
    right, alone = scene.method_hw == scene.sample.labels_hw, scene.alone_hw == scene.sample.labels_hw
    valid = scene.sample.labels_hw < len(predicted.dataset.classes)
    assert DIFFERENCES[1][0].startswith("the method right")
    assert ((drawn == 1) == (right & ~alone & valid)).all()
    assert ((drawn == 2) == (alone & ~right & valid)).all()
    assert ((drawn == 4) == ~valid).all()


def test_other_weights_than_those_that_were_scored_are_not_shown(
    scored: tuple[Ledger, PairGallery, str],
) -> None:
    ledger, gallery, config = scored
    chosen = tuple(replace(picture, method_miou=picture.method_miou + 0.2) for picture in gallery.pictures)
    with pytest.raises(UsageError, match="data or weights are not those that were scored"):
        predict_gallery(ledger, replace(gallery, pictures=chosen), config)


def test_missing_data_and_a_config_of_another_version_are_named(
    scored: tuple[Ledger, PairGallery, str],
) -> None:
    ledger, gallery, config = scored
    document = yaml.safe_load(config)
    document["data"]["mine"]["root"] = "/nowhere"
    with pytest.raises(UsageError, match="folder /nowhere does not exist"):
        predict_gallery(ledger, gallery, yaml.safe_dump(document))
    with pytest.raises(UsageError, match="written by another version"):
        predict_gallery(ledger, gallery, yaml.safe_dump({"unknown": 1}))
