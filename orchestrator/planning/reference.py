"""The reference of sweep files as Markdown, from the config's JSON schema: `python -m orchestrator.planning.reference EXAMPLE`.

The examples are the values of one sweep file that has every setting.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from orchestrator.planning.config import SweepConfig

Schema = Mapping[str, Any]

_TYPES = {"string": "text", "integer": "whole number", "number": "number", "boolean": "`true` or `false`"}
_LIMITS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
_TOO_LARGE_TO_SAY = 10**18
_HEAD = """# Every setting of a sweep file

Written by `python -m orchestrator.planning.reference docs/examples/every_setting.yaml > docs/sweep_file.md` from the settings'
definitions. The examples are from that file, which sets every key once.

`NAME` is a name that you choose, and `[]` an entry of a list. `--set KEY=VALUE` writes a key with dots, such as
`--set recipes.long.lr=0.01`, and an entry of a list by its position from 0, such as `--set pairs.0.teacher.seed=1`.
"""


@dataclass
class Setting:
    """One key of a section. `example` is None if the example file does not have it."""

    key: str
    type: str
    default: str
    meaning: str
    example: str | None


@dataclass
class SettingSection:
    """A section of a sweep file: the keys that lead to it, and its settings."""

    place: str
    meaning: str
    settings: list[Setting] = field(default_factory=list)


def sections(example: Any) -> list[SettingSection]:
    """All sections of a sweep file, each once, from the top down.

    Args:
        example: a sweep file as plain values; the examples are taken from it.
    """
    schema = SweepConfig.model_json_schema()
    found: list[SettingSection] = []
    seen: set[str] = set()
    waiting: list[tuple[str, Schema, list[Any]]] = [("", schema, [example])]
    while waiting:
        place, part, values = waiting.pop(0)
        section = SettingSection(place, _first_line(part))
        found.append(section)
        following = []
        for key, node in part["properties"].items():
            inside = [value[key] for value in values if isinstance(value, dict) and key in value]
            section.settings.append(_setting(key, node, key in part.get("required", ()), inside))
            for path, name, kind, below in _sections_below(node, inside):
                if (kind or name) not in seen:
                    seen.add(kind or name)
                    full = f"{place}.{key}{path}".lstrip(".") + (f" (kind {kind})" if kind else "")
                    following.append((full, schema["$defs"][name], below))
        waiting[:0] = following
    return found


def _sections_below(
    node: Schema, values: list[Any], path: str = ""
) -> Iterator[tuple[str, str, str, list[Any]]]:
    """Path below the key, definition, kind (or ""), and examples of each section that a setting may hold."""
    kinds = node.get("discriminator", {}).get("mapping")
    if kinds:
        for kind, reference in kinds.items():
            mine = [value for value in values if isinstance(value, dict) and value.get("kind") == kind]
            if mine or kind == "torchscript":  # shares its section with `export`
                yield path, _name(reference), kind if mine else "export", mine
        return
    if "$ref" in node:
        yield path, _name(node["$ref"]), "", values
    for option in node.get("anyOf", ()):
        yield from _sections_below(option, values, path)
    if "items" in node:
        entries = [entry for value in values if isinstance(value, list) for entry in value]
        yield from _sections_below(node["items"], entries, f"{path}[]")
    for option in node.get("patternProperties", {}).values():
        entries = [entry for value in values if isinstance(value, dict) for entry in value.values()]
        yield from _sections_below(option, entries, f"{path}.NAME")


def _setting(key: str, node: Schema, required: bool, values: list[Any]) -> Setting:
    if required:
        default = "required"
    elif "default" not in node or node["default"] is None:
        default = "–"
    else:
        default = f"`{_yaml(node['default'])}`"
    return Setting(
        key, _type(node), default, _first_line(node), _yaml(_shortened(values[0])) if values else None
    )


def _type(node: Schema) -> str:
    """Kind of value and its limits, in words."""
    if "const" in node:
        return f"`{node['const']}`"
    if "enum" in node:
        return " or ".join(f"`{value}`" for value in node["enum"])
    if "anyOf" in node:
        options = [_type(option) for option in node["anyOf"] if option.get("type") != "null"]
        return " or ".join(dict.fromkeys(options))
    if "oneOf" in node or "$ref" in node or node.get("type") == "object":
        return "names with sections" if "patternProperties" in node else "section"
    if node.get("type") == "array":
        inside = node.get("items") or (node.get("prefixItems") or [{}])[0]
        is_fixed = "maxItems" in node and node.get("minItems") == node["maxItems"]
        count = f"{node['maxItems']} × " if is_fixed else ""
        return f"list of {count}{_type(inside)}"
    kind = _TYPES.get(node.get("type", ""), "any value")
    limits = [
        f"{sign} {node[name]:g}"
        for name, sign in _LIMITS.items()
        if name in node and abs(node[name]) < _TOO_LARGE_TO_SAY
    ]
    return ", ".join([kind, *limits])


def _name(reference: str) -> str:
    return reference.rsplit("/", 1)[1]


def _first_line(node: Schema) -> str:
    return str(node.get("description", "")).split("\n\n")[0].replace("\n", " ")


def _shortened(value: Any) -> Any:
    """The value, with what is below it left out if that has its own section."""
    if isinstance(value, dict) and any(isinstance(inner, dict | list) for inner in value.values()):
        return None
    if isinstance(value, list) and any(isinstance(inner, dict) for inner in value):
        return None
    return value


def _yaml(value: Any) -> str:
    if value is None:
        return ""
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10_000, sort_keys=False)
    return text.removesuffix("\n").removesuffix("\n...").strip()


def markdown(example: Any) -> str:
    """The reference as Markdown.

    Args:
        example: a sweep file as plain values that has every setting.
    """
    lines = [_HEAD.strip()]
    for section in sections(example):
        lines += ["", f"## {section.place or 'Top level'}", "", _sentence(section.meaning), ""]
        lines += ["| key | value | default | meaning | example |", "| --- | --- | --- | --- | --- |"]
        for row in section.settings:
            example_cell = f"`{row.example}`" if row.example else ""
            cells = (f"`{row.key}`", row.type, row.default, row.meaning, example_cell)
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _sentence(text: str) -> str:
    return text if text.endswith(".") else f"{text}."


if __name__ == "__main__":
    if sys.argv[1:] == ["--json-schema"]:
        print(json.dumps(SweepConfig.model_json_schema(), indent=1))
    else:
        print(markdown(yaml.safe_load(Path(sys.argv[1]).read_text(encoding="utf-8"))), end="")
