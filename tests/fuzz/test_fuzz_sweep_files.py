"""Sweep files and `--set`: whatever is in them, a dry run answers with a plan or with exit code 2, and touches nothing."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import strategies as st

from distill.data.__main__ import main as data_main
from orchestrator.sweep import SweepOptions, command
from tests.fuzz.fuzzing import damaged, exits, fingerprint, fuzz, text, value

DOCUMENT: dict[str, Any] = {
    "name": "mine",
    "protocol": "clean",
    "data": {
        "scenes": {"kind": "scenes", "size": 32, "classes": 4, "train": 8, "teacher_train": 8, "tune": 4, "test": 4},
        "own": {"kind": "folder", "root": "/nowhere", "classes": {0: "a", 1: "b"}, "ignored": [255], "group": "^(.)"},
        "city": {"kind": "cityscapes", "root": "/nowhere", "tune_cities": ["ulm"]},
    },
    "recipes": {
        "short": {
            "steps": 4, "batch_size": 4, "augmentation": {"crop": 32, "scale": [0.5, 2.0]}, "lr": 0.01,
            "sliding_window": {"size": 32, "stride": 16},
        }
    },
    "pairs": [
        {
            "name": "one",
            "teacher": {"model": "segformer-test_vit", "recipe": "short", "backbone_args": {"depth": 4}},
            "student": {"model": "deeplabv3-test_resnet", "recipe": "short", "head_channels": 16},
            "data": "scenes",
        },
        {
            "teacher": {
                "model": "theirs",
                "checkpoint": {
                    "kind": "torchscript", "path": "/nowhere/x.pt", "family": "cnn", "classes": 4,
                    "taps": {"stages": [0, 1, 2, "x"], "logits": "y"}, "mean": [0.5, 0.5, 0.5],
                },
                "sha256": "0" * 64,
                "class_map": {"sky": [0, "x"]},
            },
            "student": {"model": "deeplabv3-test_resnet", "recipe": "short"},
            "data": "scenes",
        },
        {"pair": "mit_b4_to_deeplabv3_resnet18", "data": "scenes"},
    ],
    "methods": [
        "student",
        "kd+cwd",
        {"name": "heteroakd", "label": "h", "config": {"tap": "stride8"}, "space": {"hakd_weight": {"log_uniform": [1, 9]}}},
    ],
    "search": {"sampler": "sobol", "trials": 2, "bracket": 2, "wave": 4, "rungs": [0.5], "seed": 3},
    "final": {"seeds": [1, 2]},
    "compute": {"workers": 1, "device": "cpu"},
    "operation": {"cache": {"folder": "/nowhere", "gigabytes": 1}, "checkpoint_seconds": 1.5, "teachers": "/nowhere"},
    "budget": {"hours": 1.0},
}  # fmt: skip
VALID = yaml.safe_dump(DOCUMENT, sort_keys=False)
SNIPPETS = (
    "x: &a [*a]", "b: &b {c: &c [1, 1], d: *c}", "name: [", "name: {", "? [1]\n: 2", "<<: {name: x}", "<<: 3", "%TAG ! x",
    "--- ", "...", "name: !!python/object/apply:os.getpid []", "name: !!binary '='", "name: !!set {a}", "n: !!int x",
    "n: .nan", "n: 1:61:99", "t: 2001-99-99", "name: \"\\e[31m\"", "name: \"\\ud800\"", "name: '\u202e'", "\t", "name: |\n  x",
    "name: " + "[" * 500, "name: " + "{a: " * 500, "name: " + "9" * 5000, "é: é", "\0", "\ufeff", "- x", "name: *nobody",
)  # fmt: skip


def places(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, inner in items:
        yield from places(inner, (*path, key))


PLACES = list(places(DOCUMENT))[1:]


@st.composite
def changed_documents(draw: st.DrawFn) -> str:
    """A sound document with some values changed, taken out, or put in."""
    document = copy.deepcopy(DOCUMENT)
    if draw(st.booleans()):  # most faults hide those behind them, so half of the documents start out runnable
        del document["pairs"][1:]
    for _ in range(draw(st.integers(1, 3))):
        *path, last = draw(st.sampled_from(PLACES))
        node: Any = document
        for key in path:
            try:
                node = node[key]
            except (KeyError, IndexError, TypeError):
                break
        kind = draw(st.sampled_from(("set", "set", "remove", "add")))
        if isinstance(node, list):
            if kind == "add":
                node.append(draw(value))
            elif isinstance(last, int) and last < len(node):
                node[last] = draw(value)
        elif isinstance(node, dict):
            if kind == "remove":
                node.pop(last, None)
            else:
                node[last if kind == "set" else draw(text)] = draw(value)
    try:
        return yaml.dump(document, sort_keys=False, allow_unicode=draw(st.booleans()))
    except (ValueError, TypeError):
        return repr(document)


@st.composite
def documents_with_snippets(draw: st.DrawFn) -> str:
    lines = VALID.splitlines()
    for _ in range(draw(st.integers(1, 2))):
        place = draw(st.integers(0, len(lines)))
        indent = " " * draw(st.sampled_from((0, 0, 2, 4)))
        lines.insert(place, indent + draw(st.sampled_from(SNIPPETS)))
    return "\n".join(lines)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sweeps")


def dry_run(folder: Path, data: bytes, overrides: list[str] | None = None) -> None:
    """A dry run of these bytes as a sweep file."""
    file = folder / "sweep.yaml"
    file.write_bytes(data)
    before = fingerprint(folder)
    options = SweepOptions(
        source=str(file),
        set=overrides or [],
        output=str(folder / "out"),
        dry_run=True,
        json=True,
        address="job",
    )
    exits("sweep files" if overrides is None else "--set", lambda: command(options))
    assert fingerprint(folder) == before


def test_the_document_that_is_changed_is_sound(folder: Path) -> None:
    (folder / "sweep.yaml").write_text(VALID)
    assert (
        exits(
            "sweep files",
            lambda: command(SweepOptions(source=str(folder / "sweep.yaml"), dry_run=True, address="job")),
        )
        == 0
    )


@fuzz(150, document=changed_documents())
def test_a_changed_sweep_file_is_planned_or_refused(folder: Path, document: str) -> None:
    dry_run(folder, document.encode(errors="surrogatepass"))


@fuzz(60, document=documents_with_snippets())
def test_a_sweep_file_with_odd_yaml_in_it_is_planned_or_refused(folder: Path, document: str) -> None:
    dry_run(folder, document.encode())


@fuzz(100, data=st.one_of(st.binary(max_size=200), text.map(str.encode), damaged(VALID.encode())))
def test_bytes_that_nobody_wrote_as_a_sweep_file_are_planned_or_refused(folder: Path, data: bytes) -> None:
    dry_run(folder, data)


keys = st.one_of(st.sampled_from(PLACES).map(lambda place: ".".join(map(str, place))), text)


@st.composite
def overrides(draw: st.DrawFn) -> str:
    key = draw(keys) + draw(st.sampled_from(("", "", ".0", ".x", ".99", ".", "..")))
    raw = draw(
        st.one_of(text, st.sampled_from(SNIPPETS), value.map(lambda found: json.dumps(found, default=repr, skipkeys=True)))
    )  # fmt: skip
    return f"{key}{draw(st.sampled_from(('=', '=', '=', '')))}{raw}"


@fuzz(100, given_overrides=st.lists(overrides(), min_size=1, max_size=2))
def test_any_override_is_planned_or_refused(folder: Path, given_overrides: list[str]) -> None:
    dry_run(folder, VALID.encode(), given_overrides)


@fuzz(60, document=st.one_of(changed_documents(), documents_with_snippets()))
def test_the_check_of_data_answers_any_config(folder: Path, document: str) -> None:
    file = folder / "data.yaml"
    file.write_bytes(document.encode(errors="surrogatepass"))
    before = fingerprint(folder)
    exits("data configs", lambda: data_main(["check", str(file)]))
    assert fingerprint(folder) == before
