"""Every path in a sweep file means the same place, wherever the command is typed and wherever a job runs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from distill.data.__main__ import read_configs
from distill.errors import UsageError
from distill.setting_paths import paths_in
from orchestrator.cluster.job_submission import stage
from orchestrator.planning.config import SweepConfig
from orchestrator.planning.loader import load_sweep, with_absolute_paths

SWEEP: dict[str, Any] = {
    "name": "street",
    "data": {"mine": {"kind": "voc", "root": "pictures"}},
    "recipes": {"short": {"steps": 4, "batch_size": 4, "augmentation": {"crop": 32}, "lr": 0.01}},
    "pairs": [
        {
            "teacher": {"model": "segformer-test_vit", "recipe": "short", "pretrained": "teacher.pth"},
            "student": {"model": "deeplabv3-test_resnet", "recipe": "short", "pretrained": "student.pth"},
            "data": "mine",
        },
        *(
            {
                "name": f"from-{number}",
                "teacher": {"model": f"t{number}", "checkpoint": checkpoint, **more},
                "student": {"model": "deeplabv3-test_resnet", "recipe": "short"},
                "data": "mine",
            }
            for number, (checkpoint, more) in enumerate([
                ("run.safetensors", {"model": "segformer-test_vit"}),
                ({"kind": "run", "path": "run.safetensors"}, {"model": "segformer-test_vit"}),
                ({"kind": "transformers", "path": "saved"}, {}),
                ({"kind": "torchvision", "path": "weights.pth"}, {"model": "segformer-test_vit"}),
                (
                    {"kind": "torchscript", "path": "net.pt", "family": "cnn", "classes": 21,
                     "taps": {"stages": [0, 1, 2, 3], "logits": 4}},
                    {"sha256": "0" * 64},
                ),
            ])
        ),
    ],
    "methods": ["student"],
    "pretrained_folder": "weights",
    "operation": {
        "cache": {"folder": "cache", "gigabytes": 1},
        "teacher_outputs": {"folder": "outputs", "gigabytes": 1},
        "remote_copies": {"folder": "copies"},
        "teachers": "teachers",
        "trackers": [
            {"kind": "mlflow", "uri": "sqlite:///mlflow.db"},
            {"kind": "wandb", "folder": "wandb"},
            {"kind": "tensorboard", "folder": "boards"},
        ],
    },
}  # fmt: skip
PATHS = [
    "data.mine.root",
    "pairs.0.teacher.pretrained",
    "pairs.0.student.pretrained",
    "pairs.1.teacher.checkpoint",
    *(f"pairs.{number}.teacher.checkpoint.path" for number in (2, 3, 4, 5)),
    "pretrained_folder",
    "operation.cache.folder",
    "operation.teacher_outputs.folder",
    "operation.remote_copies.folder",
    "operation.teachers",
    "operation.trackers.0.uri",
    "operation.trackers.1.folder",
    "operation.trackers.2.folder",
]
"""Every setting of `SWEEP` that holds a path."""


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, beside the folder `mine` with the sweep file."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "saved").mkdir()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return tmp_path / "elsewhere"


def written(folder: Path, document: object = SWEEP) -> str:
    (folder / "street.yaml").write_text(yaml.safe_dump(document))
    return str(folder / "street.yaml")


def value(holder: Any, key: str) -> Any:
    for part in filter(None, key.split(".")):
        holder = holder[int(part)] if isinstance(holder, list | tuple) else (
            getattr(holder, part) if isinstance(holder, BaseModel) else holder[part]
        )  # fmt: skip
    return getattr(holder, "path", holder)


def with_value(key: str, new: str) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load(yaml.safe_dump(SWEEP))
    *above, last = key.split(".")
    holder = value(document, ".".join(above))
    holder[last] = new
    return document


def test_the_list_has_every_setting_that_is_marked_as_a_path() -> None:
    marked = [".".join(map(str, found.keys)) for found in paths_in(yaml.safe_load(yaml.safe_dump(SWEEP)), SweepConfig)]  # fmt: skip
    assert sorted(marked) == sorted(PATHS)


def test_no_setting_that_is_described_as_a_file_or_folder_lacks_the_mark() -> None:
    below_root = {"images", "masks", "train", "tune", "test", "classes", "train_labels"}
    no_path = {"key"}  # of a set of weights in a file
    text = {"type": "string"}
    schema = SweepConfig.model_json_schema()
    models = {"SweepConfig": schema, **schema["$defs"]}
    described = {
        name
        for model in models.values()
        for name, field in model.get("properties", {}).items()
        if text in ({"type": field.get("type")}, *({"type": part.get("type")} for part in field.get("anyOf", ())))
        and re.search(r"\b(file|folder|path|by default MLFLOW\w+)\b", field.get("description", ""))
    }  # fmt: skip
    marked = {key.rpartition(".")[2] for key in PATHS} | {"path"}
    # a checkpoint may be a mapping, and a root is no plain text in the schema
    assert described - below_root - no_path == marked - {"checkpoint", "root"}


@pytest.mark.parametrize("key", PATHS)
def test_a_relative_path_is_beside_the_sweep_file_from_any_folder_and_through_a_job(
    elsewhere: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    mine = tmp_path / "mine"
    text = value(SWEEP, key)
    prefix, name = ("sqlite:///", "mlflow.db") if text.startswith("sqlite") else ("", text)
    expected = f"{prefix}{mine / name}"
    assert str(value(load_sweep(written(mine)), key)) == expected
    written(mine)
    assert str(value(load_sweep("../mine/street.yaml"), key)) == expected
    staged, overrides = with_absolute_paths("../mine/street.yaml", [f"{key}={prefix}{name}2"])
    job = tmp_path / "job"
    job.mkdir()
    monkeypatch.setattr("orchestrator.cluster.job_submission._PACKAGES", ())
    monkeypatch.chdir(job)
    assert str(value(load_sweep(stage(job, "../mine/street.yaml", staged)), key)) == expected
    # what is typed on the command line is below the folder in which it is typed
    found = str(value(load_sweep("street.yaml", overrides), key))
    assert found == (f"{prefix}{elsewhere / name}2" if key != "pairs.3.teacher.checkpoint.path" else "saved2")


@pytest.mark.parametrize("key", PATHS)
def test_a_path_that_exists_only_in_the_working_folder_is_refused_with_what_to_write(
    elsewhere: Path, tmp_path: Path, key: str
) -> None:
    document = with_value(key, "sqlite:///only.here" if key.endswith("uri") else "only.here")
    (elsewhere / "only.here").write_text("")
    source = written(tmp_path / "mine", document)
    with pytest.raises(UsageError, match=rf"street.yaml:\d+: {key} is only.here") as refusal:
        load_sweep(source)
    assert f"{elsewhere / 'only.here'} exists" in str(refusal.value)
    assert "write ../elsewhere/only.here or the whole path" in str(refusal.value)


@pytest.mark.parametrize("key", PATHS)
def test_the_home_folder_is_expanded_where_the_file_is_read_or_on_each_node(
    elsewhere: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    on_each_node = key in {
        "operation.cache.folder", "operation.teacher_outputs.folder", "operation.remote_copies.folder"
    }  # fmt: skip
    source = written(tmp_path / "mine", with_value(key, "~/there"))
    assert str(value(load_sweep(source), key)) == ("~/there" if on_each_node else "/home/ada/there")


def test_addresses_absolute_paths_and_names_of_the_hub_stay_as_they_are(
    elsewhere: Path, tmp_path: Path
) -> None:
    document = with_value("data.mine.root", "s3://bucket/voc")
    document["pairs"][3]["teacher"]["checkpoint"]["path"] = "nvidia/segformer-b4"
    document["operation"]["teachers"] = "/shared/teachers"
    config = load_sweep(written(tmp_path / "mine", document))
    assert str(config.data["mine"].root) == "s3://bucket/voc"  # type: ignore[union-attr]
    assert config.pairs[3].teacher.checkpoint.path == "nvidia/segformer-b4"  # type: ignore[union-attr]
    assert config.operation.teachers == "/shared/teachers"


def test_the_check_of_data_reads_paths_as_a_sweep_does(elsewhere: Path, tmp_path: Path) -> None:
    (tmp_path / "mine" / "classes.csv").write_text("value,name\n0,sky\n1,road\n")
    mine = {"kind": "folder", "root": ".", "classes": "classes.csv"}
    source = written(tmp_path / "mine", {"data": {"mine": mine}})
    configs, _, _ = read_configs(Path(source))
    assert configs["mine"].root == tmp_path / "mine"  # type: ignore[union-attr]
    (elsewhere / "pictures").mkdir()
    written(tmp_path / "mine", {"data": {"mine": {**mine, "root": "pictures"}}})
    with pytest.raises(UsageError, match=r"street.yaml:\d+: data.mine.root is pictures, which means"):
        read_configs(Path(source))
