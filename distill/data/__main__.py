"""`python -m distill.data check CONFIG.yaml` checks data sets before a sweep uses them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from distill.command_line import protect_streams
from distill.data.check import check_dataset
from distill.data.config import KINDS, AnyDataConfig, DataConfig
from distill.data.remote_copies import RemoteCopiesConfig
from distill.data.sample import Protocol
from distill.errors import UsageError, nearest
from distill.setting_paths import paths_in
from distill.validation_text import booleans_as_numbers, violated_rule, violation
from distill.yaml_reader import parse_yaml


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns 0 if all data sets are valid, 2 if a config or a data set is not."""
    parser = argparse.ArgumentParser(prog="python -m distill.data", description="Look at data sets.")
    command = parser.add_subparsers(dest="command", required=True).add_parser(
        "check", help="count pictures and labels; find what is missing, unpaired, broken or mislabelled"
    )
    command.add_argument(
        "config", type=Path, metavar="CONFIG.yaml", help="a data config, or a sweep file with a data section"
    )
    command.add_argument("--full", action="store_true", help="decode every picture and every label map")
    options = parser.parse_args(arguments)
    status = 0
    try:
        configs, copies, protocol = read_configs(options.config)
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for name, config in configs.items():
        try:
            report = check_dataset(config, full=options.full, copies=copies, protocol=protocol)
        except UsageError as error:
            print(f"error: data set '{name}': {error}", file=sys.stderr)
            status = 2
        else:
            print(f"{name} ({report.name})\n{report.describe()}\n")
    return status


def read_configs(path: Path) -> tuple[dict[str, AnyDataConfig], RemoteCopiesConfig, Protocol]:
    """The data configs in a YAML file by name, the config of local copies, and the protocol.

    The file is either one data config, or a sweep file with configs under `data`, `operation.remote_copies` and `protocol`.

    Raises:
        UsageError: the file cannot be read or a config is invalid; the message names file, line and key.
    """
    try:
        data = path.read_bytes()
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{path} cannot be read: {getattr(error, 'strerror', error)}; give a file that you may read"
        ) from error
    content, tree = parse_yaml(data, str(path))
    if isinstance(content, dict) and "kind" in content:
        return {path.stem: _validated(content, path, tree, ())}, RemoteCopiesConfig(), "clean"
    section = content.get("data") if isinstance(content, dict) else None
    if not isinstance(section, dict) or not section:
        raise UsageError(
            f"{path} holds no data config, must have a 'kind' key ({', '.join(KINDS)}), "
            "or a 'data' section of names, each with a config"
        )
    operation = content.get("operation")
    if isinstance(operation, dict) and "copies" in operation:
        line = _line(tree, ("operation", "copies"))
        raise UsageError(f"{path}:{line}: 'operation.copies' is called 'operation.remote_copies' now")
    written = operation.get("remote_copies", {}) if isinstance(operation, dict) else {}
    _make_absolute(written, RemoteCopiesConfig, path, tree, ("operation", "remote_copies"))
    with _placed(path, tree, ("operation", "remote_copies")):
        copies = RemoteCopiesConfig.model_validate(written)
    protocol: Protocol = "paper" if content.get("protocol") == "paper" else "clean"
    if isinstance(section.get("kind"), str):
        return {"data": _validated(section, path, tree, ("data",))}, copies, protocol
    configs = {str(name): _validated(value, path, tree, ("data", name)) for name, value in section.items()}
    return configs, copies, protocol


def _validated(value: object, path: Path, tree: Any, place: tuple[Any, ...]) -> AnyDataConfig:
    _make_absolute(value, DataConfig, path, tree, place)
    with _placed(path, tree, place):
        config: AnyDataConfig = TypeAdapter(DataConfig).validate_python(value)
    for keys, message in booleans_as_numbers(value, config, place):
        raise UsageError(f"{path}:{_line(tree, keys)}: {message}")
    return config


def _make_absolute(value: object, model: Any, path: Path, tree: Any, place: tuple[Any, ...]) -> None:
    """Make the paths in a config absolute, as a sweep does; an error names file, line and key."""
    for found in paths_in(value, model, place):
        try:
            found.make_absolute(path.parent.resolve())
        except UsageError as error:
            raise UsageError(
                f"{path}:{_line(tree, found.keys)}: {'.'.join(map(str, found.keys))} {error}"
            ) from None


@contextmanager
def _placed(path: Path, tree: Any, place: tuple[Any, ...]) -> Iterator[None]:
    """Convert validation errors of a config below some keys to one that names file, line and key."""
    try:
        yield
    except ValidationError as error:
        messages = []
        for problem in error.errors():
            # a discriminated union puts the kind before the field's name
            keys = place + tuple(key for key in problem["loc"] if key not in KINDS)
            kind = KINDS.get(problem["loc"][0], RemoteCopiesConfig) if problem["loc"] else RemoteCopiesConfig
            close = nearest(str(keys[-1]), kind.model_fields) if problem["type"] == "extra_forbidden" else []
            hint = f"; did you mean {close[0]}?" if close else ""
            where = ".".join(str(key) for key in keys) or "the file"
            message = f"{where}: {violated_rule(problem)}" if close else violation(problem, where, kind)
            messages.append(f"{path}:{_line(tree, keys)}: {message}{hint}")
        raise UsageError("\n  ".join(messages)) from error


def _line(tree: Any, keys: tuple[Any, ...]) -> int:
    """Line of a key, or of the deepest existing section that should contain it."""
    line, node = 1, tree
    for key in keys:
        if not isinstance(node, yaml.MappingNode):
            break
        for name, value in node.value:
            if name.value == str(key):
                line, node = name.start_mark.line + 1, value
    return line


if __name__ == "__main__":
    protect_streams()
    sys.exit(main())
