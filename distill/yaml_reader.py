"""Reads YAML files of users: plain values only, within limits, with the line of every node.

It refuses Python objects, numbers that are not finite or too large, control characters, duplicate keys, and aliases that
expand to too many values, so other modules need not check for them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Hashable
from typing import Any

import yaml

from distill.errors import UsageError, is_plain

MOST_CHARACTERS = 1_000_000
MOST_NODES = 100_000
MOST_LEVELS = 40
LARGEST_INTEGER = 2**63 - 1

_TAG = "tag:yaml.org,2002:"
_PLAIN = {f"{_TAG}{name}" for name in ("null", "bool", "int", "float", "str", "seq", "map", "merge")}


def parse_yaml(text: str | bytes, place: str) -> tuple[Any, yaml.Node | None]:
    """Parse a document; returns its content and its tree of nodes, or (None, None) if it is empty.

    Args:
        text: the document; bytes are UTF-8.
        place: name of the document, for errors.

    Raises:
        UsageError: the text is not valid YAML, or contains refused values; the message names place and line.
    """
    if isinstance(text, bytes):
        text = _decoded(text, place)
    if len(text) > MOST_CHARACTERS:
        raise UsageError(
            f"{place}: has {len(text)} characters, must have at most {MOST_CHARACTERS}; give a shorter file"
        )
    try:
        loader = _Loader(text)
        tree = loader.get_single_node()
        if tree is None:
            return None, None
        _Walk(loader, place).check(tree, 1)
        return loader.construct_document(tree), tree
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise UsageError(
            f"{place}{line}: not valid YAML: {getattr(error, 'problem', None) or getattr(error, 'reason', error)}; correct it"
        ) from None
    except RecursionError:
        raise UsageError(f"{place}: {_too_deep()}") from None


def _decoded(data: bytes, place: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{place}: byte {error.start} is {data[error.start]:#04x}, must be UTF-8 text; save it as UTF-8"
        ) from None


_EXPONENT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?[0-9]+$")
"""Numbers such as 1e-3, which are text in YAML 1.1 and numbers in YAML 1.2 and for people."""
_OCTAL = re.compile(r"[-+]?0[0-9_]+$")


def _resolvers() -> dict[Any, list[tuple[str, re.Pattern[str]]]]:
    """Patterns of plain values by first character. Dates are text, because names may look like dates."""
    found = {
        first: [(tag, pattern) for tag, pattern in known if tag != f"{_TAG}timestamp"]
        for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    for first in "-+.0123456789":
        found.setdefault(first, []).append((f"{_TAG}float", _EXPONENT))
    return found


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers = _resolvers()  # PyYAML defines this attribute


class _Dumper(yaml.SafeDumper):
    yaml_implicit_resolvers = _resolvers()


def to_yaml(document: Any) -> str:
    """The YAML that `parse_yaml` reads as the same document; keys keep their order."""
    return yaml.dump(document, Dumper=_Dumper, sort_keys=False)


class _Walk:
    """Checks every node, once for each time that it occurs after aliases are expanded."""

    def __init__(self, loader: _Loader, place: str) -> None:
        self._loader = loader
        self._place = place
        self._left = MOST_NODES

    def check(self, node: yaml.Node, level: int) -> None:
        """Raise UsageError at the first node that is not allowed."""
        self._left -= 1
        if self._left < 0:
            raise self._fault(
                node,
                f"holds more than {MOST_NODES} values once its aliases are unfolded, must hold fewer; write less",
            )
        if level > MOST_LEVELS:
            raise self._fault(node, _too_deep())
        if node.tag not in _PLAIN:
            tag = node.tag.replace(_TAG, "!!")
            raise self._fault(
                node,
                f"not valid YAML here: a value is a {tag}, must be text, a number, true, false, null, a list or a "
                "mapping; write it in quotes",
            )
        if isinstance(node, yaml.MappingNode):
            self._check_keys(node)
            for key, value in node.value:
                self.check(key, level + 1)
                self.check(value, level + 1)
        elif isinstance(node, yaml.SequenceNode):
            for value in node.value:
                self.check(value, level + 1)
        elif isinstance(node, yaml.ScalarNode):
            self._check_scalar(node)

    def _check_keys(self, node: yaml.MappingNode) -> None:
        seen: set[Hashable] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise self._fault(
                    key, "a key is a list or a mapping, must be text or a number; write it plainly"
                )
            if (key.tag, key.value) in seen:
                raise self._fault(
                    key, f"key '{key.value}' occurs twice in one mapping, must occur once; remove one"
                )
            seen.add((key.tag, key.value))

    def _check_scalar(self, node: yaml.ScalarNode) -> None:
        text = str(node.value)
        if not text.isprintable() and not all(map(is_plain, text)):
            raise self._fault(
                node, f"{text[:40]!r} holds a control character, must be text that can be shown; take it out"
            )
        if node.tag not in (f"{_TAG}int", f"{_TAG}float"):
            if node.tag in (f"{_TAG}bool", f"{_TAG}null"):
                self._constructed(node)
            return
        if getattr(node, "style", None) is None and (_OCTAL.match(text) or ":" in text):
            self._refuse_old_number(node, text)
        value = self._constructed(node)
        if abs(value) > LARGEST_INTEGER if isinstance(value, int) else not math.isfinite(value):
            raise self._fault(
                node,
                f"{text[:40]} is no number that can be used, must be finite and below 2**63; give another",
            )

    def _refuse_old_number(self, node: yaml.Node, text: str) -> None:
        """Raise UsageError for a number that YAML reads to base 8 or 60, unless that makes no difference."""
        value = self._constructed(node)
        if ":" in text:
            raise self._fault(
                node, f"{text[:40]} is {value} in YAML, to base 60; write {value}, or '{text[:40]}' for text"
            )
        plain = int(text.replace("_", ""))
        if value != plain:
            raise self._fault(
                node,
                f"{text[:40]} is {value} in YAML, to base 8; write {plain} or {value}, or '{text[:40]}' for text",
            )

    def _constructed(self, node: yaml.Node) -> Any:
        """The scalar's value; raises UsageError if its text does not match its explicit tag."""
        try:
            return self._loader.construct_object(node)
        except (ValueError, KeyError, IndexError, OverflowError, AttributeError, TypeError):
            tag = node.tag.replace(_TAG, "!!")
            raise self._fault(node, f"{str(node.value)[:40]!r} is no {tag}; correct it") from None

    def _fault(self, node: yaml.Node, message: str) -> UsageError:
        return UsageError(f"{self._place}:{node.start_mark.line + 1}: {message}")


def _too_deep() -> str:
    return f"is nested more than {MOST_LEVELS} deep or holds itself, must be flatter; write it out"
