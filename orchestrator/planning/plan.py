"""A config becomes studies, cohorts, waves and trials with their ids. Pure: no ray, no torch, no clock, no disk."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from distill.catalogue.reader import load_catalogue
from distill.recipe import Recipe, digest
from distill.relative_weights import PREFIX
from distill.teacher_source import ClassMap, TeacherSource
from orchestrator.planning.config import MethodSelection, PairConfig, SearchConfig, SweepConfig
from orchestrator.planning.sampler import History, Params, sample_bracket
from search_spaces import Space, load_space, space_from

Phase = Literal["teacher", "search", "final"]
RESULT_VERSION = 1  # raised when the same configuration would give another result


@dataclass(frozen=True)
class Model:
    """A model as it is built: name and options of `build_model`."""

    name: str
    options: Mapping[str, Any]


@dataclass(frozen=True)
class Teacher:
    """A teacher: its id is the hash of everything that decides its weights."""

    teacher_id: str
    model: Model
    data: str
    recipe: Recipe | None
    seed: int
    checkpoint: TeacherSource | None
    class_map: ClassMap | None
    sha256: str | None


@dataclass(frozen=True)
class Study:
    """One pair × one method: the unit of search."""

    study_id: str
    pair: str
    data: str
    teacher: Teacher
    student: Model
    method: str
    title: str
    method_config: Mapping[str, Any]
    recipe: Recipe
    space: Space


@dataclass(frozen=True)
class Trial:
    """One training, complete: what a seat needs and what a row tells."""

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


@dataclass(frozen=True)
class Bracket:
    """Trials of one study that start together and are halved together."""

    study: Study
    index: int
    size: int


@dataclass(frozen=True)
class Wave:
    """Brackets whose trials share one pass of the teacher over one stream.

    Its trainings end at step `steps`. At those in `rungs` each bracket is halved; at those in `evaluations` its trials
    are scored on tune.
    """

    index: int
    phase: Phase
    stream_seed: int
    brackets: tuple[Bracket, ...]
    steps: int
    rungs: tuple[int, ...]
    evaluations: tuple[int, ...]

    @property
    def trials(self) -> int:
        """How many trials the plan has for this wave."""
        return sum(bracket.size for bracket in self.brackets)


@dataclass(frozen=True)
class Cohort:
    """Trials that share a teacher, a data set and a data recipe: one Ray Train run, from search to final runs.

    The cohort of a teacher's own training has no teacher.
    """

    cohort_id: str
    data: str
    teacher: Teacher | None
    recipe: Recipe
    waves: tuple[Wave, ...]

    def holds(self, study_id: str) -> bool:
        """Whether a study's trials are trained here."""
        return any(bracket.study.study_id == study_id for wave in self.waves for bracket in wave.brackets)

    @property
    def trials(self) -> int:
        """How many trials the plan has for this cohort."""
        return sum(wave.trials for wave in self.waves)


@dataclass(frozen=True)
class Plan:
    """Everything a sweep will do, before any of it is done."""

    config: SweepConfig
    plan_hash: str
    teachers: tuple[Teacher, ...]
    studies: tuple[Study, ...]
    students: tuple[Cohort, ...]


def make_plan(config: SweepConfig) -> Plan:
    """The plan of a checked config."""
    teachers = {pair.label: _teacher(config, pair) for pair in config.pairs}
    studies = tuple(
        _study(config, pair, method, teachers[pair.label])
        for pair in config.pairs
        for method in config.methods
    )
    unique = tuple({teacher.teacher_id: teacher for teacher in teachers.values()}.values())
    return Plan(
        config=config,
        plan_hash=digest({"version": RESULT_VERSION, "config": config.decisive()}),
        teachers=unique,
        studies=studies,
        students=tuple(_student_cohorts(config, studies)),
    )


def teacher_cohort(plan: Plan, teacher: Teacher) -> Cohort:
    """The cohort of one: a teacher is a student without a teacher. One that is loaded is only scored."""
    taught = next(study for study in plan.studies if study.teacher.teacher_id == teacher.teacher_id)
    recipe = teacher.recipe or taught.recipe
    study = Study(
        study_id=teacher.teacher_id,
        pair=taught.pair,
        data=teacher.data,
        teacher=teacher,
        student=teacher.model,
        method="student",
        title="teacher",
        method_config={},
        recipe=recipe,
        space=Space(method="student"),
    )
    evaluations = _evaluation_steps(plan.config.search.evaluations, recipe.steps)
    bracket = Bracket(study, 0, 1)
    wave = Wave(0, "teacher", teacher.seed, (bracket,), recipe.steps, rungs=(), evaluations=evaluations)
    return Cohort(f"teacher-{teacher.teacher_id}", teacher.data, None, recipe, (wave,))


def bracket_trials(
    config: SweepConfig, cohort: Cohort, wave: Wave, bracket: Bracket, history: History
) -> list[Trial]:
    """The trials of one bracket.

    Args:
        config: the sweep's.
        cohort: where the bracket stands.
        wave: where in the cohort.
        bracket: whose trials are wanted.
        history: what became of the study's search trials before it: an adaptive sampler learns from them, a final
            run takes the best one's parameters. A study whose search had trials but no finished one has no final run.
    """
    study = bracket.study
    if wave.phase == "search":
        drawn = sample_bracket(
            config.search.sampler, study.space, seed=config.search.seed, index=bracket.index,
            size=bracket.size, bracket=config.search.bracket, history=history,
        )  # fmt: skip
    elif wave.phase == "final" and config.search.trials > 0:
        best = winner(history)
        drawn = [] if best is None else [best] * bracket.size
    else:
        drawn = [{}] * bracket.size
    return [_trial(config, cohort, wave, bracket, params) for params in drawn]


def winner(history: History) -> Params | None:
    """The parameters of the best finished trial; the earlier one of equals; None where none finished."""
    finished = [scored for scored in history if scored.completed]
    return max(finished, key=lambda scored: scored.scores[max(scored.scores)]).params if finished else None


def _trial(config: SweepConfig, cohort: Cohort, wave: Wave, bracket: Bracket, params: Params) -> Trial:
    study = bracket.study
    method_config, recipe = apply_params(study, params)
    decides = {
        "version": RESULT_VERSION,
        "phase": wave.phase,
        "protocol": config.protocol,
        "data": data_identity(config, study.data),
        "teacher": None if cohort.teacher is None else cohort.teacher.teacher_id,
        "student": [study.student.name, dict(study.student.options)],
        "method": [study.method, method_config],
        "recipe": recipe.model_dump(mode="json"),
        "seed": wave.stream_seed,
        "compute": config.compute.hashed(),
    }
    # Two trials of a study may coincide (a choice drawn twice): the title and bracket keep their rows apart.
    place = [study.study_id, bracket.index, dict(params)]
    return Trial(
        trial_id=digest({"decides": decides, "place": place}),
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
    )


def study_recipe_hash(config: SweepConfig, study: Study) -> str:
    """The hash under which rows are ranked together: recipe, protocol and data, whatever the method."""
    return digest([study.recipe.model_dump(mode="json"), config.protocol, data_identity(config, study.data)])


def data_identity(config: SweepConfig, data: str) -> dict[str, Any]:
    """What a data set is, wherever it lies."""
    return config.data[data].model_dump(mode="json", exclude={"root"})


def apply_params(study: Study, params: Params) -> tuple[dict[str, Any], Recipe]:
    """The method's config and the recipe once searched values are in; `recipe.*` scales where the space says so."""
    method_config = dict(study.method_config)
    changes: dict[str, Any] = {}
    for name, value in params.items():
        field = name.removeprefix("recipe.")
        if field == name:
            method_config[name] = value
            continue
        domain = study.space.parameters.get(name)
        if domain is not None and domain.scale_log_uniform is not None:
            value = float(f"{getattr(study.recipe, field) * float(value):.6g}")
        changes[field] = value
    return method_config, Recipe.model_validate({**study.recipe.model_dump(), **changes})


def method_space(choice: MethodSelection) -> Space:
    """The space a study searches: its own, or the one that ships, less the fields that are fixed."""
    methods = load_catalogue().methods
    installed = {name: entry.space for name, entry in methods.items() if entry.space is not None}
    space = (
        load_space(choice.name, installed) if choice.space is None else space_from(choice.name, choice.space)
    )
    fixed = {name.removeprefix(PREFIX) for name in choice.config}
    free = {n: domain for n, domain in space.parameters.items() if n.removeprefix(PREFIX) not in fixed}
    return space.model_copy(update={"parameters": free})


def _teacher(config: SweepConfig, pair: PairConfig) -> Teacher:
    choice = pair.teacher
    recipe = None if choice.recipe is None else config.recipes[choice.recipe]
    model = Model(choice.model, choice.options())
    decides = {
        "version": RESULT_VERSION,
        "model": [model.name, dict(model.options)],
        "data": data_identity(config, pair.data),
        "protocol": config.protocol,
        "recipe": None if recipe is None else recipe.model_dump(mode="json"),
        "seed": choice.seed,
        "checkpoint": choice.model_dump(mode="json", include={"checkpoint", "class_map", "sha256"}),
        "compute": None if recipe is None else config.compute.hashed(),
    }
    return Teacher(
        teacher_id=digest(decides),
        model=model,
        data=pair.data,
        recipe=recipe,
        seed=choice.seed,
        checkpoint=choice.checkpoint,
        class_map=choice.class_map,
        sha256=choice.sha256,
    )


def _study(config: SweepConfig, pair: PairConfig, method: MethodSelection, teacher: Teacher) -> Study:
    recipe = config.recipes[pair.student.recipe]
    student = Model(pair.student.model, pair.student.options())
    space = method_space(method)
    key = [pair.label, pair.data, method.title, method.name, method.config, teacher.teacher_id, student.name,
           dict(student.options), recipe.digest(), space.model_dump(mode="json")]  # fmt: skip
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
        space=space,
    )


def _student_cohorts(config: SweepConfig, studies: Sequence[Study]) -> Iterator[Cohort]:
    """Search waves, then one wave per seed in which all studies' winners are trained afresh."""
    for key, members in _cohorts_of(studies):
        recipe = members[0].recipe
        searches = list(_search_waves(config.search, recipe.steps, members))
        finals = [
            Wave(
                len(searches) + number,
                "final",
                seed,
                tuple(Bracket(study, number, 1) for study in members),
                recipe.steps,
                rungs=(),
                evaluations=(recipe.steps,),
            )
            for number, seed in enumerate(config.final.seeds)
        ]
        yield Cohort(f"students-{key}", members[0].data, members[0].teacher, recipe, (*searches, *finals))


def _cohorts_of(studies: Sequence[Study]) -> list[tuple[str, list[Study]]]:
    """Studies by what a cohort shares, with the cohort's key."""
    groups: dict[str, list[Study]] = {}
    for study in studies:
        key = digest([study.teacher.teacher_id, study.data, study.recipe.data_key()], 8)
        groups.setdefault(key, []).append(study)
    return list(groups.items())


def _search_waves(search: SearchConfig, steps: int, studies: Sequence[Study]) -> Iterator[Wave]:
    """Whole brackets into waves of at most `search.wave` seats; a study's brackets stand in different waves, in order.

    A sampler that adapts learns from the brackets before, so no wave holds two of one study.
    """
    rungs = tuple(sorted({max(1, round(share * steps)) for share in search.rungs} - {steps}))
    evaluations = _evaluation_steps(search.evaluations, steps)
    index = 0
    for number, start in enumerate(range(0, search.trials, search.bracket)):
        size = min(search.bracket, search.trials - start)
        per_wave = max(1, search.wave // size)
        for first in range(0, len(studies), per_wave):
            brackets = tuple(Bracket(study, number, size) for study in studies[first : first + per_wave])
            yield Wave(index, "search", search.seed, brackets, steps, rungs, evaluations)
            index += 1


def _evaluation_steps(count: int, steps: int) -> tuple[int, ...]:
    return tuple(sorted({max(1, round(steps * (i + 1) / count)) for i in range(count)}))
