"""What `--dry-run` finds without training, what it writes (nothing), and what it says that it could not look at."""

from __future__ import annotations

import json
import os
import socket
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from distill.errors import UsageError
from orchestrator.console.exit_codes import DONE, USAGE
from orchestrator.controller.model_checks import check_models
from orchestrator.sweep import SweepOptions, command
from tests.distill.data.trees import write_folder_tree
from tests.orchestrator.sweep_files import TINY_RECIPE, tiny_sweep

MODEL = {"model": "segformer-test_vit", "head_channels": 8, "recipe": "short"}


def dry_run(tmp_path: Path, capsys: pytest.CaptureFixture[str], **changes: Any) -> tuple[int, str]:
    """Exit code and standard error of a dry run of a sweep on a folder of pictures, some of whose settings are changed."""
    document = {
        "name": "mine",
        "data": {"mine": {"kind": "folder", "root": "pictures", "classes": "classes.csv"}},
        "recipes": {"short": dict(TINY_RECIPE)},
        "pairs": [{"teacher": dict(MODEL), "student": dict(MODEL), "data": "mine"}],
        "methods": ["student"],
    }
    options = {key: changes.pop(key) for key in ("output", "address") if key in changes}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(document | changes))
    before = sorted(tmp_path.rglob("*"))
    options.setdefault("output", str(tmp_path / "run"))
    code = command(SweepOptions(source=str(tmp_path / "mine.yaml"), dry_run=True, **options))
    assert sorted(tmp_path.rglob("*")) == before
    return code, capsys.readouterr().err


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    return write_folder_tree(tmp_path / "pictures")


def test_a_sweep_that_can_start_passes(
    tmp_path: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, text = dry_run(tmp_path, capsys)
    assert code == DONE
    assert "not looked at" not in text


def test_a_space_without_the_recipes_parameters_gets_a_warning_with_the_remedy(
    tmp_path: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    methods = ["student", "cwd", {"name": "kd", "space": {"temperature": {"uniform": [1, 4]}}}]
    code, text = dry_run(tmp_path, capsys, methods=methods, search={"trials": 16})
    assert code == DONE
    (line,) = [line for line in text.splitlines() if "WARNING" in line]
    assert "recipe.lr and recipe.weight_decay are not searched by kd as by the student alone" in line
    assert "search_spaces/recipe.yaml" in line
    assert "WARNING" not in dry_run(tmp_path, capsys, methods=methods, search={"trials": 0})[1]


@pytest.mark.parametrize(
    ("search", "noted"),
    [
        (
            {"trials": 4, "bracket": 4, "rungs": [0.25, 0.5]},
            "of a study's 4 trials only 1 reaches the last step",
        ),
        (
            {"trials": 5, "bracket": 4, "rungs": [0.25, 0.5], "finalists": 3},
            "5 trials only 2 reach the last step",
        ),
        ({"trials": 5, "bracket": 4, "rungs": [0.25, 0.5]}, None),
        ({"trials": 4, "bracket": 4, "rungs": [0.25, 0.5], "finalists": 1}, None),
        ({"trials": 2, "bracket": 2, "rungs": [0.5], "pruning": "none"}, None),
    ],
)
def test_finalists_among_which_there_is_no_choice_get_a_warning(
    tmp_path: Path,
    pictures: Path,
    capsys: pytest.CaptureFixture[str],
    search: dict[str, Any],
    noted: str | None,
) -> None:
    code, said = dry_run(tmp_path, capsys, search={"wave": 8, "finalists": 2, **search})
    assert code == 0
    assert (noted or "") in said
    assert ("search.finalists is" in said) == (noted is not None)


def test_everything_that_is_wrong_is_named_at_once_with_the_key_that_helps(
    tmp_path: Path, pictures: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    next((pictures / "masks").rglob("*train*.png")).unlink()
    (tmp_path / "file").write_text("")
    pair = {
        "teacher": {"model": "segformer-test_vit", "checkpoint": "lost.safetensors"},
        "student": {**MODEL, "pretrained": "gone.pth"},
        "data": "mine",
    }
    code, text = dry_run(
        tmp_path, capsys, pairs=[pair], compute={"device": "cuda"}, output=str(tmp_path / "file" / "run"),
        operation={"cache": {"folder": "file", "gigabytes": 1}, "trackers": ["mlflow"]},
    )  # fmt: skip
    assert code == USAGE
    assert "masks" in text
    assert f"{tmp_path}/gone.pth" in text
    assert f"{tmp_path}/lost.safetensors" in text
    assert "set compute.device to cpu" in text
    assert f"operation.cache.folder is {tmp_path}/file, and {tmp_path}/file is not a folder" in text
    assert "not looked at: whether the trackers answer" in text


def test_a_folder_with_too_long_a_name_is_refused(
    tmp_path: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, text = dry_run(tmp_path, capsys, output=str(tmp_path / ("x" * 300)))
    assert code == USAGE
    assert "cannot be used (File name too long); choose another" in text


def test_a_busy_run_folder_and_a_foreign_one_are_refused(
    tmp_path: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "text.txt").write_text("years")
    code, text = dry_run(tmp_path, capsys, output=str(tmp_path / "thesis"))
    assert (code, "holds no run" in text) == (USAGE, True)
    (tmp_path / "run").mkdir()
    lock = {"host": socket.gethostname(), "pid": os.getppid(), "renewed": time.time()}
    (tmp_path / "run" / "lock.json").write_text(json.dumps(lock))
    code, text = dry_run(tmp_path, capsys)
    assert (code, "is held by process" in text) == (USAGE, True)


def test_too_few_cores_are_said_with_the_key_that_helps(
    tmp_path: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, text = dry_run(tmp_path, capsys, compute={"cpus_per_worker": 10_000})
    assert (code, "lower compute.cpus_per_worker, or join" in text) == (USAGE, True)


def test_of_a_job_it_says_that_the_cluster_was_not_looked_at(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "classes.csv").write_text("value,name\n0,a\n1,b\n")
    code, text = dry_run(tmp_path, capsys, address="job")
    assert code == DONE
    assert "not looked at: data, files of weights, devices and room on the cluster at job" in text


@pytest.mark.parametrize(
    ("recipe", "workers", "model", "said"),
    [
        ({"batch_size": 1}, 1, "deeplabv3-test_resnet", "recipes.student.batch_size 1 gives"),
        ({"batch_size": 2}, 2, "pspnet-test_resnet", "batch_size 2 / compute.workers 2 gives"),
        ({"batch_size": 4, "accumulate": 4}, 1, "upernet-test_resnet", "batch_size 4 / accumulate 4 gives"),
        ({"batch_size": 2}, 1, "deeplabv3-test_resnet", None),
        ({"batch_size": 1}, 1, "fcn-test_resnet", None),
        ({"batch_size": 1, "norm": "group"}, 1, "deeplabv3-test_resnet", None),
        ({"batch_size": 2, "norm": "sync"}, 2, "deeplabv3-test_resnet", None),
    ],
)
def test_batch_norm_on_one_value_is_refused_before_the_teacher_trains(
    recipe: dict[str, Any], workers: int, model: str, said: str | None
) -> None:
    config = tiny_sweep(
        recipes__student={**TINY_RECIPE, **recipe}, compute={"workers": workers},
        pairs=[{
            "teacher": {"model": "segformer-test_vit", "recipe": "teacher"},
            "student": {"model": model, "head_channels": 8, "recipe": "student"},
            "data": "scenes",
        }],
    )  # fmt: skip
    if said is None:
        check_models(config)
        return
    with pytest.raises(UsageError, match=said) as refusal:
        check_models(config)
    least = 2 * workers * recipe.get("accumulate", 1)
    assert f"set recipes.student.norm to group, or batch_size to {least}" in str(refusal.value)


def test_what_the_check_of_a_data_set_notes_is_printed_with_its_name(
    tmp_path: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (pictures / "images" / "spare.png").write_bytes(next((pictures / "images").rglob("*.png")).read_bytes())
    code, text = dry_run(tmp_path, capsys)
    assert code == DONE
    lines = text.splitlines()
    assert all(line.startswith("data set 'mine': ") for line in lines)
    assert "data set 'mine': 1 pictures and 0 label maps are in no split" in lines


@pytest.mark.parametrize(
    ("method", "recipe", "workers", "said"),
    [
        ("ofa", {"batch_size": 1}, 1, "recipes.student.batch_size 1 gives method 'ofa' 1 picture at a time"),
        ({"name": "heteroakd", "config": {"teacher_projector": "pretrained"}}, {"batch_size": 1}, 1, "batch_size to 2"),
        ({"name": "kd + cirkd", "config": {"cirkd.pixel_weight": 0.1}}, {"batch_size": 2}, 2, "batch_size to 4"),
        ("ofa", {"batch_size": 1, "augmentation": {"crop": 64}}, 1, None),
        ("kd", {"batch_size": 1}, 1, None),
    ],
)  # fmt: skip
def test_batch_norm_of_a_method_on_one_value_is_refused_though_the_models_have_group_norm(
    method: Any, recipe: dict[str, Any], workers: int, said: str | None
) -> None:
    config = tiny_sweep(
        recipes__student={**TINY_RECIPE, "norm": "group", **recipe}, compute={"workers": workers},
        methods=["student", method],
        pairs=[{
            "teacher": {"model": "segformer-test_vit", "head_channels": 8, "recipe": "teacher"},
            "student": {"model": "fcn-test_resnet", "output_stride": 32, "head_channels": 8, "recipe": "student"},
            "data": "scenes",
        }],
    )  # fmt: skip
    if said is None:
        check_models(config)
        return
    with pytest.raises(UsageError, match=said) as refusal:
        check_models(config)
    assert "or a larger augmentation.crop" in str(refusal.value)
