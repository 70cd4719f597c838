"""Checks of the models and methods of a plan before anything is trained: batches that their norms cannot take.

Imports torch only if a worker gets one picture at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

from distill.data.loader_memory import bytes_needed, shortage
from distill.errors import UsageError
from distill.recipe import Recipe
from distill.relative_weights import split_balanced
from distill.teacher_source import brings_network
from orchestrator.planning.config import ModelConfig, SweepConfig


def check_models(config: SweepConfig) -> None:
    """Check every model and method that the sweep trains.

    Raises:
        UsageError: a BatchNorm would see one value per channel.
    """
    problems = [*_single_values(config), *_single_values_of_methods(config)]
    if problems:
        raise UsageError("\n".join(dict.fromkeys(problems)))


def shared_memory_notes(config: SweepConfig) -> list[str]:
    """A sentence if this machine's shared memory is too small for the loader processes of a cohort."""
    loaders, workers = config.operation.loader_workers, config.compute.workers
    needs = [
        workers * bytes_needed(recipe.augmentation, max(1, recipe.batch_size // workers), loaders)
        for recipe in config.recipes.values()
    ]
    found = shortage(max(needs)) if loaders else None
    return [] if found is None else [found]


def _single_values(config: SweepConfig) -> Iterator[str]:
    """A problem for each recipe and model whose BatchNorm would see one value, for which there is no variance."""
    for model, name, workers in _trained(config):
        recipe = config.recipes[name]
        pictures = _pictures_of_a_norm(recipe, workers)
        if pictures > 1:
            continue
        from distill.models.single_values import normalises_one_value

        if normalises_one_value(model.model, model.options(), *recipe.augmentation.crop):
            divided = 1 if recipe.norm == "sync" else workers
            yield (
                f"{_share(name, recipe, divided)} gives {model.model} {pictures} picture at a time, and its BatchNorm over "
                f"pooled features needs at least 2: set recipes.{name}.norm to group, or batch_size to "
                f"{2 * recipe.batch_size // pictures}"
            )


def _single_values_of_methods(config: SweepConfig) -> Iterator[str]:
    """A problem for each recipe and method of whose own BatchNorm the same is true. `norm` is a setting of the model's."""
    workers = config.compute.workers_of_a_student(has_teacher=True)
    for pair, selection in product(config.pairs, config.methods):
        name, teacher = pair.student.recipe, pair.teacher
        recipe = config.recipes[name]
        if recipe.batch_size // recipe.accumulate // workers > 1:
            continue
        from distill.methods.single_values import method_normalises_one_value

        if method_normalises_one_value(
            selection.name,
            split_balanced(selection.config)[0],
            (pair.student.model, pair.student.options()),
            None if brings_network(teacher.checkpoint) else (teacher.model, teacher.options()),
            config.data[pair.data].class_count,
            recipe.augmentation.crop,
        ):
            height, width = recipe.augmentation.crop
            yield (
                f"{_share(name, recipe, workers)} gives method '{selection.title}' 1 picture at a time, and of a crop of "
                f"{height}×{width} its BatchNorm sees one pixel, needs at least 2: set recipes.{name}.batch_size to "
                f"{2 * recipe.accumulate * workers}, or a larger augmentation.crop"
            )


def _share(name: str, recipe: Recipe, workers: int) -> str:
    """The settings that decide how many pictures a norm sees at a time."""
    parts = [f"recipes.{name}.batch_size {recipe.batch_size}"]
    parts += [f"compute.workers {workers}"] if workers > 1 else []
    parts += [f"accumulate {recipe.accumulate}"] if recipe.accumulate > 1 else []
    return " / ".join(parts)


def _pictures_of_a_norm(recipe: Recipe, workers: int) -> int:
    """Pictures over which a norm computes its statistics; 2 stands for any number where it does not depend on it."""
    if recipe.norm == "group":
        return 2
    return recipe.batch_size // recipe.accumulate // (1 if recipe.norm == "sync" else workers)


def _trained(config: SweepConfig) -> Iterator[tuple[ModelConfig, str, int]]:
    """Each trained model, the name of its recipe, and the number of workers that train it together."""
    for pair in config.pairs:
        if pair.teacher.recipe is not None:
            yield pair.teacher, pair.teacher.recipe, config.compute.workers_of_a_student(has_teacher=False)
        yield pair.student, pair.student.recipe, config.compute.workers_of_a_student(has_teacher=True)
