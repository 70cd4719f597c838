"""The presets for photographs, and the folder from which backbones start."""

from __future__ import annotations

from pathlib import Path

import pytest

from distill.catalogue.reader import load_catalogue
from distill.errors import UsageError
from orchestrator.controller.pretrained import check_pretrained
from orchestrator.planning.loader import load_sweep
from orchestrator.planning.plan import make_plan

PRESETS = ("camvid", "camvid_half")


@pytest.mark.parametrize("preset", PRESETS)
def test_a_folder_of_weights_is_the_same_as_naming_each_file(preset: str, tmp_path: Path) -> None:
    folder = load_sweep(preset, [f"pretrained_folder={tmp_path}"])
    files = {"cnn": "tf_efficientnet_lite2.safetensors", "mobile": "mobilenetv2_100.safetensors"}
    places = {"pairs.0.teacher": "cnn", "pairs.1.teacher": "cnn", "pairs.0.student": "mobile"}
    if preset == "camvid_half":
        places["pairs.2.student"] = "mobile"
    named = load_sweep(
        preset, [f"{place}.pretrained={tmp_path}/{files[file]}" for place, file in places.items()]
    )
    assert folder.pairs == named.pairs
    ids = [[study.study_id for study in make_plan(config).studies] for config in (folder, named)]
    assert ids[0] == ids[1]
    assert load_sweep(preset).pairs[0].student.pretrained is True


def test_a_backbone_that_the_folder_lacks_is_named_with_its_pair_before_the_start(tmp_path: Path) -> None:
    config = load_sweep("camvid", [f"pretrained_folder={tmp_path}"])
    with pytest.raises(
        UsageError, match=r"cnn_to_cnn\.teacher: .*tf_efficientnet_lite2\.safetensors' is not a file"
    ):
        check_pretrained(config, on_other_nodes=False)


@pytest.mark.parametrize("preset", PRESETS)
def test_the_pairs_go_both_ways_and_within_a_family_with_one_training_of_the_cnn_teacher(preset: str) -> None:
    plan = make_plan(load_sweep(preset))
    assert len(plan.teachers) == 2
    families = load_catalogue().backbones
    found = {
        tuple(families[model.name.partition("-")[2]].family for model in (study.teacher.model, study.student))
        for study in plan.studies
    }
    assert found == {("cnn", "cnn"), ("cnn", "transformer"), ("transformer", "cnn")}
