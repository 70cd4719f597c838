"""Settings of the search, of the selection and of the final phase."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from distill.setting_paths import SettingPath
from orchestrator.planning.section import Section, Seed
from orchestrator.planning.sequences import SEQUENCES
from search_spaces.space import Value

Pruning = Literal["halving", "median", "none"]

MOST_TRIALS = 100_000
"""Maximum number of trials in a sweep. A plan of this size still takes only seconds to make."""

REPEAT_OFFSET = 10_000
"""Added to every seed of a study's search, selection and final phase for each further search of it."""


class SearchConfig(Section):
    """How each study is searched. All methods have the same search budget, so that their results can be compared."""

    model_config = ConfigDict(serialize_by_alias=True, validate_by_name=True)

    sampler: str = Field(
        default="sobol",
        description="sobol, random or grid; a searcher of Ray Tune: optuna, hyperopt, bayesopt, bohb, nevergrad or ax; or one "
        "of an installed package",
    )
    sampler_options: dict[str, Any] = Field(
        default_factory=dict,
        exclude_if=lambda options: not options,  # keeps the hashes of earlier runs
        description="options of the sampler: keyword arguments of the searcher, or `levels` of a grid",
    )
    trials: int = Field(
        default=16,
        ge=0,
        le=MOST_TRIALS,
        description="configurations per study; with 0 there is no search and every method has its defaults",
    )
    bracket: int = Field(
        default=8,
        ge=1,
        le=10_000,
        description="trials of a study that start together and compete at the rungs",
    )
    wave: int = Field(
        default=16, ge=1, le=10_000, description="students that share each teacher forward pass"
    )
    rungs: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = Field(
        default=(0.25, 0.5),
        max_length=32,
        description="fractions of the steps at which trials of each bracket are stopped",
    )
    pruning: Pruning = Field(
        default="halving",
        exclude_if=lambda pruning: pruning == "halving",  # keeps the hashes of earlier runs
        description="which trials stop at a rung. halving: the worse half of the bracket; median: those whose best score is "
        "below the median of the others' mean scores; none: no trial, and there are no rungs",
    )
    earlier_runs: tuple[SettingPath, ...] = Field(
        default=(),
        alias="from",
        max_length=1_000,
        exclude_if=lambda runs: not runs,  # keeps the hashes of earlier runs
        description="folders of runs: each study first tries the configurations that were best for its method there",
    )
    first: dict[str, tuple[dict[str, Value], ...]] = Field(
        default_factory=dict,
        exclude_if=lambda first: not first,
        description="by method: configurations to try after the defaults, before any is drawn. `from` writes those of methods "
        "that are not here",
    )
    evaluations: int = Field(
        default=1, ge=1, le=10_000, description="evaluations on tune in a training, including the last step"
    )
    seed: Seed = Field(default=0, description="seed of the configurations that are drawn")
    training_seeds: tuple[Seed, ...] | None = Field(
        default=None,
        min_length=1,
        max_length=1_000,
        exclude_if=lambda seeds: seeds is None,  # keeps the hashes of earlier runs
        description="seeds of the search's trainings (initialisation and data order), one for each bracket in turn; by "
        "default the seed of the configurations",
    )
    finalists: int = Field(
        default=2,
        ge=0,
        le=10_000,
        description="best configurations of each study that are trained again, once for each of `finalist_seeds`; the one "
        "with the best mean, its search trial included, is the study's choice. With 0 the best search trial is",
    )
    finalist_seeds: tuple[Seed, ...] = Field(
        default=(101, 102),
        min_length=1,
        max_length=1_000,
        exclude_if=lambda seeds: seeds == (101, 102),
        description="training seeds of the finalists",
    )

    repeats: int = Field(
        default=1,
        ge=1,
        le=100,
        exclude_if=lambda repeats: repeats == 1,  # keeps the hashes of earlier runs
        description="independent searches of each study, with other configurations, other training seeds and other final "
        f"seeds: {REPEAT_OFFSET:,} is added to each seed for each repeat. A claim about a method needs at least two; with one "
        "it is a claim about one chosen configuration",
    )

    @property
    def is_adaptive(self) -> bool:
        """Whether the configurations of a bracket depend on the results of earlier brackets."""
        return self.sampler not in SEQUENCES

    @property
    def selection_seeds(self) -> tuple[int, ...]:
        """All training seeds that take part in the choice of a configuration."""
        return self.bracket_seeds + (self.finalist_seeds if self.finalists else ())

    @property
    def bracket_seeds(self) -> tuple[int, ...]:
        """Training seeds of the brackets, used in turn."""
        return self.training_seeds or (self.seed,)

    @property
    def finishing_trials(self) -> int:
        """Trials of a study that reach the last step, where each rung stops the worse half of a bracket."""
        sizes = [self.bracket] * (self.trials // self.bracket) + [self.trials % self.bracket]
        rungs = len(self.rungs) if self.pruning == "halving" else 0
        return sum(math.ceil(size / 2**rungs) for size in sizes)

    @property
    def trained_finalists(self) -> int:
        """Finalists of a study that there can be: rungs may leave fewer trials than `finalists`."""
        return min(self.finalists, self.finishing_trials)

    @model_validator(mode="after")
    def _selection_seeds_differ(self) -> Self:
        seeds = self.selection_seeds
        twice = sorted({seed for seed in seeds if seeds.count(seed) > 1})
        if twice:
            raise ValueError(
                f"training_seeds {list(self.bracket_seeds)} and finalist_seeds {list(self.finalist_seeds)} have "
                f"{twice} twice; each selection seed must be used once"
            )
        return self

    @model_validator(mode="after")
    def _check_rungs_and_bracket(self) -> Self:
        if list(self.rungs) != sorted(set(self.rungs)):
            raise ValueError(f"rungs are {list(self.rungs)}, must increase")
        if self.bracket > self.wave:
            raise ValueError(
                f"bracket is {self.bracket}, must not be above wave ({self.wave}): all trials of a bracket train in one wave"
            )
        return self


class FinalConfig(Section):
    """The final phase: the best configuration of each study is trained again and evaluated on test, once per seed."""

    seeds: tuple[Seed, ...] = Field(
        default=(1, 2, 3, 4, 5),
        max_length=1_000,
        description="seeds of the final runs; use at least five for results, three are enough for a smoke test",
    )

    @model_validator(mode="after")
    def _seeds_differ(self) -> Self:
        if len(set(self.seeds)) != len(self.seeds) or not self.seeds:
            raise ValueError(f"seeds are {list(self.seeds)}, must be one or more different whole numbers")
        return self
