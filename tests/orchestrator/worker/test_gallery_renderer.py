"""What the gallery draws: the pictures and predictions that were scored, or nothing."""

from __future__ import annotations

import io
import re
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
from orchestrator.leaderboard.gallery_runs import run_galleries
from orchestrator.leaderboard.run_records import read_run_records
from orchestrator.ledger.row_builders import count_rows
from orchestrator.ledger.tables import Ledger
from orchestrator.planning.config import SweepConfig
from orchestrator.worker.gallery_renderer import PairPredictor, draw_section
from orchestrator.worker.gallery_writer import write_gallery
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
    for number, (trial, method, seed) in enumerate(
        (("f0", "student", 1), ("f1", "kd", 1), ("t0", "teacher", 1), ("f2", "student", 2), ("f3", "kd", 2))
    ):
        torch.manual_seed(number)
        model = build_model("fcn-test_resnet", dataset.num_classes, head_channels=8)
        path = f"teachers/{trial}.safetensors" if method == "teacher" else f"models/{trial}.safetensors"
        save_model(Path(ledger.root) / path, model, CheckpointMetadata(dataset.classes))
        window = SlidingWindow(size=(32, 32), stride=(16, 16))
        found: Counts = evaluate(model, dataset, window=window)
        table = count_rows(trial, "test", found.image_index, found.tp, found.fp, found.fn, dataset.classes)
        ledger.append("counts", table, trial)
        rows.append({
            "trial_id": trial, "attempt": 1, "study_id": method, "phase": "teacher" if method == "teacher" else "final",
            "status": "ok", "dataset": "folder", "protocol": "clean", "pair": "pair", "teacher": "big", "student": "small",
            "teacher_id": "t0", "method": method, "method_family": "logits", "seed": seed, "recipe_hash": "r", "params": {},
            "provenance_id": "p", "checkpoint": path, "tune_miou": 0.5 - 0.1 * seed,
        })  # fmt: skip
    ledger.append("trials", rows, "trials")
    records = read_run_records([ledger])
    (board,) = build_boards(records)
    (gallery,) = pair_galleries(board, records)
    recorded = yaml.safe_dump(config.model_dump(mode="json"))
    ledger.append("provenance", [{"provenance_id": "p", "command": "", "config_yaml": recorded}], "p")
    return ledger, gallery, recorded


def test_pictures_of_a_data_set_on_disk_are_drawn_as_they_were_scored(
    scored: tuple[Ledger, PairGallery, str],
) -> None:
    predicted = PairPredictor(*scored).predict(scored[1])
    section = draw_section(predicted, longest=20, number=3)
    assert [panel.chosen for panel in section.panels] == list(predicted.gallery.pictures)
    for panel, scene in zip(section.panels, predicted.scenes, strict=True):
        images = [Image.open(io.BytesIO(drawing.data)) for drawing in panel.drawings]
        assert all(max(image.size) <= 20 for image in images)
        assert panel.key == scene.sample.key
    full = draw_section(predicted, longest=4096, number=1).panels[0].drawings
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
        PairPredictor(ledger, gallery, config).predict(replace(gallery, pictures=chosen))


def test_missing_data_and_a_config_of_another_version_are_named(
    scored: tuple[Ledger, PairGallery, str],
) -> None:
    ledger, gallery, config = scored
    document = yaml.safe_load(config)
    document["data"]["mine"]["root"] = "/nowhere"
    with pytest.raises(UsageError, match="folder /nowhere does not exist"):
        PairPredictor(ledger, gallery, yaml.safe_dump(document))
    with pytest.raises(UsageError, match="written by another version"):
        PairPredictor(ledger, gallery, yaml.safe_dump({"unknown": 1}))


def test_each_run_has_a_page_with_the_students_of_its_own_seed(
    scored: tuple[Ledger, PairGallery, str],
) -> None:
    ledger = scored[0]
    ledger.write_bytes("leaderboard/gallery/of-an-earlier-board.html", b"")
    place, notes = write_gallery(ledger)
    assert (place, notes) == (ledger.place("leaderboard/gallery.html"), [])
    assert ledger.list("leaderboard/gallery") == [
        "leaderboard/gallery/f1.html",
        "leaderboard/gallery/f3.html",
    ]
    first = ledger.read_bytes("leaderboard/gallery.html").decode()
    assert re.findall(r'href="(gallery/[^"]*)"', first) == ["gallery/f1.html", "gallery/f3.html"]
    other = ledger.read_bytes("leaderboard/gallery/f3.html").decode()
    alone = {seed: drawn_as(ledger, seed) for seed in (1, 2)}
    assert alone[1] != alone[2]
    assert alone[1] in first
    assert alone[2] in other
    assert alone[1] not in other


def drawn_as(ledger: Ledger, seed: int) -> str:
    """The drawing of the student alone on the first picture, as a page has it."""
    records = read_run_records([ledger])
    (gallery,) = pair_galleries(build_boards(records)[0], records)
    runs = {run.method.seed: run for run in run_galleries(gallery, records, all_seeds=True)}
    predictor = PairPredictor(ledger, gallery, records.provenance["p"].config_yaml)
    section = draw_section(predictor.predict(runs[seed]), longest=512, number=1)
    return section.panels[0].drawings[3].address


def test_a_run_whose_weights_are_missing_is_named_and_has_no_link(
    scored: tuple[Ledger, PairGallery, str],
) -> None:
    ledger = scored[0]
    ledger.delete("models/f3.safetensors")
    _, notes = write_gallery(ledger)
    (note,) = notes
    assert note.startswith("the gallery leaves out 1 of 2 runs of pair, first kd, seed 2: FileNotFoundError")
    assert ledger.list("leaderboard/gallery") == ["leaderboard/gallery/f1.html"]
    text = ledger.read_bytes("leaderboard/gallery.html").decode()
    assert "f3.html" not in text
    assert "its weights are missing" in text


def test_one_run_of_each_method_is_drawn_if_only_the_best_seeds_are_wanted(
    scored: tuple[Ledger, PairGallery, str],
) -> None:
    ledger = scored[0]
    assert write_gallery(ledger, pictures=4, seeds="best")[1] == []
    assert ledger.list("leaderboard/gallery") == ["leaderboard/gallery/f1.html"]
    text = ledger.read_bytes("leaderboard/gallery.html").decode()
    assert "python -m orchestrator.gallery .. --pictures 4 --seeds best" in text
    with pytest.raises(UsageError, match="pictures is 2, must be from 3 to 100"):
        write_gallery(ledger, pictures=2)
