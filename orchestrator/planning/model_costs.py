"""Parameters and FLOPs of a model, for the cost estimate: from the catalogue, from a table, or counted with torch.

The table has the models of the presets that the catalogue lacks, so that their estimate needs no torch.
`python -m orchestrator.planning.model_costs` writes it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import search_spaces
from distill.catalogue.reader import model_cost
from distill.catalogue_entries import ModelCost
from distill.errors import UsageError
from distill.recipe import digest
from orchestrator.planning.loader import load_sweep
from orchestrator.planning.plan import Plan, make_plan
from orchestrator.planning.planned_models import Model
from search_spaces import preset_names

TABLE = Path(search_spaces.__file__).with_name("costs.json")


def cost_of(model: Model, num_classes: int, height: int, width: int) -> ModelCost:
    """Parameters of a model, and FLOPs of its forward pass on one image of `height` × `width` pixels."""
    try:
        return model_cost(model.name, model.options, num_classes, height, width)
    except UsageError:  # not in the catalogue, such as a variant by backbone_args
        known = _table().get(_key(model, num_classes, height, width))
        if known is not None:
            return ModelCost(known["params"], known["flops_forward"])
        return _counted(
            model.name, json.dumps(dict(model.options), sort_keys=True), num_classes, height, width
        )


@lru_cache(maxsize=256)
def _counted(name: str, options: str, num_classes: int, height: int, width: int) -> ModelCost:
    from distill.models import ModelOptions
    from distill.models.costs import count_cost

    given = {key: value for key, value in json.loads(options).items() if key != "pretrained"}
    return count_cost(ModelOptions(name, num_classes, **given), height, width)


@lru_cache(maxsize=1)
def _table() -> Mapping[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = json.loads(TABLE.read_text(encoding="utf-8")) if TABLE.exists() else {}
    return found


def _key(model: Model, num_classes: int, height: int, width: int) -> str:
    return digest([model.name, dict(model.options), num_classes, height, width])


def models_of(plan: Plan) -> list[tuple[Model, int, int, int]]:
    """Each model of a plan, with its number of classes and the height and width of its crops."""
    found = []
    for study in plan.studies:
        classes = plan.config.data[study.data].class_count
        for model, recipe in (
            (study.student, study.recipe),
            (study.teacher.model, study.teacher.recipe or study.recipe),
        ):
            found.append((model, classes, *recipe.augmentation.crop))
        # The teacher also computes outputs on the crops of its students.
        found.append((study.teacher.model, classes, *study.recipe.augmentation.crop))
    return found


def main() -> None:
    """Count the models of the presets that are not in the catalogue, and write the table."""
    table = {}
    for preset in preset_names():
        for model, classes, height, width in models_of(make_plan(load_sweep(preset))):
            try:
                model_cost(model.name, model.options, classes, height, width)
            except UsageError:
                options = json.dumps(dict(model.options), sort_keys=True)
                cost = _counted(model.name, options, classes, height, width)
                table[_key(model, classes, height, width)] = {
                    "model": model.name,
                    "params": cost.params,
                    "flops_forward": cost.flops_forward,
                }
    TABLE.write_text(json.dumps(table, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    print(f"{TABLE}: {len(table)} models")


if __name__ == "__main__":
    main()
