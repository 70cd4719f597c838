"""Teachers that were made elsewhere, from the sweep file to the board."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml

from distill.data import ScenesConfig, build_dataset
from distill.data.config import SCENE_CLASSES, AugmentationConfig
from distill.data.stream import stream
from distill.methods.pixels import cross_entropy
from distill.normalisation import normalise
from orchestrator.console.exit_codes import DONE, USAGE
from orchestrator.console.summary import outcome
from orchestrator.controller.run_state import Run
from orchestrator.ledger.tables import Ledger
from orchestrator.planning.plan import make_plan
from orchestrator.sweep import SweepOptions, command
from tests.distill.data.trees import write_folder_tree
from tests.distill.models.foreign_models import Plain, dpt, export, exported_by_us, segformer, upernet
from tests.orchestrator.sweep_files import tiny_sweep
from tests.orchestrator.sweeps import Sweep, run

pytestmark = pytest.mark.timeout(300)
SCENES = {"kind": "scenes", "size": 32, "classes": 4, "train": 16, "teacher_train": 64, "tune": 8, "test": 16}
CLASSES = ["sky", "building", "road", "sidewalk"]


def trained_briefly(model: torch.nn.Module, steps: int = 120) -> torch.nn.Module:
    """A model of transformers after some steps on generated scenes, whose class 0 is of no use."""
    scenes = build_dataset(ScenesConfig.model_validate(SCENES), "train", role="teacher")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    model.train()
    batches = stream(scenes, AugmentationConfig(crop=(32, 32), scale=(1.0, 1.5)), batch_size=8, seed=0)
    for _, batch in zip(range(steps), batches, strict=False):
        here = batch.labels_bhw.long()
        labels = here.where(here == 255, here + 1)
        logits = model(normalise(batch.images_b3hw)).logits
        optimizer.zero_grad()
        cross_entropy(logits, labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return model.eval()


@pytest.fixture(scope="module")
def hub_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("transformers", reason="the extra `hub` is not installed")
    folder = tmp_path_factory.mktemp("hub") / "upernet"
    untrained().save_pretrained(folder)  # type: ignore[operator]
    return folder


def untrained() -> torch.nn.Module:
    names = dict(enumerate(["nothing", *CLASSES]))
    return upernet(5, id2label=names, label2id={v: k for k, v in names.items()})


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(Plain().eval(), tmp_path_factory.mktemp("program") / "plain.pt2")


def document(hub_folder: Path, program: Path) -> dict[str, Any]:
    recipe = {"steps": 12, "batch_size": 4, "augmentation": {"crop": 32, "scale": [1.0, 1.5]}, "lr": 0.02}
    student = {"model": "deeplabv3-test_resnet", "head_channels": 8, "recipe": "short"}
    hub = {
        "model": "upernet-of-the-hub",
        "checkpoint": {"kind": "transformers", "path": str(hub_folder)},
        "class_map": {name: name for name in CLASSES},
    }
    exported = {
        "model": "plain-program",
        "checkpoint": {
            "kind": "export", "path": str(program), "family": "cnn", "classes": CLASSES,
            "taps": {"stages": ["fine", "fine", "coarse", "coarse"], "logits": "logits"},
        },
        "sha256": hashlib.sha256(program.read_bytes()).hexdigest(),
    }  # fmt: skip
    return {
        "name": "foreign",
        "data": {"scenes": dict(SCENES)},
        "recipes": {"short": recipe},
        "pairs": [
            {"name": "hub", "teacher": hub, "student": student, "data": "scenes"},
            {"name": "program", "teacher": exported, "student": student, "data": "scenes"},
        ],
        "methods": ["student", "kd"],
        "search": {"trials": 0},
        "final": {"seeds": [1]},
    }


def write(folder: Path, content: dict[str, Any]) -> Path:
    path = folder / "foreign.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


@pytest.mark.ray
@pytest.mark.long
def test_a_teacher_of_transformers_is_scored_and_then_teaches_a_cnn(program: Path, tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="the extra `hub` is not installed")
    trained_briefly(untrained()).save_pretrained(tmp_path / "upernet")  # type: ignore[operator]
    content = document(tmp_path / "upernet", program)
    content["pairs"] = content["pairs"][:1]
    sweep = run(write(tmp_path, content), tmp_path / "run")
    assert sweep.process.returncode == DONE, sweep.text()
    rows = pd.read_parquet(tmp_path / "run" / "tables" / "trials")
    assert rows.groupby(["phase", "status"]).size().to_dict() == {("final", "ok"): 2, ("teacher", "ok"): 1}
    (teacher,) = rows[rows.phase == "teacher"].itertuples()
    assert teacher.finished_at < rows[rows.phase == "final"].started_at.min()
    assert teacher.test_miou > 0.3  # its classes stand where the map puts them
    curves = Ledger(tmp_path / "run").read("curves").to_pandas().set_index("trial_id").terms_raw.map(dict)
    assert all(curves[trial]["kd"] > 0 for trial in rows[rows.method == "kd"].trial_id)
    sizes = Ledger(tmp_path / "run").read("models").to_pandas().set_index("name").params
    assert sizes["upernet-of-the-hub"] == sum(p.numel() for p in upernet(5).parameters())
    assert "WARNING" not in sweep.text()


@pytest.mark.ray
@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_sweep_with_a_teacher_of_each_kind_on_pictures_of_180_by_240_ends_with_a_board(
    tmp_path: Path,
) -> None:
    pytest.importorskip("transformers", reason="the extra `hub` is not installed")
    import torchvision

    classes = 9
    root = write_folder_tree(tmp_path / "pictures", train=6, test=1, size=(180, 240))
    sources: dict[str, Any] = {}
    for make in (segformer, upernet, dpt):
        make(classes).save_pretrained(tmp_path / make.__name__)  # type: ignore[operator]
        sources[make.__name__] = {"kind": "transformers", "path": str(tmp_path / make.__name__)}
    seen = torchvision.models.segmentation.fcn_resnet50(
        weights=None, weights_backbone=None, num_classes=classes
    )
    torch.save({"model": seen.state_dict(), "epoch": 1}, tmp_path / "fcn.pth")
    sources["fcn-resnet50"] = {"kind": "torchvision", "path": str(tmp_path / "fcn.pth")}
    sources["segformer-test_resnet"] = {"kind": "run", "path": str(exported_by_us(tmp_path, SCENE_CLASSES))}
    programs = {"torchscript": tmp_path / "plain.pt", "export": tmp_path / "plain.pt2"}
    torch.jit.save(torch.jit.script(Plain(classes).eval()), programs["torchscript"])
    export(Plain(classes), programs["export"], multiple=1)
    taps = {"stages": ["fine", "fine", "coarse", "coarse"], "logits": "logits"}
    for kind, path in programs.items():
        about = {"family": "cnn", "classes": classes, "taps": taps}
        sources[kind] = {"kind": kind, "path": str(path), **about}
    student = {"model": "deeplabv3-test_resnet", "head_channels": 8, "recipe": "short"}
    content = {
        "name": "kinds",
        "data": {"mine": {"kind": "folder", "root": str(root), "classes": "classes.csv"}},
        "recipes": {"short": {"steps": 2, "lr": 0.01, "batch_size": 2, "augmentation": {"crop": 64, "scale": [0.5, 1.0]}}},
        "pairs": [
            {"name": name.replace("-", "_"), "teacher": {"model": name, "checkpoint": source}, "student": student, "data": "mine"}
            for name, source in sources.items()
        ],
        "methods": ["student", "kd"],
        "search": {"trials": 0},
        "final": {"seeds": [1]},
    }  # fmt: skip
    for pair, path in zip(content["pairs"][-2:], programs.values(), strict=True):  # type: ignore[index]
        pair["teacher"]["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()  # type: ignore[index]
    sweep = Sweep(write(tmp_path, content), tmp_path / "run")
    sweep.finish(800)
    assert sweep.process.returncode == DONE, sweep.text()
    rows = pd.read_parquet(tmp_path / "run" / "tables" / "trials")
    taught = rows[(rows.phase == "final") & (rows.method == "kd")]
    assert set(taught[taught.status == "ok"].pair) == {name.replace("-", "_") for name in sources}
    assert (tmp_path / "run" / "leaderboard" / "LEADERBOARD.md").is_file()


def ended(study_id: str, phase: str, **scores: float) -> dict[str, Any]:
    return {
        "trial_id": f"{study_id}-{phase}",
        "attempt": 1,
        "study_id": study_id,
        "phase": phase,
        "status": "ok",
        **scores,
    }


@pytest.mark.parametrize(
    ("phase", "split", "teacher", "alone", "told"),
    [
        ("search", "tune", 0.4, 0.5, ["40.0 mIoU on tune, its student alone 50.0"]),
        ("final", "test", 0.4, 0.5, ["40.0 mIoU on test, its student alone 50.0"]),
        ("final", "test", 0.5, 0.4, []),
    ],
)
def test_a_teacher_below_its_student_alone_is_told_with_both_scores(
    tmp_path: Path, phase: str, split: str, teacher: float, alone: float, told: list[str]
) -> None:
    plan = make_plan(tiny_sweep())
    study = next(study for study in plan.studies if study.method == "student")
    ledger = Ledger(tmp_path)
    column = f"{split}_miou"
    rows = [
        ended(study.teacher.teacher_id, "teacher", **{column: teacher}),
        ended(study.study_id, phase, **{column: alone}),
    ]
    ledger.append("trials", rows, "trials")
    found = outcome(Run(ledger, plan), 0)["overtaken_teachers"]
    assert len(found) == len(told)
    assert all(part in sentence for part, sentence in zip(told, found, strict=True))


@pytest.mark.parametrize(
    ("pair", "change", "expected"),
    [
        (0, {"class_map": None}, "5 classes (nothing, sky, building, road, sidewalk) are not the data set's 4"),
        (0, {"class_map": {"sky": "sky"}}, "class_map lacks building, road, sidewalk"),
        (0, {"checkpoint": {"kind": "transformers", "path": "nowhere"}}, "no such folder"),
        (0, {"checkpoint": {"kind": "transformer", "path": "x"}}, "'transformer'"),
        (0, {"checkpoint": {"kind": "transformers", "paht": "x"}}, "did you mean 'path'"),
        (0, {"head_channels": 8}, "head_channels cannot be set: the checkpoint decides"),
        (1, {"sha256": None}, "kind export is a program and runs as it is: give its `sha256`"),
        (1, {"sha256": "0" * 64}, f"the config demands {'0' * 64}"),
        (1, {"checkpoint": None, "recipe": "short", "sha256": None, "model": "plain-program"}, "head 'plain'"),
        (1, {"checkpoint": None, "recipe": "short"}, "`class_map` and `sha256` belong to a `checkpoint`"),
    ],
)  # fmt: skip
def test_a_teacher_that_does_not_fit_is_refused_before_anything_runs(
    hub_folder: Path, program: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    pair: int, change: dict[str, Any], expected: str,
) -> None:  # fmt: skip
    content = document(hub_folder, program)
    content["pairs"][pair]["teacher"].update(change)
    source = write(tmp_path, content)
    assert command(SweepOptions(source=str(source), output=str(tmp_path / "run"))) == USAGE
    assert expected in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_plan_says_which_teachers_its_cost_leaves_out(
    hub_folder: Path, program: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write(tmp_path, document(hub_folder, program))
    assert command(SweepOptions(source=str(source), dry_run=True)) == DONE
    assert "not in it: passes of plain-program, upernet-of-the-hub" in capsys.readouterr().out
