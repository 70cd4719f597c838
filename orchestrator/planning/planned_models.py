"""The models of a plan: teachers with their ids, and what is hashed of a model and of a data set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from distill.recipe import Recipe, digest
from distill.teacher_source import ClassMap, TeacherSource
from orchestrator.planning.config import ModelConfig, PairConfig, SweepConfig
from orchestrator.planning.result_versions import RESULT_VERSION, result_versions
from orchestrator.planning.weight_contents import with_contents

_CHECKPOINT = {"checkpoint", "class_map", "sha256"}


@dataclass(frozen=True)
class Model:
    """Name and options of a model, as `build_model` takes them; `hashed` has the content of files in place of paths."""

    name: str
    options: Mapping[str, Any]
    hashed: Mapping[str, Any]


@dataclass(frozen=True)
class Teacher:
    """A teacher. Its id is a hash of everything that determines its weights."""

    teacher_id: str
    model: Model
    data: str
    recipe: Recipe | None
    seed: int
    checkpoint: TeacherSource | None
    class_map: ClassMap | None
    sha256: str | None


def model_of(choice: ModelConfig, contents: Mapping[str, str]) -> Model:
    """A model of a pair, by its settings."""
    options = choice.options()
    return Model(choice.model, options, with_contents(options, contents))


def teacher_of(config: SweepConfig, pair: PairConfig, contents: Mapping[str, str]) -> Teacher:
    """The teacher of a pair, with its id."""
    choice = pair.teacher
    recipe = None if choice.recipe is None else config.recipes[choice.recipe]
    model = model_of(choice, contents)
    weights_key = {
        "version": RESULT_VERSION,
        "model": [model.name, model.hashed],
        "data": data_identity(config, pair.data),
        "protocol": config.protocol,
        "recipe": None if recipe is None else recipe.model_dump(mode="json"),
        "seed": choice.seed,
        "checkpoint": with_contents(choice.model_dump(mode="json", include=_CHECKPOINT), contents),
        "compute": None if recipe is None else config.compute.hashed(),
        **result_versions([model]),
    }
    return Teacher(
        teacher_id=digest(weights_key),
        model=model,
        data=pair.data,
        recipe=recipe,
        seed=choice.seed,
        checkpoint=choice.checkpoint,
        class_map=choice.class_map,
        sha256=choice.sha256,
    )


def data_identity(config: SweepConfig, data: str) -> dict[str, Any]:
    """Settings of a data set without its folder: two copies of the same data are the same data set."""
    return config.data[data].model_dump(mode="json", exclude={"root"})
