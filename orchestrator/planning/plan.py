"""The plan of a sweep: its studies, cohorts, waves and trials, with their ids. Pure functions without Ray, torch, clock or disk."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from types import MappingProxyType
from typing import Any, Literal

from distill.recipe import Recipe, digest
from orchestrator.planning.config import MethodSelection, PairConfig, SweepConfig
from orchestrator.planning.equal_seconds import SECONDS, STEPS, Basis, recipe_within_seconds, step_cost
from orchestrator.planning.method_settings import apply_params, method_space
from orchestrator.planning.planned_models import Model, Teacher, data_identity, model_of, teacher_of
from orchestrator.planning.result_versions import RESULT_VERSION, result_versions
from orchestrator.planning.sampler import History, Params, sample_bracket
from orchestrator.planning.search_config import REPEAT_OFFSET, SearchConfig
from orchestrator.planning.selection import best_finalist, finalists, winner
from orchestrator.planning.tune_searchers import check_sampler_name
from orchestrator.planning.weight_contents import with_contents
from search_spaces import Space

Phase = Literal["teacher", "search", "selection", "final"]
PHASES: tuple[Phase, ...] = ("teacher", "search", "selection", "final")
"""In the order of a sweep. `selection` trains each study's finalists again, with seeds that the search did not use."""
KEPT_PHASES: tuple[Phase, ...] = ("teacher", "final")
"""Phases whose models are scored on test and kept. All others see tune only."""


@dataclass(frozen=True)
class Study:
    """One pair and one method: the unit of search. With `search.repeats` there is one study for each repeat.

    Attributes:
        recipe: by which its trials train. If `compare` is seconds, it has the steps that fit into the student's seconds.
        ranked_recipe: that of the student alone, which all methods of a board have in common.
        compare: what its method has as much of as the student alone.
        cost: of a step of the method, relative to the student alone; None if `compare` is steps.
    """

    study_id: str
    pair: str
    data: str
    teacher: Teacher
    student: Model
    method: str
    title: str
    method_config: Mapping[str, Any]
    recipe: Recipe
    ranked_recipe: Recipe
    space: Space
    repeat: int = 0
    compare: Basis = STEPS
    cost: float | None = None


@dataclass(frozen=True)
class Trial:
    """One training: all that a worker needs to run it, and the values of its row in the ledger."""

    trial_id: str
    study_id: str
    phase: Phase
    pair: str
    data: str
    teacher: str
    teacher_id: str | None
    student: Model
    method: str
    title: str
    params: Params
    method_config: Mapping[str, Any]
    recipe: Recipe
    recipe_hash: str
    seed: int
    bracket: int
    repeat: int = 0
    searched: tuple[str, ...] = ()
    compare: Basis = STEPS
    cost: float | None = None


@dataclass(frozen=True)
class Bracket:
    """Trials of one study that start together and compete at the rungs."""

    study: Study
    index: int
    size: int


@dataclass(frozen=True)
class Wave:
    """Brackets whose trials train together: they share each batch and each forward pass of the teacher.

    Attributes:
        stream_seed: seed of the batches.
        steps: number of steps of each training.
        rungs: steps at which trials of each bracket may be stopped.
        evaluations: steps at which the trials are evaluated on tune.
        halvings: those rungs of which it is known beforehand how many trials of a bracket they stop: the worse half.
    """

    index: int
    phase: Phase
    stream_seed: int
    brackets: tuple[Bracket, ...]
    steps: int
    rungs: tuple[int, ...]
    evaluations: tuple[int, ...]
    halvings: tuple[int, ...] = ()

    @property
    def trials(self) -> int:
        """Number of trials in this wave."""
        return sum(bracket.size for bracket in self.brackets)


@dataclass(frozen=True)
class Cohort:
    """Trials that share a teacher, a data set and a data recipe, of the search and of the final phase.

    The cohort that trains a teacher has no teacher itself.
    """

    cohort_id: str
    data: str
    teacher: Teacher | None
    recipe: Recipe
    waves: tuple[Wave, ...]

    @property
    def trials(self) -> int:
        """Number of trials in this cohort."""
        return sum(wave.trials for wave in self.waves)


@dataclass(frozen=True)
class Plan:
    """Everything that a sweep will train. `contents` are those of its files of weights (`weight_contents`)."""

    config: SweepConfig
    plan_hash: str
    teachers: tuple[Teacher, ...]
    studies: tuple[Study, ...]
    students: tuple[Cohort, ...]
    contents: Mapping[str, str]

    @property
    def trainings(self) -> int:
        """Number of trainings, teachers included; fewer if a study is stopped."""
        return len(self.teachers) + sum(cohort.trials for cohort in self.students)


def make_plan(config: SweepConfig, contents: Mapping[str, str] = MappingProxyType({})) -> Plan:
    """The plan of a checked config. A study whose steps depend on a cost that was not measured yet is not in it.

    Args:
        config: the sweep.
        contents: see `weight_contents`. A file that is not in it is known by its path.

    Raises:
        UsageError: there is no such sampler.
    """
    check_sampler_name(
        config.search.sampler
    )  # a run of an earlier version may have one that there is not any more
    teachers = {pair.label: teacher_of(config, pair, contents) for pair in config.pairs}
    studies = tuple(
        _study(config, pair, method, teachers[pair.label], repeat, contents, compare)
        for repeat in range(config.search.repeats)
        for compare in config.compare
        for pair in config.pairs
        for method in config.methods
        if compare == STEPS or step_cost(config, pair.label, method) is not None
    )
    models = [model for study in studies for model in (study.student, study.teacher.model)]
    versions = result_versions(models, [(s.method, s.method_config, s.recipe) for s in studies])
    unique = tuple({teacher.teacher_id: teacher for teacher in teachers.values()}.values())
    return Plan(
        config=config,
        plan_hash=digest(
            {"version": RESULT_VERSION, "config": with_contents(config.decisive(), contents), **versions}
        ),
        teachers=unique,
        studies=studies,
        students=tuple(_student_cohorts(config, studies)),
        contents=contents,
    )


def teacher_cohort(plan: Plan, teacher: Teacher) -> Cohort:
    """Cohort with one trial that trains a teacher, as a student without a teacher. A loaded teacher is only evaluated."""
    first = next(study for study in plan.studies if study.teacher.teacher_id == teacher.teacher_id)
    recipe = teacher.recipe or first.ranked_recipe
    study = Study(
        study_id=teacher.teacher_id,
        pair=first.pair,
        data=teacher.data,
        teacher=teacher,
        student=teacher.model,
        method="student",
        title="teacher",
        method_config={},
        recipe=recipe,
        ranked_recipe=recipe,
        space=Space(method="student"),
    )
    evaluations = _evaluation_steps(plan.config.search.evaluations, recipe.steps)
    bracket = Bracket(study, 0, 1)
    wave = Wave(0, "teacher", teacher.seed, (bracket,), recipe.steps, rungs=(), evaluations=evaluations)
    return Cohort(f"teacher-{teacher.teacher_id}", teacher.data, None, recipe, (wave,))


def bracket_trials(
    config: SweepConfig, cohort: Cohort, wave: Wave, bracket: Bracket, history: Mapping[Phase, History]
) -> list[Trial]:
    """The trials of one bracket.

    A trial of the selection has the parameters of a finalist, a final trial those of the study's choice. If no search trial
    of the study finished, there is none.

    Args:
        config: settings of the sweep.
        cohort: cohort of the wave.
        wave: wave of the bracket.
        bracket: bracket of the trials.
        history: results of the study's earlier trials by phase. An adaptive sampler and the selection need those of the
            search, a final trial those of both.
    """
    study = bracket.study
    searched, selected = history.get("search", ()), history.get("selection", ())
    if wave.phase == "search":
        drawn = sample_bracket(
            config.search, study.space, seed=config.search.seed + study.repeat * REPEAT_OFFSET, index=bracket.index,
            size=bracket.size, first=config.search.first.get(study.title, ()), history=searched,
        )  # fmt: skip
    elif wave.phase == "selection":
        drawn = finalists(searched, config.search.finalists)
    elif wave.phase == "final" and config.search.trials > 0:
        best = best_finalist(searched, selected) or winner(searched)
        drawn = [] if best is None else [best] * bracket.size
    else:
        drawn = [{}] * bracket.size
    return [_trial(config, cohort, wave, bracket, params) for params in drawn]


def _trial(config: SweepConfig, cohort: Cohort, wave: Wave, bracket: Bracket, params: Params) -> Trial:
    study = bracket.study
    method_config, recipe = apply_params(params, study.method_config, study.recipe, study.space)
    result_key = {
        "version": RESULT_VERSION,
        "phase": wave.phase,
        "protocol": config.protocol,
        "data": data_identity(config, study.data),
        "teacher": None if cohort.teacher is None else cohort.teacher.teacher_id,
        "student": [study.student.name, study.student.hashed],
        "method": [study.method, method_config],
        "recipe": recipe.model_dump(mode="json"),
        "seed": wave.stream_seed,
        "compute": config.compute.hashed(),
        **result_versions([study.student], [(study.method, method_config, recipe)]),
    }
    # Two trials of a study may have the same configuration. The study and the bracket distinguish their ids.
    position = [study.study_id, bracket.index, dict(params)]
    return Trial(
        trial_id=digest({"decides": result_key, "place": position}),  # the keys are part of the hash
        study_id=study.study_id,
        phase=wave.phase,
        pair=study.pair,
        data=study.data,
        teacher=study.teacher.model.name,
        teacher_id=None if cohort.teacher is None else cohort.teacher.teacher_id,
        student=study.student,
        method=study.method,
        title=study.title,
        params=params,
        method_config=method_config,
        recipe=recipe,
        recipe_hash=study_recipe_hash(config, study),
        seed=wave.stream_seed,
        bracket=bracket.index,
        repeat=study.repeat,
        searched=tuple(study.space.parameters) if config.search.trials > 0 else (),
        compare=study.compare,
        cost=study.cost,
    )


def study_recipe_hash(config: SweepConfig, study: Study) -> str:
    """Hash of the student's recipe, protocol and data, but not of the method. Only results with the same hash are ranked together."""
    return digest(
        [study.ranked_recipe.model_dump(mode="json"), config.protocol, data_identity(config, study.data)]
    )


def _study(
    config: SweepConfig,
    pair: PairConfig,
    method: MethodSelection,
    teacher: Teacher,
    repeat: int,
    contents: Mapping[str, str],
    compare: Basis,
) -> Study:
    ranked = config.recipes[pair.student.recipe]
    cost = step_cost(config, pair.label, method) if compare == SECONDS else None
    recipe = ranked if cost is None else recipe_within_seconds(ranked, cost)
    student = model_of(pair.student, contents)
    space = method_space(method)
    key: list[Any] = [pair.label, pair.data, method.title, method.name, method.config, teacher.teacher_id, student.name,
           student.hashed, recipe.digest(), space.model_dump(mode="json")]  # fmt: skip
    # The first search, and equal steps, keep the ids of earlier runs.
    key += [repeat] if repeat else []
    key += [compare] if compare != STEPS else []
    return Study(
        study_id=f"{pair.label}.{method.title}.{digest(key, 6)}",
        pair=pair.label,
        data=pair.data,
        teacher=teacher,
        student=student,
        method=method.name,
        title=method.title,
        method_config=method.config,
        recipe=recipe,
        ranked_recipe=ranked,
        space=space,
        repeat=repeat,
        compare=compare,
        cost=cost,
    )


def _student_cohorts(config: SweepConfig, studies: Sequence[Study]) -> Iterator[Cohort]:
    """Cohorts with their waves: search, selection, and one for each final seed with the choice of each study."""
    for key, members in _cohorts_of(studies):
        recipe = members[0].recipe
        waves = [
            w for again in _by_repeat(members) for w in _search_waves(config.search, recipe.steps, again)
        ]
        for phase, seed, number, size in _later_waves(config):
            for again in _by_repeat(members):
                brackets = tuple(Bracket(study, number, size) for study in again)
                seed_again = seed + again[0].repeat * REPEAT_OFFSET
                waves.append(Wave(0, phase, seed_again, brackets, recipe.steps, (), (recipe.steps,)))
        numbered = tuple(replace(wave, index=index) for index, wave in enumerate(waves))
        yield Cohort(f"students-{key}", members[0].data, members[0].teacher, recipe, numbered)


def _by_repeat(studies: Sequence[Study]) -> list[list[Study]]:
    """The studies of each repeat. Repeats have other seeds, so they cannot share a wave."""
    return [list(group) for _, group in groupby(studies, lambda study: study.repeat)]


def _later_waves(config: SweepConfig) -> Iterator[tuple[Phase, int, int, int]]:
    """Phase, seed, number in the phase, and trials of each study, of the waves after the search."""
    search = config.search
    count = min(search.finalists, search.trials)
    for number, seed in enumerate(search.finalist_seeds if count else ()):
        yield "selection", seed, number, count
    for number, seed in enumerate(config.final.seeds):
        yield "final", seed, number, 1


def _cohorts_of(studies: Sequence[Study]) -> list[tuple[str, list[Study]]]:
    """Key of each cohort, with its studies: those with the same teacher, data set and data recipe."""
    groups: dict[str, list[Study]] = {}
    for study in studies:
        key = digest([study.teacher.teacher_id, study.data, study.recipe.data_key()], 8)
        groups.setdefault(key, []).append(study)
    return list(groups.items())


def _search_waves(search: SearchConfig, steps: int, studies: Sequence[Study]) -> Iterator[Wave]:
    """Waves of whole brackets with at most `search.wave` trials each, of the studies of one repeat, not yet numbered.

    A wave has at most one bracket of a study, because an adaptive sampler needs the results of the earlier brackets.
    """
    shares = search.rungs if search.pruning != "none" else ()
    rungs = tuple(sorted({max(1, round(share * steps)) for share in shares} - {steps}))
    halvings = rungs if search.pruning == "halving" else ()
    evaluations = _evaluation_steps(search.evaluations, steps)
    for number, start in enumerate(range(0, search.trials, search.bracket)):
        training_seed = search.bracket_seeds[number % len(search.bracket_seeds)]
        training_seed += studies[0].repeat * REPEAT_OFFSET
        size = min(search.bracket, search.trials - start)
        per_wave = max(1, search.wave // size)
        for first in range(0, len(studies), per_wave):
            brackets = tuple(Bracket(study, number, size) for study in studies[first : first + per_wave])
            yield Wave(0, "search", training_seed, brackets, steps, rungs, evaluations, halvings)


def _evaluation_steps(count: int, steps: int) -> tuple[int, ...]:
    return tuple(sorted({max(1, round(steps * (i + 1) / count)) for i in range(count)}))
