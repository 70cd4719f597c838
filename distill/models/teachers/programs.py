"""TorchScript and torch.export programs as teachers whose outputs are named by taps."""

from __future__ import annotations

import io
import json
import logging
import pickle
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from distill.errors import UsageError, reading, unknown
from distill.models.output import Output
from distill.teacher_source import TapName, Taps


class ProgramNetwork(nn.Module):
    """A loaded program whose tensors become stages, fused map and logits.

    A program was exported in evaluation mode and stays in it.
    """

    def __init__(self, program: nn.Module, taps: Taps, inside: Mapping[TapName, torch.fx.Node]) -> None:
        super().__init__()
        self.program = program
        self._taps = taps
        self._inside = dict(inside)

    def train(self, mode: bool = True) -> Self:
        """Do nothing: an exported program raises on a change of mode."""
        return self

    def forward(self, images_b3hw: Tensor) -> Output:
        """One forward pass; taps name returned tensors or outputs of inner modules."""
        if self._inside:
            recorder = _Recorder(self.program, list(self._inside.values()))
            returned = recorder.run(images_b3hw)
            inside = {tap: recorder.seen[node] for tap, node in self._inside.items()}
        else:
            returned, inside = self.program(images_b3hw), {}
        a, b, c, d = (_taken(tap, returned, inside) for tap in self._taps.stages)
        fused = d if self._taps.fused is None else _taken(self._taps.fused, returned, inside)
        return Output(stages=(a, b, c, d), fused=fused, logits=_taken(self._taps.logits, returned, inside))


class _Recorder(torch.fx.Interpreter):
    """Runs a graph node by node and records the values of some nodes."""

    def __init__(self, program: nn.Module, recorded: Sequence[torch.fx.Node]) -> None:
        super().__init__(program)
        self.seen: dict[torch.fx.Node, Tensor] = {}
        self._recorded = set(recorded)

    def run_node(self, node: torch.fx.Node) -> Any:
        result = super().run_node(node)
        if node in self._recorded:
            self.seen[node] = result
        return result


def load_program(kind: str, data: bytes, taps: Taps) -> ProgramNetwork:
    """Load a program's bytes as a network on the CPU.

    Raises:
        UsageError: the bytes are not such a program, contain pickled objects, or a tap names nothing in the program.
    """
    if kind == "torchscript":
        with reading("the TorchScript file", "write it with torch.jit.save"):
            return ProgramNetwork(_load_torchscript(data), taps, {})
    with reading("the torch.export file", "write it with torch.export.save"):
        _refuse_pickles(data)
        exported = _load_export(data)
    # Guards are Python source in the file, so they are not run; `probe` checks the input sizes instead.
    program = exported.module(check_guards=False)
    returned = _output_keys(exported)
    named = [tap for tap in (*taps.stages, taps.fused, taps.logits) if isinstance(tap, str)]
    inside: dict[TapName, torch.fx.Node] = {
        tap: _last_node(program, tap) for tap in named if tap not in returned
    }
    return ProgramNetwork(program, taps, inside)


def _load_export(data: bytes) -> torch.export.ExportedProgram:
    """Load the program without the stack trace that torch logs for an unreadable file."""
    logger = logging.getLogger("torch.export")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        return torch.export.load(io.BytesIO(data))
    finally:
        logger.setLevel(level)


def _load_torchscript(data: bytes) -> nn.Module:
    program: nn.Module = torch.jit.load(io.BytesIO(data), map_location="cpu")  # type: ignore[no-untyped-call]
    return program.eval()


def _taken(tap: TapName, returned: Any, inside: Mapping[TapName, Tensor]) -> Tensor:
    if tap in inside:
        return inside[tap]
    outputs = [returned] if isinstance(returned, Tensor) else returned
    if isinstance(outputs, Mapping):
        if tap not in outputs:
            raise unknown("tap", str(tap), map(str, outputs))
        found = outputs[tap]
    else:
        if not isinstance(tap, int) or not 0 <= tap < len(outputs):
            raise UsageError(f"tap {tap!r} is not among the program's {len(outputs)} outputs, counted from 0")
        found = outputs[tap]
    if not isinstance(found, Tensor):
        raise UsageError(f"tap {tap!r} is a {type(found).__name__}, must be a tensor")
    return found


def _output_keys(exported: torch.export.ExportedProgram) -> set[str]:
    """Keys of the dict that a program returns; empty if it returns something else."""
    spec: Any = exported.call_spec.out_spec
    return set(map(str, spec.context)) if spec is not None and spec.type is dict else set()


def _last_node(program: nn.Module, path: str) -> torch.fx.Node:
    """The last node of the module at `path`, which is its output."""
    known: dict[str, torch.fx.Node] = {}
    for node in program.graph.nodes:  # type: ignore[union-attr]
        if node.op == "call_function":
            for module_path, _ in node.meta.get("nn_module_stack", {}).values():
                known[module_path] = node
    known.pop("", None)
    if path not in known:
        raise unknown("tap", path, known)
    return known[path]


def _refuse_pickles(data: bytes) -> None:
    """Refuse files with pickled objects, because torch.export.load would unpickle them."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            names = archive.namelist()
            for name in names:
                if name.endswith(".json") and _says_pickled(json.loads(archive.read(name))):
                    raise UsageError("the torch.export file holds pickled objects, must hold plain tensors")
                if name.endswith(".pt"):
                    torch.load(io.BytesIO(archive.read(name)), weights_only=True)
    except pickle.UnpicklingError as error:
        raise UsageError("the torch.export file holds pickled objects, must hold plain tensors") from error
    if not any(name.endswith("archive_format") for name in names):
        raise UsageError("the torch.export file is of an older torch: export the model again")


def _says_pickled(value: Any) -> bool:
    if isinstance(value, dict):
        return value.get("use_pickle") is True or any(_says_pickled(item) for item in value.values())
    return isinstance(value, list) and any(_says_pickled(item) for item in value)
