"""Bad input: value, rule, remedy and place, exit 2, before anything runs and with nothing touched."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from orchestrator.console.exit_codes import USAGE
from orchestrator.planning.loader import load_sweep
from orchestrator.sweep import SweepOptions, command
from tests.distill.data.trees import write_cityscapes_tree
from tests.orchestrator.sweeps import run

SWEEP = """\
name: mine
data:
  scenes: {kind: scenes, size: 32, classes: 4, train: 8, teacher_train: 8, tune: 4, test: 4}
recipes:
  short: {steps: 4, batch_size: 4, augmentation: {crop: 32}, lr: 0.01}
pairs:
  - teacher: {model: segformer-test_vit, recipe: short}
    student: {model: deeplabv3-test_resnet, recipe: short}
    data: scenes
methods:
  - student
  - name: heteroakd
    config: {tap: stride8}
search: {trials: 2, bracket: 2, wave: 4, finalists: 0}
final: {seeds: [1]}
"""


def refuse(capsys: pytest.CaptureFixture[str], tmp_path: Path, text: str = SWEEP, **options: object) -> str:
    """The message of a command that must refuse, and must leave the folder as it was."""
    file = tmp_path / "sweep.yaml"
    file.write_text(text)
    before = sorted(str(p) for p in tmp_path.rglob("*"))
    options.setdefault("output", str(tmp_path / "out"))
    assert command(SweepOptions(source=str(options.pop("source", file)), **options)) == USAGE  # type: ignore[arg-type]
    assert sorted(str(p) for p in tmp_path.rglob("*")) == before
    message = capsys.readouterr().err
    assert "Traceback" not in message
    return message


@pytest.mark.parametrize(
    ("old", "new", "line", "expected"),
    [
        ("final: {seeds: [1]}", "compute: {workers: 2, device: cuda}\noperation: {gpus_per_worker: 0.5}",
         16, "gpus_per_worker is 0.5, must be 1 where compute.workers is 2"),
        ("trials: 2", "trails: 2", 14, "unknown key 'search.trails'; did you mean 'trials'?"),
        ("lr: 0.01", "lr: -0.01", 5, "recipes.short.lr is -0.01, must be above 0"),
        ("train: 8, t", "trian: 8, t", 3, "did you mean 'train'?"),
        ("segformer-test_vit", "segformer-test_vits", 7, "did you mean 'test_vit'"),
        ("segformer-test_vit", "segfarmer-test_vit", 7, "did you mean 'segformer'?"),
        ("name: heteroakd", "name: heteroakt", 12, "did you mean 'heteroakd'?"),
        ("tap: stride8", "temperature: 0", 13, "temperature is 0, must be above 0"),
        ("tap: stride8", "hakd_weight: -1", 13, "hakd_weight is -1, must be at least 0"),
        ("tap: stride8", "tip: stride8", 13, "did you mean 'tap'?"),
        *(
            ("    config: {tap: stride8}", f"    space: {{{space}}}", 13, expected)
            for space, expected in (
                ("recipe.lr: {uniform: [-1, 1]}", "its space for recipe.lr has -1.0, must be above 0"),
                ("recipe.optimizer: {choice: [sgd, adum]}", "has 'adum', must be one of 'sgd' or 'adamw'"),
                ("recipe.clip_norm: {scale_log_uniform: [0.1, 10]}", "has factors, and the recipe has None; give the values"),
                ("recipe.warmup_steps: {uniform: [0, 4]}", "its space for recipe.warmup_steps has 1.6, must be a whole number"),
                ("recipe.batch_size: {choice: [2, 4]}", "recipe.batch_size, which cannot be searched"),
                ("hakd_weight: [1, 2]", "space.hakd_weight: must be a mapping such as {log_uniform: [0.1, 10]}"),
                ("hakd_weight: {loguniform: [1, 2]}", "'space.hakd_weight.loguniform'; did you mean 'log_uniform'?"),
                ("hakd_wait: {uniform: [1, 2]}", "did you mean 'hakd_weight'"),
            )
        ),
        ("    data: scenes", "    data: scene", 9, "did you mean 'scenes'?"),
        ("student: {model: deeplabv3-test_resnet, recipe: short}", "student: {model: deeplabv3-test_resnet, recipe: shirt}",
         8, "did you mean 'short'?"),
        ("batch_size: 4", "batch_size: 4, accumulate: 3", 5, "must be a multiple of 3"),
        ("{kind: scenes, size: 32, classes: 4, ", "{kind: folder, root: /x, classes: [a, a]} #", 3,
         "data.scenes: name 'a' occurs twice in classes"),
        ("{kind: scenes, size: 32, classes: 4, ", "{kind: folder, root: /x, classes: c.csv} #", 3,
         "class table /x/c.csv cannot be read"),
        ("{kind: scenes, size: 32, classes: 4, ", "{kind: voc, rot: /x} #", 3, "did you mean 'root'?"),
        ("lr: 0.01", "lr: 0.01, sliding_window: {size: 8, stride: 9}", 5, "stride is (9, 9), must be at most the size"),
        ("trials: 2", "trials: 2, sampler: tpe", 14, "search.sampler 'tpe' is called 'optuna' now"),
        ("trials: 2", "trials: 2, sampler: optona", 14, "did you mean 'optuna'?"),
        ("trials: 2", "trials: 2, sampler_options: {levels: 3}", 14, "has 'levels'; sampler 'sobol' has no options"),
        ("trials: 2", "trials: 20, sampler: grid", 14, "the grid of method 'student' has 16 points"),
        ("trials: 2", "trials: 2, pruning: mean", 14, "search.pruning"),
        ("trials: 2", "trials: 2, first: {kd: [{kd_weight: 1}]}", 14, "search.first: "),
        ("trials: 2", "trials: 2, first: {student: [{recipe.lr: 9, recipe.weight_decay: 1}]}", 14,
         "search.first.student.0.recipe.lr is 9, must be in {'scale_log_uniform': (0.25, 4.0)}"),
        ("bracket: 2, wave: 4", "bracket: 8, wave: 4", 14, "bracket is 8, must not be above wave (4)"),
        ("  - student\n", "", 10, "methods lack 'student'"),
        ("final: {seeds: [1]}", "final: {seeds: 2}", 15, "final.seeds is 2, must be a list of whole numbers such as [1, 2]"),
        ("trials: 2", "trials: 010", 14, "010 is 8 in YAML, to base 8; write 10 or 8"),
        ("final: {seeds: [1]}", "budget: {hours: 1:30}", 15, "1:30 is 90 in YAML, to base 60; write 90"),
        ("batch_size: 4", "batch_size: yes", 5, "recipes.short.batch_size is true, must be a number; YAML reads yes"),
        ("final: {seeds: [1]}", "final: {seeds: [on]}", 15, "final.seeds.0 is true, must be a number"),
        ("name: mine", "name: no", 1, "name is false, must be text; YAML reads no, off or false as false"),
    ],
)  # fmt: skip
def test_a_fault_in_the_sweep_file_is_named_with_its_line_and_remedy(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, old: str, new: str, line: int, expected: str
) -> None:
    assert old in SWEEP
    message = refuse(capsys, tmp_path, SWEEP.replace(old, new))
    assert expected in message
    assert f"sweep.yaml:{line}:" in message


def test_an_unknown_pair_is_answered_with_the_nearest(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    text = SWEEP.replace("pairs:\n", "pairs:\n  - {pair: mit_b4_to_deeplabv3_resnet81, data: scenes}\n")
    message = refuse(capsys, tmp_path, text)
    assert "sweep.yaml:7: pair 'mit_b4_to_deeplabv3_resnet81' is not known" in message
    assert "'mit_b4_to_deeplabv3_resnet18'" in message


def test_every_fault_is_told_at_once(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    message = refuse(capsys, tmp_path, SWEEP.replace("lr: 0.01", "lr: 0").replace("trials: 2", "trails: 2"))
    assert "recipes.short.lr" in message
    assert "search.trails" in message


def test_earlier_runs_and_samplers_that_cannot_be_used_are_refused_before_work_begins(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    text = SWEEP.replace("trials: 2", "trials: 2, from: [nothing]")
    assert f"search.from has {tmp_path}/nothing, which is no run" in refuse(capsys, tmp_path, text)
    text = SWEEP.replace("trials: 2", "trials: 2, sampler: hyperopt, sampler_options: {gama: 2}")
    assert "refuses search.sampler_options {'gama': 2}" in refuse(capsys, tmp_path, text)


def test_an_unknown_preset_is_answered_with_the_nearest(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert "did you mean 'laptop'" in refuse(capsys, tmp_path, source="lap-top")


def test_a_list_is_not_called_empty_because_its_entry_is_wrong(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    text = SWEEP.replace("{model: segformer-test_vit, recipe: short}", "{model: segformer-test_vit}")
    message = refuse(capsys, tmp_path, text)
    assert "a teacher needs either `recipe`" in message
    assert "number of entries" not in message
    assert "sweep.yaml: is empty, must be a mapping" in refuse(capsys, tmp_path, "# nothing\n")


@pytest.mark.parametrize("folder", ["s3://", "a\0b", ""])
def test_an_output_that_is_no_place_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, folder: str
) -> None:
    assert "must be a path or a URI such as s3://bucket/run" in refuse(capsys, tmp_path, output=folder)


def test_a_set_option_is_named_as_the_place(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "--set search.trials=-1: search.trials is -1" in refuse(capsys, tmp_path, set=["search.trials=-1"])
    assert "must be key=value" in refuse(capsys, tmp_path, set=["search.trials"])
    # rules about a section, and about a method's settings, name the option that is below them
    assert "sweep.yaml:14 with --set search.bracket=8: search: " in refuse(
        capsys, tmp_path, set=["search.bracket=8"]
    )
    assert "with --set methods.1.config.tap=none: " in refuse(
        capsys, tmp_path, set=["methods.1.config.tap=none"]
    )


def test_a_number_with_an_exponent_is_a_number_in_the_settings_of_a_method(tmp_path: Path) -> None:
    file = tmp_path / "sweep.yaml"
    file.write_text(SWEEP.replace("tap: stride8", "hakd_weight: 1e-1"))
    assert load_sweep(str(file)).methods[1].config == {"hakd_weight": 0.1}


@pytest.mark.parametrize("key", ["cache", "teacher_outputs"])
def test_a_folder_in_which_nothing_can_be_kept_is_refused_beforehand(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, key: str
) -> None:
    folder = tmp_path / "file" / "kept"
    folder.parent.write_text("no folder")
    message = refuse(capsys, tmp_path, f"{SWEEP}operation: {{{key}: {{folder: {folder}, gigabytes: 1}}}}\n")
    assert f"operation.{key}.folder is {folder} and cannot be written (Not a directory)" in message


def test_yaml_that_runs_code_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    message = refuse(capsys, tmp_path, SWEEP.replace("lr: 0.01", "lr: !!python/object/apply:os.getpid []"))
    assert "not valid YAML" in message


@pytest.mark.ray
@pytest.mark.long
def test_more_workers_than_the_machine_has_is_said_with_both_numbers(tmp_path: Path) -> None:
    sweep = run("smoke", tmp_path / "run", "--set", "compute={workers: 2, cpus_per_worker: 1000}")
    assert sweep.process.returncode == 2, sweep.text()
    assert "compute.workers is 2, each with 1000 CPUs: the cluster has room for 0" in sweep.text()


def cityscapes(tmp_path: Path) -> tuple[str, Path]:
    root = tmp_path / "cityscapes"
    write_cityscapes_tree(root)
    document = yaml.safe_load(SWEEP)
    document["data"] = {"scenes": {"kind": "cityscapes", "root": str(root)}}
    return yaml.safe_dump(document), root


def test_a_data_root_without_the_expected_folders_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    text, root = cityscapes(tmp_path)
    message = refuse(capsys, tmp_path, text.replace(str(root), str(tmp_path / "elsewhere")))
    assert "elsewhere" in message
    assert "leftImg8bit" in message


def test_an_image_that_is_not_an_image_is_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    text, root = cityscapes(tmp_path)
    victim = next(iter(sorted((root / "leftImg8bit" / "train").rglob("*.png"))))
    victim.write_text("this is not a picture")
    assert victim.name in refuse(capsys, tmp_path, text)


def test_a_label_value_outside_the_map_is_named_with_its_file(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    import cv2
    import numpy as np

    text, root = cityscapes(tmp_path)
    victim = next(iter(sorted((root / "gtFine" / "train").rglob("*_labelIds.png"))))
    labels = cv2.imread(str(victim), cv2.IMREAD_UNCHANGED)
    labels[0, 0] = 200
    cv2.imwrite(str(victim), np.asarray(labels))
    message = refuse(capsys, tmp_path, text)
    assert victim.name in message
    assert "200" in message


def test_a_folder_with_another_plan_is_refused_with_what_differs(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from orchestrator.ledger.run_folder import claim_run_folder
    from orchestrator.ledger.tables import Ledger
    from orchestrator.planning.plan import make_plan

    (tmp_path / "old.yaml").write_text(SWEEP)
    ledger = Ledger(tmp_path / "out")
    claim_run_folder(ledger, make_plan(load_sweep(str(tmp_path / "old.yaml"))), fresh=False)
    ledger.append("trials", [{"trial_id": "a", "attempt": 1}], "a-1")
    message = refuse(capsys, tmp_path, SWEEP.replace("lr: 0.01", "lr: 0.02"))
    assert "recipes.short.lr: there 0.01, here 0.02" in message
    assert "--fresh" in message


def test_a_folder_of_another_plan_in_which_nothing_was_trained_is_taken_over(tmp_path: Path) -> None:
    from orchestrator.ledger.repair import repair_run
    from orchestrator.ledger.run_folder import check_run_folder, claim_run_folder
    from orchestrator.ledger.tables import Ledger
    from orchestrator.planning.plan import make_plan
    from tests.orchestrator.sweep_files import tiny_sweep

    ledger = Ledger(tmp_path / "out")
    wrong, right = (make_plan(tiny_sweep(recipes__student__lr=lr)) for lr in (0.1, 0.2))
    claim_run_folder(ledger, wrong, fresh=False)
    ledger.append("provenance", [{"provenance_id": "p", "plan_hash": wrong.plan_hash}], "p")
    ledger.write_bytes("teachers/a.safetensors", b"trained by another run")
    assert repair_run(ledger, right) == []
    claim_run_folder(ledger, right, fresh=False)
    assert json.loads(ledger.read_bytes("plan.json"))["plan_hash"] == right.plan_hash
    assert ledger.read("provenance").num_rows == 0
    assert ledger.exists("teachers/a.safetensors")
    ledger.write_bytes("checkpoints/a/b", b"an interrupted training")
    with pytest.raises(ValueError, match="holds another plan"):
        check_run_folder(ledger, wrong, fresh=False)


@pytest.mark.parametrize("fresh", [False, True])
def test_a_folder_that_is_no_run_is_never_written_to(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, fresh: bool
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "models").mkdir()
    (tmp_path / "out" / "models" / "thesis.txt").write_text("years of work")
    assert "holds no run" in refuse(capsys, tmp_path, fresh=fresh)


def test_a_run_that_another_command_holds_says_who_and_a_dead_ones_lock_is_taken_over(tmp_path: Path) -> None:
    import os
    import socket
    import subprocess
    import time

    from distill.errors import UsageError
    from orchestrator.ledger.folder_lock import hold_run_folder
    from orchestrator.ledger.tables import Ledger

    ledger = Ledger(tmp_path)
    other = subprocess.Popen(["sleep", "60"])
    lock = {"host": socket.gethostname(), "pid": other.pid, "renewed": time.time()}
    (tmp_path / "lock.json").write_text(json.dumps(lock))
    try:
        with pytest.raises(UsageError, match=f"held by process {other.pid}"), hold_run_folder(ledger):
            pass
    finally:
        other.kill()
        other.wait()
    with hold_run_folder(ledger):
        assert json.loads((tmp_path / "lock.json").read_text())["pid"] == os.getpid()
    assert not (tmp_path / "lock.json").exists()
