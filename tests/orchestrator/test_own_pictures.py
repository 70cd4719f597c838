"""The whole command on data sets on disk, several layouts in one sweep."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from sweep_files import TINY_RECIPE
from sweeps import run, trials
from trees import write_ade20k_tree, write_cityscapes_tree, write_folder_tree, write_voc_tree

from orchestrator.ledger import Ledger

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]


def test_one_sweep_on_four_layouts_scores_all_of_them_and_skips_a_picture_broken_in_the_middle(
    tmp_path: Path,
) -> None:
    roots = {
        "mine": write_folder_tree(tmp_path / "mine"),
        "voc": write_voc_tree(tmp_path / "voc"),
        "ade": write_ade20k_tree(tmp_path / "ade"),
        "city": write_cityscapes_tree(tmp_path / "city"),
    }
    broken = roots["mine"] / "images/clip2/train5.png"
    content = broken.read_bytes()
    broken.write_bytes(content[:60] + b"\xff" * (len(content) - 80) + content[-20:])
    model = {"model": "deeplabv3-test_resnet", "head_channels": 8, "recipe": "short"}
    document = {
        "name": "own",
        "data": {
            "mine": {"kind": "folder", "root": str(roots["mine"]), "classes": "classes.csv", "broken_share": 0.2},
            "voc": {"kind": "voc", "root": str(roots["voc"])},
            "ade": {"kind": "ade20k", "root": str(roots["ade"])},
            "city": {"kind": "cityscapes", "root": str(roots["city"])},
        },
        "recipes": {"short": {**TINY_RECIPE, "steps": 2, "sliding_window": {"size": 32, "stride": 16}}},
        "pairs": [
            {"name": name, "teacher": dict(model), "student": dict(model), "data": name} for name in roots
        ],
        "methods": ["student"],
        "search": {"trials": 0},
        "final": {"seeds": [1]},
        "operation": {"cache": {"folder": str(tmp_path / "cache"), "gigabytes": 0.1}},
    }  # fmt: skip
    file = tmp_path / "own.yaml"
    file.write_text(yaml.safe_dump(document))
    sweep = run(file, tmp_path / "run")
    assert sweep.process.returncode == 0, sweep.text()
    rows = trials(tmp_path / "run")
    final = rows[rows.phase == "final"]
    assert set(final.pair) == set(roots)
    assert final.test_miou.between(0, 1).all()
    counts = Ledger(tmp_path / "run").read("counts").to_pandas()
    classes = counts.merge(final.reset_index()[["trial_id", "pair"]]).groupby("pair")["class"].nunique()
    assert classes.to_dict() == {"mine": 9, "voc": 21, "ade": 150, "city": 19}
    assert "1 pictures could not be read and were skipped" in sweep.text()
    assert "train5.png is not an image" in sweep.text()
    assert any((tmp_path / "cache").rglob("*.pixels"))
