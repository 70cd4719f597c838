"""Load a sweep file: YAML with line numbers, `--set` options, checks across sections. Imports neither Ray nor torch."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from distill.catalogue.reader import check_model_name
from distill.errors import UsageError, nearest, reading, unknown
from distill.setting_paths import KeyPath, paths_in
from distill.teacher_source import brings_network
from distill.validation_text import booleans_as_numbers, violation
from distill.yaml_reader import parse_yaml
from orchestrator.planning.config import SweepConfig
from orchestrator.planning.method_settings import method_faults
from orchestrator.planning.prices import price_of
from orchestrator.planning.renamed import explain_renamed
from orchestrator.planning.sampler_check import sampler_faults
from orchestrator.planning.search_config import MOST_TRIALS, REPEAT_OFFSET
from search_spaces import library, preset_names, preset_path

_MOST_ERRORS = 50


def load_sweep(source: str, overrides: Sequence[str] = ()) -> SweepConfig:
    """The checked config of a preset or a YAML file.

    Args:
        source: name of a preset (`laptop`), or a path that ends in .yaml or .yml.
        overrides: `key=value` with a dotted key. The value is parsed as YAML.

    Raises:
        UsageError: the file is not valid. There is one line for each error, with file and line of the key.
    """
    document, locations, _ = _read_with_overrides(source, overrides)
    try:
        config = SweepConfig.model_validate(document)
    except ValidationError as error:
        raise _combined(_describe(error, document, locations)) from None
    booleans = booleans_as_numbers(document, config)
    errors = [f"{locations.of(*keys)}: {message}" for keys, message in booleans]
    if errors := [*errors, *_cross_checks(config, locations)]:
        raise _combined(errors)
    return config


def with_absolute_paths(source: str, overrides: Sequence[str]) -> tuple[str, list[str]]:
    """The text of a sweep file and its overrides, with all paths absolute: they mean the same in any folder.

    Raises:
        UsageError: see `load_sweep`.
    """
    text = yaml.safe_dump(_read(source)[0], sort_keys=False, allow_unicode=True)
    return text, _read_with_overrides(source, overrides)[2]


class _Locations:
    """File and line of each key of a document, or the `--set` option that wrote it."""

    def __init__(self, path: Path, tree: yaml.Node | None) -> None:
        self._path = path
        self._found: dict[KeyPath, str] = {}
        self._options: dict[KeyPath, str] = {}
        if tree is not None:
            self._add_nodes(tree, ())

    def _add_nodes(self, node: yaml.Node, key_path: KeyPath) -> None:
        self._found.setdefault(key_path, f"{self._path}:{node.start_mark.line + 1}")
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                below = (*key_path, str(key.value))
                self._found[below] = f"{self._path}:{key.start_mark.line + 1}"
                self._add_nodes(value, below)
        elif isinstance(node, yaml.SequenceNode):
            for position, value in enumerate(node.value):
                self._add_nodes(value, (*key_path, position))

    def add_override(self, key_path: KeyPath, override: str) -> None:
        """Record that a `--set` option wrote a key, and the sections above it that the file does not have."""
        self._found = {known: at for known, at in self._found.items() if known[: len(key_path)] != key_path}
        for length in range(1, len(key_path)):
            self._found.setdefault(key_path[:length], f"--set {override}")
        self._found[key_path] = self._options[key_path] = f"--set {override}"

    def of(self, *key_path: str | int) -> str:
        """Location of a key, or of the nearest section above it that has one, with the `--set` options below it."""
        lengths = range(len(key_path), 0, -1)
        place = next(
            (self._found[key_path[:n]] for n in lengths if key_path[:n] in self._found), str(self._path)
        )
        below = (option for path, option in self._options.items() if path[: len(key_path)] == key_path)
        return " with ".join(dict.fromkeys((place, *below)))


def _combined(errors: Iterable[str]) -> UsageError:
    """One error with a line for each different message."""
    lines = list(dict.fromkeys(errors))
    more = [f"… and {len(lines) - _MOST_ERRORS} more errors"] if len(lines) > _MOST_ERRORS else []
    return UsageError("\n".join([*lines[:_MOST_ERRORS], *more]))


def _find_file(source: str) -> Path:
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
        kind = "empty" if document is None else "a list" if isinstance(document, list) else "no mapping"
        raise UsageError(
            f"{path}: is {kind}, must be a mapping with the keys of a sweep file, such as name: mine"
        )
    return document, tree


def _read(source: str) -> tuple[dict[str, Any], _Locations]:
    """The document of a sweep file with absolute paths, and the locations of its keys."""
    path = _find_file(source)
    document, tree = _parse(path)
    locations = _Locations(path, tree)
    errors = []
    for found in paths_in(document, SweepConfig):
        try:
            found.make_absolute(path.parent.resolve())
        except UsageError as error:
            errors.append(f"{locations.of(*found.keys)}: {'.'.join(map(str, found.keys))} {error}")
    if errors:
        raise _combined(errors)
    return document, locations


def _read_with_overrides(
    source: str, overrides: Sequence[str]
) -> tuple[dict[str, Any], _Locations, list[str]]:
    """The whole document, the locations of its keys, and the overrides with absolute paths."""
    document, locations = _read(source)
    absolute = []
    # Before the overrides, because an override may change one field of a library entry. After them, because an override
    # may name a library entry.
    _expand_library_names(document, locations)
    for override in overrides:
        key_path = _apply_override(document, override)
        locations.add_override(key_path, override)
        absolute.append(_with_working_folder(document, key_path, override))
    _expand_library_names(document, locations)
    return document, locations, absolute


def _with_working_folder(document: dict[str, Any], key_path: KeyPath, override: str) -> str:
    """The override with absolute paths, also in the document: they start from the working folder, as in any command."""
    keys = tuple(map(str, key_path))
    paths = [
        found for found in paths_in(document, SweepConfig) if tuple(map(str, found.keys[: len(keys)])) == keys
    ]
    if not paths:
        return override
    for found in paths:
        try:
            found.make_absolute(Path.cwd())
        except UsageError as error:
            raise UsageError(f"--set {override}: {'.'.join(map(str, found.keys))} {error}") from None
    value: Any = document
    for key in key_path:
        value = value[key if isinstance(value, list) else str(key)]
    return f"{override.partition('=')[0]}={json.dumps(value)}"


def _apply_override(document: dict[str, Any], override: str) -> KeyPath:
    """Write one `key=value` into the document; returns the path of the key."""
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise UsageError(f"--set {override}: must be key=value, such as search.trials=8")
    key_path: KeyPath = tuple(int(part) if part.isdigit() else part for part in key.split("."))
    value, _ = parse_yaml(text, f"--set {override}")
    node: Any = document
    for part in key_path[:-1]:
        key_or_index = _key_or_index(node, part, override)
        node = node[key_or_index] if isinstance(node, list) else node.setdefault(key_or_index, {})
    node[_key_or_index(node, key_path[-1], override)] = value
    return key_path


def _key_or_index(node: Any, part: str | int, override: str) -> Any:
    """A part of an override's key as the key of a mapping or the index of a list; UsageError if `node` has no such part."""
    if isinstance(node, list):
        if not isinstance(part, int) or part >= len(node):
            raise UsageError(
                f"--set {override}: '{part}' is not a position in a list of {len(node)} entries; count from 0"
            )
        return part
    if not isinstance(node, dict):
        raise UsageError(f"--set {override}: '{part}' is below a value that is neither a mapping nor a list")
    return str(part)


def _expand_library_names(document: dict[str, Any], locations: _Locations) -> None:
    """Write out the library's pairs that the document names with `pair:`, and recipes that it uses but does not define."""
    listed = document.get("pairs")
    entries: list[Any] = listed if isinstance(listed, list) else []
    for i, entry in enumerate(entries):
        if not isinstance(entry, dict) or "pair" not in entry:
            continue
        name = entry.pop("pair")
        if not isinstance(name, str) or name not in library.pairs():
            raise UsageError(
                f"{locations.of('pairs', i, 'pair')}: {unknown('pair', str(name), library.pairs())}"
            )
        entries[i] = {"name": name, **copy.deepcopy(library.pairs()[name]), **entry}
    recipes = document.setdefault("recipes", {})
    for entry in entries:
        for role in ("teacher", "student"):
            model = entry.get(role) if isinstance(entry, dict) else None
            used = model.get("recipe") if isinstance(model, dict) else None
            if isinstance(recipes, dict) and isinstance(used, str) and used in library.recipes():
                recipes.setdefault(used, copy.deepcopy(library.recipes()[used]))


def _describe(error: ValidationError, document: Any, locations: _Locations) -> Iterator[str]:
    """One line for each error that pydantic found. A list is no shorter because some of its entries are wrong."""
    errors = error.errors(include_url=False)
    for found in errors:
        depth = len(found["loc"])
        if found["type"] == "too_short" and any(e["loc"][:depth] == found["loc"] != e["loc"] for e in errors):
            continue
        key_path = _path_in_document(found["loc"], document, missing=found["type"] == "missing")
        key = ".".join(map(str, key_path))
        if found["type"] == "extra_forbidden":
            message = explain_renamed(key) or _unknown_key(key, found["loc"])
        elif found["type"] == "missing":
            message = f"'{key}' is missing"
        else:
            message = violation(found, key, SweepConfig)
        yield f"{locations.of(*key_path)}: {message}"


def _unknown_key(key: str, location: Sequence[str | int]) -> str:
    known = _known_keys(location)
    close = nearest(str(location[-1]), known)
    hint = f"did you mean '{close[0]}'? " if close else ""
    return f"unknown key '{key}'; {hint}Known here: {', '.join(sorted(known))}."


def _path_in_document(location: Sequence[str | int], document: Any, *, missing: bool) -> KeyPath:
    """pydantic's location without the parts that the document does not have, such as the tag of a union."""
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


def _known_keys(location: Sequence[str | int]) -> list[str]:
    """Fields of the model in which the last part of `location` is unknown."""
    models: list[type[BaseModel]] = [SweepConfig]
    union: list[type[BaseModel]] = []
    for part in location[:-1]:
        if tagged := [model for model in union if _kind(model) == part]:
            models = tagged  # the last tag counts: the name of a data set may be the tag of another kind
        elif len(models) == 1 and (field := models[0].model_fields.get(str(part))):
            found = list(_models_in(field.annotation))
            union = found if len(found) > 1 else []
            models = found or models
    return sorted({field.alias or name for model in models for name, field in model.model_fields.items()})


def _kind(model: type[BaseModel]) -> str | None:
    field = model.model_fields.get("kind")
    return None if field is None else field.default


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models_in(argument)


def _cross_checks(config: SweepConfig, locations: _Locations) -> Iterator[str]:
    """Errors that involve more than one section: undefined names, unknown methods and models, limits of the whole sweep."""
    yield from _check_pairs(config, locations)
    yield from _check_batch_sizes(config, locations)
    yield from _check_trial_count(config, locations)
    yield from _check_seeds(config, locations)
    yield from _check_methods(config, locations)
    yield from (f"{locations.of('search', key)}: {fault}" for key, fault in sampler_faults(config))
    yield from _check_gpu_fraction(config, locations)
    try:
        price_of(config.budget)
    except UsageError as error:
        key = "price" if config.budget.price is not None else "cost"
        yield f"{locations.of('budget', key)}: {error}"
    if "student" not in [method.name for method in config.methods]:
        yield f"{locations.of('methods')}: methods lack 'student'; gains are relative to the student alone, so add it"


def _check_pairs(config: SweepConfig, locations: _Locations) -> Iterator[str]:
    labels = [pair.label for pair in config.pairs]
    for i, pair in enumerate(config.pairs):
        if labels.count(pair.label) > 1:
            yield (
                f"{locations.of('pairs', i)}: there are several pairs '{pair.label}'; give each a different name"
            )
        if pair.data not in config.data:
            yield f"{locations.of('pairs', i, 'data')}: {unknown('data set', pair.data, config.data)}"
        for role, model in pair.models:
            if model.recipe is not None and model.recipe not in config.recipes:
                known = {*config.recipes, *library.recipes()}
                yield f"{locations.of('pairs', i, role, 'recipe')}: {unknown('recipe', model.recipe, known)}"
            try:
                if role == "student" or not brings_network(pair.teacher.checkpoint):
                    check_model_name(model.model)
            except UsageError as error:
                yield f"{locations.of('pairs', i, role, 'model')}: {error}"


def _check_batch_sizes(config: SweepConfig, locations: _Locations) -> Iterator[str]:
    for name, recipe in config.recipes.items():
        parts = config.compute.workers * recipe.accumulate
        if recipe.batch_size % parts:
            yield (
                f"{locations.of('recipes', name, 'batch_size')}: batch_size is {recipe.batch_size}, must be a multiple "
                f"of {parts} (compute.workers {config.compute.workers} × accumulate {recipe.accumulate})"
            )


def _check_seeds(config: SweepConfig, locations: _Locations) -> Iterator[str]:
    """A final run with a seed that took part in the choice of its configuration would be scored too high."""
    shared = set(config.search.selection_seeds) & set(config.final.seeds)
    highest = max(*config.search.selection_seeds, *config.final.seeds, config.search.seed)
    if config.search.repeats > 1 and highest >= REPEAT_OFFSET:
        yield (
            f"{locations.of('search', 'repeats')}: search.repeats is {config.search.repeats}, which needs seeds below "
            f"{REPEAT_OFFSET}, as each repeat adds {REPEAT_OFFSET} to them; there is a seed {highest}"
        )
    if shared and config.search.trials:
        yield (
            f"{locations.of('final', 'seeds')}: final.seeds are {list(config.final.seeds)}, must have none of the "
            f"selection's seeds {list(config.search.selection_seeds)} (search.training_seeds and search.finalist_seeds)"
        )


def _check_trial_count(config: SweepConfig, locations: _Locations) -> Iterator[str]:
    search = config.search
    finalists = min(search.finalists, search.trials) * len(search.finalist_seeds)
    studies = len(config.pairs) * len(config.methods) * len(config.compare) * search.repeats
    trials = studies * (search.trials + finalists + len(config.final.seeds))
    if trials > MOST_TRIALS:
        yield (
            f"{locations.of('search', 'trials')}: the sweep has {trials} trials, must have at most {MOST_TRIALS}; lower "
            "search.trials, or choose fewer pairs or methods"
        )


def _check_methods(config: SweepConfig, locations: _Locations) -> Iterator[str]:
    titles = [method.title for method in config.methods]
    names = dict.fromkeys(pair.student.recipe for pair in config.pairs)
    recipes = [config.recipes[name] for name in names if name in config.recipes]
    for i, method in enumerate(config.methods):
        if titles.count(method.title) > 1:
            yield (
                f"{locations.of('methods', i)}: there are several methods '{method.title}'; give each variant a label"
            )
        for keys, fault in method_faults(method, recipes):
            yield f"{locations.of('methods', i, *keys)}: {fault}"


def _check_gpu_fraction(config: SweepConfig, locations: _Locations) -> Iterator[str]:
    gpus, compute = config.operation.gpus_per_worker, config.compute
    if gpus < 1 and compute.workers > 1 and compute.device == "cuda":
        yield (
            f"{locations.of('operation', 'gpus_per_worker')}: gpus_per_worker is {gpus:g}, must be 1 where "
            f"compute.workers is {compute.workers}: NCCL refuses two workers of a cohort on one GPU; set compute.workers to 1"
        )
