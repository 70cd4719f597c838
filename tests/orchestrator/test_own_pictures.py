"""The whole command on data sets on disk and in a bucket: pictures of one's own, and the field's presets on its layouts."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from orchestrator.ledger.tables import Ledger
from tests.distill.data.buckets import at, upload
from tests.distill.data.trees import (
    write_ade20k_tree,
    write_cityscapes_tree,
    write_folder_tree,
    write_voc_tree,
)
from tests.faults.stumbling_store import StumblingStore
from tests.orchestrator.sweep_files import TINY_RECIPE
from tests.orchestrator.sweeps import Sweep, run, trials

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]


def own(tmp_path: Path) -> Path:
    """A sweep file for pictures of one's own, of which one is broken in the middle."""
    root = write_folder_tree(tmp_path / "mine")
    broken = root / "images/clip2/train5.png"
    content = broken.read_bytes()
    broken.write_bytes(content[:60] + b"\xff" * (len(content) - 80) + content[-20:])
    model = {"model": "deeplabv3-test_resnet", "head_channels": 8, "recipe": "short"}
    mine = {"kind": "folder", "root": root.name, "classes": "classes.csv", "broken_share": 0.2}
    document = {
        "name": "own",
        "data": {"mine": mine},
        "recipes": {"short": {**TINY_RECIPE, "steps": 2, "sliding_window": {"size": 32, "stride": 16}}},
        "pairs": [{"teacher": dict(model), "student": dict(model), "data": "mine"}],
        "methods": ["student"],
        "search": {"trials": 0},
        "final": {"seeds": [1]},
        "operation": {"cache": {"folder": str(tmp_path / "cache"), "gigabytes": 0.1}},
    }
    file = tmp_path / "own.yaml"
    file.write_text(yaml.safe_dump(document))
    return file


def test_a_sweep_on_pictures_of_ones_own_skips_one_that_is_broken_in_the_middle(tmp_path: Path) -> None:
    sweep = run(own(tmp_path), tmp_path / "run")
    assert sweep.process.returncode == 0, sweep.text()
    assert scored_classes(tmp_path / "run") == {9}
    assert "1 pictures could not be read and were skipped" in sweep.text()
    assert "train5.png is not an image" in sweep.text()
    assert any((tmp_path / "cache").rglob("*.pixels"))


@pytest.mark.long
def test_a_sweep_that_may_skip_none_ends_with_the_broken_pictures_name(tmp_path: Path) -> None:
    strict = run(own(tmp_path), tmp_path / "strict", "--set", "data.mine.broken_share=0")
    assert strict.process.returncode == 2, strict.text()
    assert "train5.png is not an image" in strict.text()
    assert "broken_share" in strict.text()


@pytest.mark.long
def test_a_sweep_with_pictures_and_results_in_a_bucket_fetches_every_file_once_and_draws_a_gallery(
    s3_server: str, tmp_path: Path
) -> None:
    tree = write_folder_tree(tmp_path / "mine")
    upload(s3_server, tree)
    model = {"model": "deeplabv3-test_resnet", "head_channels": 8, "recipe": "short"}
    with StumblingStore(s3_server, share=0, seed=0) as store:
        document = {
            "name": "far",
            "data": {"mine": {"kind": "folder", "root": at(store.address), "classes": "classes.csv"}},
            "recipes": {"short": {**TINY_RECIPE, "steps": 6}},
            "pairs": [{"teacher": dict(model), "student": dict(model), "data": "mine"}],
            "methods": ["student", "kd"],
            "search": {"trials": 0},
            "final": {"seeds": [1]},
            "operation": {"remote_copies": {"folder": str(tmp_path / "copies"), "gigabytes": 0.1}},
        }
        file = tmp_path / "far.yaml"
        file.write_text(yaml.safe_dump(document))
        sweep = Sweep(file, at(s3_server, "run"), log=tmp_path / "sweep.log")
        assert sweep.finish() == 0, sweep.text()
        files = {
            path.relative_to(tree).as_posix()
            for kind in ("images", "masks")
            for path in (tree / kind).rglob("*.*")
        }
        fetched = Counter(
            path for verb, path in store.asked if verb == "GET" and path.endswith((".png", ".jpg"))
        )
    assert fetched == Counter(f"/runs/data/{name}" for name in files)
    assert len(list((tmp_path / "copies").rglob("*.copy"))) == len(files)
    ledger = Ledger(at(s3_server, "run"))
    assert ledger.exists("leaderboard/gallery.html")
    assert {row["dataset"] for row in ledger.read("trials").to_pylist()} == {"mine"}


@pytest.mark.long
@pytest.mark.parametrize(
    ("preset", "write_tree", "recipes", "classes"),
    [
        ("cityscapes", write_cityscapes_tree, ("cityscapes_segformer", "cityscapes_cnn"), 19),
        ("voc", write_voc_tree, ("transformer_teacher", "crop512_cnn"), 21),
        ("ade20k", write_ade20k_tree, ("crop512_segformer", "crop512_cnn"), 150),
    ],
)
def test_a_preset_of_the_field_trains_its_first_pair_by_every_method_on_a_tree_of_its_layout(
    tmp_path: Path, preset: str, write_tree: Callable[[Path], Path], recipes: tuple[str, str], classes: int
) -> None:
    teacher = {"model": "segformer-test_vit", "head_channels": 16, "recipe": recipes[0]}
    student = {"model": "deeplabv3-test_resnet", "head_channels": 16, "recipe": recipes[1]}
    smaller = {"steps": 2, "batch_size": 2, "augmentation.crop": [32, 32]}
    settings = {
        f"data.{preset}.root": str(write_tree(tmp_path / "tree")),
        "pairs": [{"teacher": teacher, "student": student, "data": preset}],
        **{f"recipes.{recipe}.{field}": value for recipe in recipes for field, value in smaller.items()},
        "final.seeds": [1],
        "compute": {"device": "cpu"},
        "operation.loader_workers": 0,
    }
    overrides = [part for key, value in settings.items() for part in ("--set", f"{key}={json.dumps(value)}")]
    sweep = run(preset, tmp_path / "run", *overrides)
    assert sweep.process.returncode == 0, sweep.text()
    final = trials(tmp_path / "run").query("phase == 'final'")
    assert set(final.method) == {"student", "kd", "skd", "ifvd", "cwd", "cirkd", "af_dcd", "heteroakd"}
    assert final.test_miou.between(0, 1).all()
    assert set(final.protocol) == {"paper"}
    assert scored_classes(tmp_path / "run") == {classes}


def scored_classes(output: Path) -> set[int]:
    """How many classes each final run was scored on."""
    counts = Ledger(output).read("counts").to_pandas()
    final = trials(output).query("phase == 'final'").reset_index()[["trial_id"]]
    return set(counts.merge(final).groupby("trial_id")["class"].nunique())
