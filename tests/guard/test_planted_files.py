"""Files of strangers: nothing in them is executed, and no link or name in them leads out of the run's folder."""

from __future__ import annotations

import ast
import contextlib
import hashlib
import json
import pickle
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from distill.data.__main__ import main as data_main
from distill.errors import UsageError
from distill.models import build_model, load_model
from distill.models.teachers import load_teacher, read_teacher
from distill.teacher_source import RunSource, TorchvisionSource, TransformersSource
from orchestrator import show
from orchestrator.console.exit_codes import USAGE
from orchestrator.leaderboard import __main__ as leaderboard
from orchestrator.ledger.folder_lock import refuse_if_held
from orchestrator.ledger.run_folder import claim_run_folder
from orchestrator.ledger.tables import Ledger
from orchestrator.planning.loader import load_sweep
from orchestrator.planning.plan import make_plan
from orchestrator.sweep import SweepOptions, command
from orchestrator.worker.checkpoint_manager import CheckpointManager
from tests import ROOT
from tests.orchestrator.worker.alone import alone_worker

SIZES = [(32, 32)]


class Bomb:
    """Unpickled, it leaves a file behind."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.mark,)


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    return tmp_path / "executed"


def bombs(mark: Path, path: Path) -> list[bytes]:
    """The pickle by itself, in torch's zip, and in torch's older format."""
    found = [pickle.dumps({"state_dict": Bomb(mark)})]
    for zipped in (True, False):
        torch.save({"state_dict": {"x": Bomb(mark)}}, path, _use_new_zipfile_serialization=zipped)
        found.append(path.read_bytes())
    return found


def test_the_bombs_go_off_where_pickles_are_read(mark: Path, tmp_path: Path) -> None:
    for bomb in bombs(mark, tmp_path / "x"):
        (tmp_path / "x").write_bytes(bomb)
        mark.unlink(missing_ok=True)
        with contextlib.suppress(RuntimeError):  # the bare pickle goes off before torch misses its own mark
            torch.load(tmp_path / "x", weights_only=False)
        assert mark.exists()


def teacher(source: object) -> None:
    read_teacher("fcn-resnet50", source, classes=("a", "b"), class_map=None, sizes=SIZES)  # type: ignore[arg-type]


def transformers_folder(path: Path) -> None:
    config = {"model_type": "segformer", "hidden_sizes": [8] * 4, "depths": [1] * 4, "num_attention_heads": [1] * 4,
              "mlp_ratios": [4] * 4, "decoder_hidden_size": 16}  # fmt: skip
    (path.parent / "config.json").write_text(json.dumps(config))
    teacher(TransformersSource(kind="transformers", path=str(path.parent)))


def hub_folder(path: Path) -> None:
    config = {"model_type": "dpt", "hidden_size": 12, "num_hidden_layers": 4, "num_attention_heads": 2, "image_size": 32,
              "backbone_out_indices": [0, 1, 2, 3], "is_hybrid": False}  # fmt: skip
    (path.parent / "config.json").write_text(json.dumps(config))
    teacher(TransformersSource(kind="transformers", path=str(path.parent)))


READERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "a model": ("model.safetensors", load_model),
    "a kept teacher": ("teacher.safetensors", load_teacher),
    "a checkpoint of a run": ("model.safetensors", lambda path: teacher(RunSource(path=str(path)))),
    "a state dict": ("w.pth", lambda path: teacher(TorchvisionSource(kind="torchvision", path=str(path)))),
    "a folder of transformers": ("pytorch_model.bin", transformers_folder),
    "a network of transformers": ("pytorch_model.bin", hub_folder),
    "backbone weights": ("w.pth", lambda path: build_model("fcn-test_resnet", 2, pretrained=path)),
    "backbone weights by another name": (
        "w.npz",
        lambda path: build_model("fcn-test_resnet", 2, pretrained=path),
    ),
    "backbone weights by timm's arguments": (
        "w.pth",
        lambda path: build_model("fcn-test_resnet", 2, backbone_args={"checkpoint_path": str(path)}),
    ),
    "a sweep file": ("sweep.yaml", lambda path: load_sweep(str(path))),
}


@pytest.mark.parametrize("place", READERS)
def test_a_pickle_is_executed_from_no_file_that_a_config_can_name(
    place: str, mark: Path, tmp_path: Path
) -> None:
    name, read = READERS[place]
    for bomb in bombs(mark, tmp_path / "bomb"):
        (tmp_path / name).write_bytes(bomb)
        with pytest.raises(UsageError):
            read(tmp_path / name)
        assert not mark.exists()


@pytest.mark.parametrize("name", ["images/a.png", "masks/a.png", "classes.csv", "train.txt"])
def test_a_pickle_is_executed_from_no_file_of_a_data_set(name: str, mark: Path, tmp_path: Path) -> None:
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    config = tmp_path / "data.yaml"
    config.write_text(f"kind: folder\nroot: {tmp_path}\nclasses: classes.csv\n")
    (tmp_path / "classes.csv").write_text("value,name\n0,a\n1,b\n")
    for bomb in bombs(mark, tmp_path / "bomb"):
        (tmp_path / name).write_bytes(bomb)
        assert data_main(["check", str(config), "--full"]) == 2
        assert not mark.exists()


def test_a_pickle_is_executed_from_no_checkpoint_of_a_strangers_run(mark: Path, tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "run")
    for number, bomb in enumerate(bombs(mark, tmp_path / "bomb")):
        folder = f"checkpoints/c/0000/{number:08d}"
        ledger.write_bytes(f"{folder}/rank0.pt", bomb)
        manifest = {"world_size": 1, "sha256": [hashlib.sha256(bomb).hexdigest()]}
        ledger.write_bytes(f"{folder}/manifest.json", json.dumps(manifest).encode())
        checkpoints = CheckpointManager(ledger, "c", alone_worker(), 2, 1.0)
        with pytest.raises(UsageError, match=r"cannot be read: .*; delete this checkpoint"):
            checkpoints.open_wave(0, all_workers=False)
        assert not mark.exists()


@pytest.mark.parametrize(
    "name", ["plan.json", "lock.json", "tables/trials/x.parquet", "tables/provenance/x.parquet"]
)
def test_a_pickle_or_any_other_bytes_in_a_strangers_run_end_in_a_sentence(
    name: str, mark: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    for data in [*bombs(mark, tmp_path / "bomb"), b"", b"[]", b'{"pid": -1}', b"[" * 5000, b"null"]:
        ledger = Ledger(run)
        ledger.write_bytes("tables/models/none", b"")
        ledger.write_bytes(name, data)
        if name.endswith(".json"):
            assert command(SweepOptions(source="smoke", output=str(run))) == USAGE
        for main, arguments in (
            (show.main, [str(run)]),
            (leaderboard.main, [str(run), "--output", str(tmp_path / "b")]),
        ):
            monkeypatch.setattr(sys, "argv", ["x", *arguments])
            if name.endswith(".parquet"):
                with pytest.raises(SystemExit) as end:
                    main()
                assert end.value.code == 2
        assert not mark.exists()
        assert "Traceback" not in capsys.readouterr().err


FORBIDDEN = {"allow_pickle", "read_pickle", "unsafe_load", "full_load", "UnsafeLoader", "FullLoader", "joblib", "shelve",
             "marshal", "cloudpickle", "dill", "trust_remote_code"}  # fmt: skip


def unsafe_calls(path: Path) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        names = {getattr(node, "id", None), getattr(node, "attr", None), getattr(node, "arg", None)}
        names |= {alias.name for alias in getattr(node, "names", []) if isinstance(alias, ast.alias)}
        found += [f"{path.name}:{node.lineno}: {name}" for name in names & FORBIDDEN]
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        given = {word.arg: ast.unparse(word.value) for word in node.keywords}
        if called in (
            "eval",
            "exec",
            "pickle.load",
            "pickle.loads",
            "yaml.load",
            "yaml.load_all",
            "os.system",
        ):
            found.append(f"{path.name}:{node.lineno}: {called}")
        if called == "torch.load" and given.get("weights_only") != "True":
            found.append(f"{path.name}:{node.lineno}: {called} without weights_only")
        if given.get("shell") == "True":
            found.append(f"{path.name}:{node.lineno}: a shell")
    return found


def test_no_source_file_unpickles_or_runs_text() -> None:
    files = [
        path
        for package in ("distill", "orchestrator", "search_spaces")
        for path in (ROOT / package).rglob("*.py")
    ]
    assert len(files) > 100
    found = [call for path in files for call in unsafe_calls(path)]
    # What is asked of a node is sent there by value; nothing is read by it.
    assert [call for call in found if not re.fullmatch(r"preflight\.py:\d+: cloudpickle", call)] == []


def test_an_unsafe_call_would_be_found(tmp_path: Path) -> None:
    (tmp_path / "x.py").write_text("import torch\ntorch.load(p)\nnp.load(p, allow_pickle=True)\neval(p)\n")
    assert len(unsafe_calls(tmp_path / "x.py")) == 3


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "thesis.txt").write_text("years of work")
    return folder


@pytest.mark.parametrize("path", ["../outside/x", "/etc/x", "a/../../outside/x", "..", ""])
def test_a_name_never_leads_out_of_the_run(path: str, tmp_path: Path, outside: Path) -> None:
    ledger = Ledger(tmp_path / "run")
    for act in (ledger.read_bytes, ledger.delete, ledger.exists, lambda path: ledger.write_bytes(path, b"x")):
        with pytest.raises(UsageError, match="must be relative to the run and stay inside it"):
            act(path)
    assert [file.name for file in outside.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("link", ["models", "tables/trials", "logs/x.txt"])
def test_a_link_in_the_run_never_leads_out_of_it(link: str, tmp_path: Path, outside: Path) -> None:
    ledger = Ledger(tmp_path / "run")
    place = tmp_path / "run" / link
    place.parent.mkdir(parents=True)
    file = link.endswith(".txt")
    place.symlink_to(outside / "thesis.txt" if file else outside)
    inside = link if file else f"{link}/thesis.txt"
    for act in (ledger.read_bytes, ledger.delete, ledger.exists, lambda path: ledger.write_bytes(path, b"x")):
        with pytest.raises(UsageError, match=r"must lie in the run's folder; remove the link"):
            act(inside)
    with pytest.raises(UsageError, match="must lie in the run's folder"):
        ledger.delete(link)
    assert (outside / "thesis.txt").read_text() == "years of work"


def test_deleting_a_folder_spares_what_links_in_it_point_at(tmp_path: Path, outside: Path) -> None:
    ledger = Ledger(tmp_path / "run")
    ledger.write_bytes("models/a/x", b"x")
    (tmp_path / "run" / "models" / "link").symlink_to(outside)
    (tmp_path / "run" / "models" / "a" / "file").symlink_to(outside / "thesis.txt")
    ledger.delete("models")
    assert not (tmp_path / "run" / "models").exists()
    assert (outside / "thesis.txt").read_text() == "years of work"


def test_a_run_may_lie_behind_a_link_and_link_within_itself(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "run").symlink_to(tmp_path / "disk")
    ledger = Ledger(tmp_path / "run")
    ledger.write_bytes("models/x", b"x")
    (tmp_path / "disk" / "again").symlink_to("models")
    assert ledger.read_bytes("again/x") == b"x"


@pytest.mark.parametrize("folder", ["ray", "checkpoints", "teachers", "leaderboard"])
@pytest.mark.parametrize("fresh", [False, True])
def test_a_sweep_into_a_run_with_a_link_out_of_it_is_refused_before_it_starts(
    folder: str, fresh: bool, tmp_path: Path, outside: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    claim_run_folder(Ledger(tmp_path / "run"), make_plan(load_sweep("smoke")), fresh=False)
    (tmp_path / "run" / folder).symlink_to(outside)
    assert command(SweepOptions(source="smoke", output=str(tmp_path / "run"), fresh=fresh)) == USAGE
    assert "must lie in the run's folder; remove the link" in capsys.readouterr().err
    assert [file.name for file in outside.iterdir()] == ["thesis.txt"]


def test_a_damaged_lock_is_told_with_its_remedy(tmp_path: Path) -> None:
    (tmp_path / "lock.json").write_text('{"host": 3, "pid": 1, "renewed": 1}')
    with pytest.raises(UsageError, match="has a wrong host, must be as a sweep wrote it; delete it"):
        refuse_if_held(Ledger(tmp_path))
