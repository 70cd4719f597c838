"""The tour of the docs, command by command, on one real sweep; and what it must leave behind."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from PIL import Image

from distill.data import ScenesConfig, build_dataset
from distill.segmenter import load_segmenter
from orchestrator.ledger.tables import Ledger
from orchestrator.worker.gallery_writer import write_gallery
from tests import ROOT
from tests.orchestrator.sweeps import descendants

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]

PAGE = ROOT / "docs" / "tour.md"


@dataclass(frozen=True)
class Step:
    language: str
    text: str
    said: str


def snippets() -> Iterator[tuple[str, str]]:
    """The page's commands and programs; ```bash marks the set-up, which this machine has behind it."""
    for found in re.finditer(r"^```(sh|python)\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL):
        yield found[1], found[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tour")


# Runs what follows the sweep one after the other in one process, as `python` and `python -m` would: torch is imported once.
ONE_AFTER_THE_OTHER = """
import contextlib, io, json, runpy, shlex, sys
said = []
for language, text in json.load(sys.stdin):
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        if language == "python":
            exec(compile(text, "<the tour>", "exec"), {"__name__": "__main__"})
        else:
            python, dash_m, module, *arguments = shlex.split(text)
            assert (python, dash_m) == ("python", "-m"), text
            sys.argv = [module, *arguments]
            try:
                runpy.run_module(module, run_name="__main__", alter_sys=True)
            except SystemExit as end:
                assert not end.code, text
    said.append(printed.getvalue())
print(json.dumps(said))
"""

# Every Python imports this; a command tells at its end what it has imported.
TELLING = """
import atexit, os, pathlib, sys
def tell():
    name = pathlib.Path(sys.argv[0]).stem
    if name == "sweep":
        pathlib.Path(os.environ["TELL"], name).write_text(str("torch" in sys.modules))
atexit.register(tell)
"""


@pytest.fixture(scope="module")
def steps(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Step]:
    telling = tmp_path_factory.mktemp("telling")
    (telling / "sitecustomize.py").write_text(TELLING)
    environment = {
        **os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(telling)]), "TELL": str(folder)
    }  # fmt: skip
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"

    def output_of(command: list[str], given: str = "") -> str:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            said, complained = process.communicate(given)
        finally:
            for pid in [*descendants(process.pid), process.pid] if process.poll() is None else ():
                os.kill(pid, signal.SIGKILL)
        assert process.returncode == 0, f"{command}\n{said}\n{complained}"
        return said

    dry_run, sweep, *later = snippets()
    assert "--dry-run" in dry_run[1]
    said = [output_of(["sh", "-ec", text]) for _, text in (dry_run, sweep)]
    said += json.loads(output_of([sys.executable, "-c", ONE_AFTER_THE_OTHER], json.dumps(later)))
    return [Step(*snippet, text) for snippet, text in zip((dry_run, sweep, *later), said, strict=True)]


def test_every_command_of_the_tour_runs_and_leaves_what_it_promises(steps: list[Step], folder: Path) -> None:
    assert [step.language for step in steps] == ["sh", "sh", "sh", "sh", "python", "sh", "sh", "python"]
    board = folder / "runs" / "smoke" / "leaderboard"
    assert "gallery.html" in next(step.said for step in steps if step.text.endswith("sweep smoke\n"))
    assert '<a href="gallery.html">' in (board / "leaderboard.html").read_text()
    assert (
        folder / "sweep"
    ).read_text() == "False"  # pictures are predicted where torch is: by a worker group
    gallery = (board / "gallery.html").read_text()
    assert gallery.count("<figure") == 2 * 3 * 6
    assert {path.name for path in (folder / "my-model").iterdir()} == {
        "model.safetensors", "model.onnx", "MODEL_CARD.md",
    }  # fmt: skip
    assert {path.name for path in (folder / "predictions").iterdir()} == {
        "street.mask.png", "street.overlay.jpg", "classes.csv",
    }  # fmt: skip
    assert "sky: " in steps[-1].said


def test_a_prediction_has_the_pictures_size_and_the_data_sets_palette(
    steps: list[Step], folder: Path
) -> None:
    mask = Image.open(folder / "predictions" / "street.mask.png")
    dataset = build_dataset(ScenesConfig(size=32, classes=4), "test")
    assert mask.size == (160, 96)
    assert mask.getpalette()[:12] == [channel for colour in dataset.palette for channel in colour]  # type: ignore[index]
    assert np.asarray(mask).max() < 4


def test_the_exported_files_predict_as_the_run_does(steps: list[Step], folder: Path) -> None:
    """Weights and graph of the export, and the model that the run has kept, by the number that its card tells."""
    card = (folder / "my-model" / "MODEL_CARD.md").read_text()
    segmenter = load_segmenter(folder / "my-model" / "model.safetensors")
    rows = Ledger(folder / "runs" / "smoke").read("trials").to_pylist()
    scores = {row["checkpoint"]: row["test_miou"] for row in rows if row["phase"] == "final"}
    kept = [
        path
        for path in scores
        if np.array_equal(
            _noise_labels(load_segmenter(folder / "runs" / "smoke" / path)), _noise_labels(segmenter)
        )
        and f"| test mIoU of these weights | {100 * scores[path]:.1f} |" in card
    ]
    assert len(kept) == 1
    session = onnxruntime.InferenceSession(
        folder / "my-model" / "model.onnx", providers=["CPUExecutionProvider"]
    )
    (classes,) = session.run(["classes"], {"image": _noise()[None]})
    assert (classes[0] == _noise_labels(segmenter)).mean() > 0.999


def test_a_gallery_without_weights_says_so_and_takes_the_old_one_away(
    steps: list[Step], folder: Path
) -> None:
    """The sweep that made the board must not fail for it."""
    run = Ledger(folder / "runs" / "smoke")
    copy = Ledger(folder / "copy")
    for path in run.list():
        if not path.startswith("models/"):
            copy.write_bytes(path, run.read_bytes(path))
    made, notes = write_gallery(copy)
    assert made is None
    assert len(notes) == 2
    assert all("the gallery leaves out" in note and "models/" in note for note in notes)
    assert not copy.exists("leaderboard/gallery.html")


def _noise() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (77, 101, 3), dtype=np.uint8)


def _noise_labels(segmenter: object) -> np.ndarray:
    return segmenter.labels(_noise())  # type: ignore[attr-defined]
