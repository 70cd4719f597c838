"""Reads a sweep file: YAML with line numbers, `--set` overrides, checks across sections. No ray, no torch."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from distill.catalogue.reader import check_model_name
from distill.errors import UsageError, nearest, reading, unknown
from distill.teacher_source import brings_network
from distill.yaml_reader import parse_yaml
from orchestrator.planning.config import MOST_TRIALS, SweepConfig
from orchestrator.planning.method_settings import check_method_name, check_settings, check_space
from orchestrator.planning.plan import method_space
from orchestrator.planning.prices import price_of
from orchestrator.planning.renamed import explain_renamed
from search_spaces import library, preset_names, preset_path

Place = tuple[str | int, ...]

_SHOWN, _LONGEST = 50, 200


def load_sweep(source: str, overrides: Sequence[str] = ()) -> SweepConfig:
    """The checked config of a preset's name or a YAML file's path.

    Args:
        source: a preset (`laptop`) or a path that ends in .yaml or .yml.
        overrides: `key=value` with a dotted key; the value is read as YAML.

    Raises:
        UsageError: one line per fault, each with value, rule, remedy and place.
    """
    path = _find(source)
    document, tree = _parse(path)
    places = _places(tree, path)
    # Before the overrides, which may change what an entry of the library says, and after them, as they may name one.
    _take_from_library(document, places, path)
    for override in overrides:
        place = _apply(document, override)
        places[place] = f"--set {override}"
    _take_from_library(document, places, path)
    try:
        config = SweepConfig.model_validate(document)
    except ValidationError as error:
        raise _joined(_describe(error, document, places, path)) from None
    faults = list(_cross_checks(config, places, path))
    if faults:
        raise _joined(faults)
    return config


def _joined(faults: Iterable[str]) -> UsageError:
    told = list(dict.fromkeys(faults))
    more = [f"… and {len(told) - _SHOWN} more faults"] if len(told) > _SHOWN else []
    return UsageError("\n".join([*told[:_SHOWN], *more]))


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def _find(source: str) -> Path:
    if source.endswith((".yaml", ".yml")):
        path = Path(source)
        if not os.path.isfile(path):
            raise UsageError(
                f"sweep file '{source}' does not exist; give a preset ({', '.join(preset_names())}) or a file"
            )
        return path
    return preset_path(source)


def _parse(path: Path) -> tuple[dict[str, Any], yaml.Node | None]:
    with reading(f"sweep file '{path}'", "give a file that you may read"):
        data = path.read_bytes()
    document, tree = parse_yaml(data, str(path))
    if not isinstance(document, dict):
        raise UsageError(
            f"{path}: holds {type(document).__name__}, must be a mapping with the keys of a sweep file"
        )
    return document, tree


def _places(tree: yaml.Node | None, path: Path) -> dict[Place, str]:
    """File and line of every node, by its path through the document."""
    found: dict[Place, str] = {}

    def walk(node: yaml.Node, place: Place) -> None:
        found.setdefault(place, f"{path}:{node.start_mark.line + 1}")
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                found[(*place, str(key.value))] = f"{path}:{key.start_mark.line + 1}"
                walk(value, (*place, str(key.value)))
        elif isinstance(node, yaml.SequenceNode):
            for position, value in enumerate(node.value):
                walk(value, (*place, position))

    if tree is not None:
        walk(tree, ())
    return found


def _apply(document: dict[str, Any], override: str) -> Place:
    """Writes one `key=value` into the document and returns its place."""
    key, equals, raw = override.partition("=")
    if not equals or not key:
        raise UsageError(f"--set {override}: must be key=value, such as search.trials=8")
    place: Place = tuple(int(part) if part.isdigit() else part for part in key.split("."))
    value, _ = parse_yaml(raw, f"--set {override}")
    node: Any = document
    for part in place[:-1]:
        if isinstance(node, list):
            if not isinstance(part, int) or part >= len(node):
                raise UsageError(f"--set {override}: '{part}' is no position in a list of {len(node)}")
            node = node[part]
        elif isinstance(node, dict):
            node = node.setdefault(str(part), {})
        else:
            raise UsageError(f"--set {override}: '{part}' lies below a plain value")
    last = place[-1]
    if isinstance(node, list):
        if not isinstance(last, int) or last >= len(node):
            raise UsageError(f"--set {override}: '{last}' is no position in a list of {len(node)}")
        node[last] = value
    elif isinstance(node, dict):
        node[str(last)] = value
    else:
        raise UsageError(f"--set {override}: '{last}' lies below a plain value")
    return place


def _take_from_library(document: dict[str, Any], places: Mapping[Place, str], path: Path) -> None:
    """Writes out the pairs that are named with `pair:` and the recipes that are used and not written."""
    listed = document.get("pairs")
    entries: list[Any] = listed if isinstance(listed, list) else []
    for i, entry in enumerate(entries):
        if not isinstance(entry, dict) or "pair" not in entry:
            continue
        name = entry.pop("pair")
        if not isinstance(name, str) or name not in library.pairs():
            place = _nearest_place(("pairs", i, "pair"), places, path)
            raise UsageError(f"{place}: {unknown('pair', str(name), library.pairs())}")
        entries[i] = {"name": name, **copy.deepcopy(library.pairs()[name]), **entry}
    written = document.setdefault("recipes", {})
    for entry in entries:
        for role in ("teacher", "student"):
            model = entry.get(role) if isinstance(entry, dict) else None
            used = model.get("recipe") if isinstance(model, dict) else None
            if isinstance(written, dict) and isinstance(used, str) and used in library.recipes():
                written.setdefault(used, copy.deepcopy(library.recipes()[used]))


def _describe(
    error: ValidationError, document: Any, places: Mapping[Place, str], path: Path
) -> Iterable[str]:
    """One line per fault of the schema."""
    for fault in error.errors(include_url=False):
        location = _in_document(fault["loc"], document, missing=fault["type"] == "missing")
        place = _nearest_place(location, places, path)
        key = ".".join(str(part) for part in location)
        if fault["type"] == "extra_forbidden":
            renamed = explain_renamed(key)
            if renamed is not None:
                yield f"{place}: {renamed}"
                continue
            known = _known_keys(fault["loc"])
            close = nearest(str(fault["loc"][-1]), known)
            hint = f"did you mean '{close[0]}'? " if close else ""
            yield f"{place}: unknown key '{key}'; {hint}Known here: {', '.join(sorted(known))}."
        elif fault["type"] == "missing":
            yield f"{place}: '{key}' is missing"
        else:
            message = fault["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
            value = fault.get("input")
            shown = (
                f"{key} is {_brief(value)}, "
                if not isinstance(value, (dict, list, BaseModel))
                else f"{key}: "
            )
            yield f"{place}: {shown}{message}"


def _in_document(location: Sequence[str | int], document: Any, *, missing: bool) -> Place:
    """The location without the parts that pydantic adds (a union's tag) and the document has not."""
    kept: list[str | int] = []
    node = document
    for position, part in enumerate(location):
        last = position == len(location) - 1
        if isinstance(node, dict) and (part in node or (last and missing)):
            kept.append(part)
            node = node.get(part)
        elif isinstance(node, list) and isinstance(part, int) and part < len(node):
            kept.append(part)
            node = node[part]
    return tuple(kept)


def _nearest_place(location: Place, places: Mapping[Place, str], path: Path) -> str:
    for length in range(len(location), 0, -1):
        if location[:length] in places:
            return places[location[:length]]
    return str(path)


def _known_keys(location: Sequence[str | int]) -> list[str]:
    """The fields of the model in which the last part of `location` is unknown."""
    models: list[type[BaseModel]] = [SweepConfig]
    union: list[type[BaseModel]] = []
    for part in location[:-1]:
        if tagged := [model for model in union if _kind(model) == part]:
            models = tagged  # the last tag counts: a data set may be called by another's kind
        elif len(models) == 1 and (field := models[0].model_fields.get(str(part))):
            found = list(_models_in(field.annotation))
            union = found if len(found) > 1 else []
            models = found or models
    return sorted({name for model in models for name in model.model_fields})


def _kind(model: type[BaseModel]) -> str | None:
    field = model.model_fields.get("kind")
    return None if field is None else field.default


def _models_in(annotation: Any) -> Iterable[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models_in(argument)


def _cross_checks(config: SweepConfig, places: Mapping[Place, str], path: Path) -> Iterable[str]:
    """Faults that no single section shows: names that point nowhere, methods and models that do not exist."""

    def at(*location: str | int) -> str:
        return _nearest_place(location, places, path)

    labels = [pair.label for pair in config.pairs]
    for i, pair in enumerate(config.pairs):
        if labels.count(pair.label) > 1:
            yield f"{at('pairs', i)}: pair '{pair.label}' stands twice; give each pair a name of its own"
        if pair.data not in config.data:
            yield f"{at('pairs', i, 'data')}: {unknown('data set', pair.data, config.data)}"
        for role, choice in (("teacher", pair.teacher), ("student", pair.student)):
            if choice.recipe is not None and choice.recipe not in config.recipes:
                yield f"{at('pairs', i, role, 'recipe')}: {unknown('recipe', choice.recipe, {*config.recipes, *library.recipes()})}"
            try:
                if role == "student" or not brings_network(pair.teacher.checkpoint):
                    check_model_name(choice.model)
            except UsageError as error:
                yield f"{at('pairs', i, role, 'model')}: {error}"
    for name, recipe in config.recipes.items():
        share = config.compute.workers * recipe.accumulate
        if recipe.batch_size % share:
            yield (
                f"{at('recipes', name, 'batch_size')}: batch_size is {recipe.batch_size}, must be a multiple of {share} "
                f"(compute.workers {config.compute.workers} × accumulate {recipe.accumulate})"
            )
    trials = len(config.pairs) * len(config.methods) * (config.search.trials + len(config.final.seeds))
    if trials > MOST_TRIALS:
        yield (
            f"{at('search', 'trials')}: the sweep has {trials} trials, must have at most {MOST_TRIALS}; lower "
            "search.trials, or take fewer pairs or methods"
        )
    titles = [method.title for method in config.methods]
    for i, method in enumerate(config.methods):
        if titles.count(method.title) > 1:
            yield f"{at('methods', i)}: method '{method.title}' stands twice; give each variant a label of its own"
        try:
            check_method_name(method.name)
        except UsageError as error:
            yield f"{at('methods', i, 'name')}: {error}"
            continue
        try:
            check_settings(method.name, method.config)
            check_space(method.name, method_space(method))
        except ValidationError as error:
            for fault in error.errors(include_url=False):
                key = ".".join(str(part) for part in fault["loc"])
                yield f"{at('methods', i, 'space', *fault['loc'][1:])}: space {key}: {fault['msg'].removeprefix('Value error, ')}"
        except UsageError as error:
            yield f"{at('methods', i, 'config')}: {error}"
    gpus, compute = config.operation.gpus_per_worker, config.compute
    if gpus < 1 and compute.workers > 1 and compute.device == "cuda":
        yield (
            f"{at('operation', 'gpus_per_worker')}: gpus_per_worker is {gpus:g}, must be 1 where compute.workers is "
            f"{compute.workers}: NCCL refuses two workers of a cohort on one GPU; set compute.workers to 1"
        )
    try:
        price_of(config.budget)
    except UsageError as error:
        yield f"{at('budget', 'price' if config.budget.price is not None else 'cost')}: {error}"
    if "student" not in [method.name for method in config.methods]:
        yield f"{at('methods')}: methods lack 'student'; every gain is measured against the student alone, so add it"
