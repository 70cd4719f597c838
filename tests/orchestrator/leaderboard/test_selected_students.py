"""Which student leaves the run: what the board writes of it, and what the export reads."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from distill.errors import UsageError
from distill.export.__main__ import ExportOptions, export
from distill.export.source import read_source
from distill.models import CheckpointMetadata, build_model, load_model, save_model
from distill.segmenter import load_segmenter
from orchestrator.leaderboard.files import write_leaderboard
from orchestrator.ledger.tables import Ledger
from tests.orchestrator.leaderboard.synthetic import Run, write_run

NAMES = ("road", "sky", "tree", "<car>")
PALETTE = ((1, 2, 3), (250, 0, 0), (0, 250, 0), (0, 0, 250))
TUNE = {1: 0.5, 2: 0.7, 3: 0.6}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with weights of every final run, each of them another model; seed 2 is best on tune, seed 3 on test."""
    folder = tmp_path_factory.mktemp("run")
    ledger = write_run(folder, Run(pairs=("big_to_small", "wide_to_thin"), config_yaml=""))
    rows = [
        {
            **row,
            "attempt": 2,
            "tune_miou": TUNE[row["seed"]],
            "params": {},
            "checkpoint": f"models/{row['trial_id']}.safetensors",
        }
        for row in ledger.read("trials").to_pylist()
        if row["phase"] == "final"
    ]
    ledger.append("trials", rows, "again")
    for number, row in enumerate(rows):
        torch.manual_seed(number)
        notes = {"trial_id": row["trial_id"], "licence": "a page | with a bar", "crop": [32, 64]}
        metadata = CheckpointMetadata(NAMES, palette=PALETTE, notes=notes)
        save_model(folder / row["checkpoint"], build_model("fcn-test_resnet", 4, head_channels=8), metadata)
    write_leaderboard([ledger])
    return folder


def trial_of(run: Path, method: str, seed: int, pair: str = "big_to_small") -> str:
    rows = Ledger(run).read("trials").to_pylist()
    return next(
        str(r["trial_id"])
        for r in rows
        if (r["phase"], r["method"], r["seed"], r["pair"]) == ("final", method, seed, pair)
    )


def test_the_pairs_best_method_is_taken_by_its_best_seed_on_tune(run: Path) -> None:
    source = read_source(str(run), "big_to_small", None)
    assert source.row is not None
    assert (source.row["method"], source.row["seed"], source.row["best"]) == ("cwd", 2, True)
    assert source.metadata.notes["trial_id"] == trial_of(run, "cwd", 2)
    other = read_source(str(run), "big_to_small", "student")
    assert other.metadata.notes["trial_id"] == trial_of(run, "student", 2)
    assert other.row is not None
    assert (other.row["best"], other.row["gain"]) == (False, None)


def test_the_row_says_what_the_board_says(run: Path) -> None:
    source = read_source(str(run), "wide_to_thin", "kd")
    (row,) = [
        r for r in json.loads((run / "leaderboard" / "leaderboard.json").read_text()) if r["method"] == "kd"
    ]
    assert source.row is not None
    assert source.row["gain"][0] == pytest.approx(row["gain[wide_to_thin]"])
    assert source.row["gain"][1] < source.row["gain"][0] < source.row["gain"][2]
    assert source.row["commit"] == "0" * 40


def test_an_export_computes_what_the_run_kept_and_its_card_tells_the_row(run: Path, tmp_path: Path) -> None:
    export(ExportOptions(str(run), "big_to_small", output=tmp_path, onnx=False))
    kept, _ = load_model(run / "models" / f"{trial_of(run, 'cwd', 2)}.safetensors")
    model, metadata = load_model(tmp_path / "model.safetensors")
    images = torch.randn(1, 3, 50, 70)
    assert torch.equal(model.eval()(images).logits, kept.eval()(images).logits)
    assert (metadata.classes, metadata.palette) == (NAMES, PALETTE)
    assert metadata.notes["board"]["method"] == "cwd"
    card = (tmp_path / "MODEL_CARD.md").read_text()
    row = metadata.notes["board"]
    assert f"| test mIoU of these weights | {100 * row['test_miou']:.1f} |" in card
    assert f"| gain over it, paired by seed | {100 * row['gain'][0]:+.1f} [" in card
    assert "parameters (M)" in card
    assert "commit 000000000000" in card
    assert "a page \\| with a bar" in card
    assert "\\<car\\>" in card
    assert card.count("## Use") == 1
    assert f"models/{row['trial_id']}" not in card
    assert not (tmp_path / "model.onnx").exists()


@pytest.mark.slow
def test_the_cards_program_runs_as_it_stands(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    export(ExportOptions(str(run), "big_to_small", output=tmp_path))
    capsys.readouterr()
    picture = np.random.default_rng(0).integers(0, 256, (41, 67, 3), dtype=np.uint8)
    sideways = Image.Exif()
    sideways[0x0112] = 8
    Image.fromarray(np.rot90(picture, -1)).save(tmp_path / "picture.png", exif=sideways)
    programs = [p.split("```")[0] for p in (tmp_path / "MODEL_CARD.md").read_text().split("```python\n")[1:]]
    assert len(programs) == 2
    shown = "\nimport numpy\nprint(numpy.asarray(classes).reshape(41, 67).sum())"
    monkeypatch.chdir(tmp_path)
    sums = []
    for program in programs:
        exec(compile(program + shown, "<the card>", "exec"), {"__name__": "__main__"})
        sums.append(capsys.readouterr().out)
    expected = load_segmenter(tmp_path / "model.safetensors").labels(picture)
    assert sums == [f"{expected.sum()}\n"] * 2


def test_a_single_model_file_is_exported_with_a_card_that_gives_no_score(run: Path, tmp_path: Path) -> None:
    file = run / "models" / f"{trial_of(run, 'kd', 1)}.safetensors"
    export(ExportOptions(str(file), output=tmp_path / "out", onnx=False))
    card = (tmp_path / "out" / "MODEL_CARD.md").read_text()
    assert "this card gives no score" in card
    assert "GFLOPs at 32×64" in card
    with pytest.raises(UsageError, match="must not be written over"):
        export(
            ExportOptions(str(tmp_path / "out" / "model.safetensors"), output=tmp_path / "out", onnx=False)
        )


@pytest.mark.parametrize(
    ("pair", "method", "message"),
    [
        (None, None, "has 2 pairs; choose one with --pair: big_to_small, wide_to_thin"),
        ("big_to_smal", None, "did you mean 'big_to_small'"),
        ("big_to_small", "cwdd", "did you mean 'cwd'"),
    ],
)
def test_a_wrong_choice_is_answered_with_the_right_ones(
    run: Path, pair: str | None, method: str | None, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        read_source(str(run), pair, method)


def test_missing_parts_of_a_run_are_named_with_the_remedy(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"holds no leaderboard/students\.json: give a run's folder"):
        read_source(str(tmp_path), "big_to_small", None)
    bare = tmp_path / "bare"
    write_leaderboard([write_run(bare, Run())])
    with pytest.raises(UsageError, match="no weights were saved for cwd on big_to_small"):
        read_source(str(bare), "big_to_small", None)
    without = tmp_path / "without" / "leaderboard"
    without.mkdir(parents=True)
    (without / "students.json").write_bytes((run / "leaderboard" / "students.json").read_bytes())
    with pytest.raises(UsageError, match=r"models/\w+\.safetensors is missing"):
        read_source(str(without.parent), "big_to_small", None)
    kept, other = trial_of(run, "cwd", 2), trial_of(run, "kd", 2)
    (without.parent / "models").mkdir()
    wrong = (run / "models" / f"{other}.safetensors").read_bytes()
    (without.parent / "models" / f"{kept}.safetensors").write_bytes(wrong)
    with pytest.raises(UsageError, match=f"holds trial {other}, must hold {kept}"):
        read_source(str(without.parent), "big_to_small", None)


@pytest.mark.parametrize("module", ["distill.export.__main__", "distill.predict", "orchestrator.gallery"])
def test_help_needs_none_of_the_slow_libraries(module: str) -> None:
    slow = "{'torch', 'ray', 'pandas', 'pyarrow', 'scipy', 'numpy', 'PIL', 'pydantic', 'onnxruntime'}"
    code = f"import sys, {module}; print(sorted({slow} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
