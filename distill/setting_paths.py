"""Paths in a sweep file: which settings hold one, and the absolute path that each stands for.

A relative path means a place beside the sweep file, wherever the command is typed. It is made absolute where the file is
read, because drivers, workers and jobs have other working folders. Imports nothing slower than pydantic.
"""

from __future__ import annotations

import os
import re
import types
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel

from distill.errors import UsageError
from distill.uris import is_uri

KeyPath = tuple[str | int, ...]
_SQLITE = "sqlite:///"


@dataclass(frozen=True)
class PathSetting:
    """Marks a field of a config as a path, in `Annotated`.

    Attributes:
        on_each_node: the path is of each node, so `~` is the home folder of the user there.
        names: regular expression of texts that are names, unless there is a file or folder of that name.
    """

    on_each_node: bool = False
    names: str | None = None


SettingPath = Annotated[str, PathSetting()]
"""Field type of a path, or of an address such as s3://bucket/folder."""
NodePath = Annotated[str, PathSetting(on_each_node=True)]
"""Field type of a folder that each node has."""


@dataclass(frozen=True)
class WrittenPath:
    """A path in a document of plain values: `holder[key]`, with its keys from the top of the document."""

    holder: Any
    key: str | int
    keys: KeyPath
    setting: PathSetting

    def make_absolute(self, folder: Path) -> None:
        """Replace the path in the document, if it is relative, by that of the same place below `folder`.

        Raises:
            UsageError: there is nothing at that place, but there is in the working folder, which earlier versions meant.
        """
        self.holder[self.key] = absolute_path(self.holder[self.key], folder, self.setting)


def paths_in(document: Any, model: Any, keys: KeyPath = ()) -> list[WrittenPath]:
    """The paths in a document that a model would validate. Values of a wrong type are passed over."""
    top = {"top": document}
    return [
        WrittenPath(found.holder, found.key, (*keys, *found.keys[1:]), found.setting)
        for found in _walk(top, "top", model, (), ("top",))
    ]


def absolute_path(text: str, folder: Path, setting: PathSetting) -> str:
    """The absolute path of a written one; addresses are returned as they are.

    Args:
        text: the written path.
        folder: absolute path of the folder that a relative path starts from.
        setting: kind of the path.

    Raises:
        UsageError: see `WrittenPath.make_absolute`.
    """
    if text.startswith(_SQLITE):
        return _SQLITE + absolute_path(text.removeprefix(_SQLITE), folder, PathSetting())
    if not text or is_uri(text) or "\0" in text:
        return text
    if text.startswith("~"):
        return text if setting.on_each_node else _in_home(text)
    if os.path.isabs(text):
        return text
    meant, before = os.path.normpath(folder / text), os.path.abspath(text)
    if os.path.exists(meant):
        return meant
    if os.path.exists(before):
        raise UsageError(
            f"is {text}, which means {meant}, beside the sweep file; that does not exist. {before} exists, in the folder "
            f"where the command was typed: write {os.path.relpath(before, folder)} or the whole path"
        )
    if setting.names is not None and re.fullmatch(setting.names, text):
        return text
    return meant


def _in_home(text: str) -> str:
    expanded = os.path.expanduser(text)
    if expanded.startswith("~"):
        raise UsageError(f"is {text}, and no home folder of that user is known; write the whole path")
    return expanded


def _walk(
    holder: Any, key: Any, annotation: Any, metadata: tuple[Any, ...], keys: KeyPath
) -> Iterator[WrittenPath]:
    """The paths in `holder[key]`, a value of the type `annotation`."""
    value = holder[key]
    if isinstance(value, str):
        for mark in metadata:
            if isinstance(mark, PathSetting):
                yield WrittenPath(holder, key, keys, mark)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        if isinstance(value, dict) and _is_of_kind(value, annotation):
            for own_name, field in annotation.model_fields.items():
                name = field.alias or own_name
                if name in value:
                    yield from _walk(value, name, field.annotation, tuple(field.metadata), (*keys, name))
        return
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        yield from _walk(holder, key, arguments[0], arguments[1:], keys)
    elif origin in (Union, types.UnionType):
        for argument in arguments:
            yield from _walk(holder, key, argument, (), keys)
    elif origin is dict and isinstance(value, dict):
        for name in value:
            yield from _walk(value, name, arguments[1], (), (*keys, name))
    elif origin is tuple and isinstance(value, list):
        for position in range(len(value)):
            yield from _walk(value, position, arguments[0], (), (*keys, position))


def _is_of_kind(value: dict[Any, Any], model: type[BaseModel]) -> bool:
    """Whether a value may be of a member of a union whose members differ by `kind`."""
    kind = model.model_fields.get("kind")
    kinds = () if kind is None else get_args(kind.annotation)
    return not kinds or value.get("kind") in kinds
