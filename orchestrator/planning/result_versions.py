"""Which models and methods compute another result than their first version did. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence

from distill.catalogue.reader import load_catalogue
from distill.recipe import Recipe

RESULT_VERSION = 2
"""Part of every id. Raise it if a change of the code changes the results of a configuration."""


def result_versions(
    models: Sequence[str], losses: Sequence[tuple[str, Recipe]] = ()
) -> dict[str, dict[str, int]]:
    """The entry of the hashed values that separates new results from old ones: of trials, teachers and plans.

    It is empty if nothing has changed, so that all other ids stay. Raising `RESULT_VERSION` would change every id.

    Args:
        models: names of models.
        losses: methods, each with the recipe of its student.
    """
    catalogue = load_catalogue()
    heads = [catalogue.heads.get(model.partition("-")[0]) for model in models]
    methods = [catalogue.methods[part] for method, _ in losses for part in method.split("+")]
    every = {head.name: head.result_version for head in heads if head is not None}
    every |= {method.name: method.result_version for method in methods}
    versions = {name: version for name, version in every.items() if version > 1}
    if any(recipe.precision == "bf16" and method != "student" for method, recipe in losses):
        versions["bf16 losses"] = 2  # matrix products of losses are bfloat16 too
    return {"versions": versions} if versions else {}
