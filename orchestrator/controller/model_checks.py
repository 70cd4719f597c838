"""Checks of the models of a plan before anything is trained: batches that their norms cannot take.

Imports torch only if a worker gets one picture at a time.
"""

from __future__ import annotations

from collections.abc import Iterator

from distill.data.loader_memory import bytes_needed, shortage
from distill.errors import UsageError
from distill.recipe import Recipe
from orchestrator.planning.config import ModelConfig, SweepConfig


def check_models(config: SweepConfig) -> None:
    """Check every model that the sweep trains.

    Raises:
        UsageError: a BatchNorm would see one value per channel.
    """
    problems = list(_single_values(config))
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
            parts = [f"recipes.{name}.batch_size {recipe.batch_size}"]
            parts += [f"compute.workers {workers}"] if workers > 1 and recipe.norm != "sync" else []
            parts += [f"accumulate {recipe.accumulate}"] if recipe.accumulate > 1 else []
            least = 2 * recipe.batch_size // pictures
            yield (
                f"{' / '.join(parts)} gives {model.model} {pictures} picture at a time, and its BatchNorm over pooled features "
                f"needs at least 2: set recipes.{name}.norm to group, or batch_size to {least}"
            )


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
