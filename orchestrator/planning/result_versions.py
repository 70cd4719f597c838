"""Which models and methods compute another result than their first version did. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from distill.catalogue.reader import load_catalogue
from distill.recipe import Recipe

if TYPE_CHECKING:
    from orchestrator.planning.planned_models import Model

RESULT_VERSION = 2
"""Part of every id. Raise it if a change of the code changes the results of a configuration."""


def result_versions(
    models: Sequence[Model], losses: Sequence[tuple[str, Mapping[str, Any], Recipe]] = ()
) -> dict[str, dict[str, int]]:
    """The entry of the hashed values that separates new results from old ones: of trials, teachers and plans.

    It is empty if nothing has changed, so that all other ids stay. Raising `RESULT_VERSION` would change every id.

    Args:
        models: the models that are trained.
        losses: methods, each with its settings and the recipe of its student.
    """
    catalogue = load_catalogue()
    named = [model.name.partition("-") for model in models]
    heads = [catalogue.heads.get(head) for head, _, _ in named]
    every = {head.name: head.result_version for head in heads if head is not None}
    for method, settings, _ in losses:
        every.update(_method_versions(method, settings))
    versions = {name: version for name, version in every.items() if version > 1}
    if any(recipe.precision == "bf16" and method != "student" for method, _, recipe in losses):
        versions["bf16 losses"] = 2  # matrix products of losses are bfloat16 too
    if any(
        model.options.get("pretrained") and backbone in catalogue.own_normalisation
        for model, (_, _, backbone) in zip(models, named, strict=True)
    ):
        versions["normalisation"] = 2  # pictures are normalised as for the training of the pretrained weights
    return {"versions": versions} if versions else {}


def _method_versions(name: str, settings: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """The raised versions of a method, or of the parts of a combined one, that its settings meet."""
    methods = load_catalogue().methods
    parts = name.split("+")
    for part in parts:
        method = methods[part]
        setting = method.changed_default if len(parts) == 1 else f"{part}.{method.changed_default}"
        if setting not in settings:
            yield part, method.result_version
