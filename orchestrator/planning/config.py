"""Settings of a sweep file, with ranges, defaults and descriptions. Imports neither Ray nor torch."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from distill.data.config import DataConfig
from distill.data.remote_copies import RemoteCopiesConfig
from distill.recipe import Recipe
from distill.setting_paths import NodePath, PathSetting, SettingPath
from distill.teacher_source import BackboneFile, ProgramSource, RunSource, TeacherSource, WrittenClassMap
from orchestrator.planning.equal_seconds import STEPS, Compare, StepCosts
from orchestrator.planning.search_config import FinalConfig, SearchConfig
from orchestrator.planning.section import Section, Seed

NAME = r"^[A-Za-z0-9][A-Za-z0-9_.+-]{0,99}$"


class ModelConfig(Section):
    """A model by name (`head-backbone`), with its options."""

    model: str = Field(description="head-backbone, such as deeplabv3-resnet18 or segformer-mit_b0")
    output_stride: Literal[8, 16, 32] | None = Field(default=None, description="stride of the last stage")
    head_channels: int | None = Field(default=None, gt=0, le=65_536, description="width of the head")
    dropout: float = Field(default=0.1, ge=0, lt=1, description="dropout before the classifier")
    backbone_args: dict[str, Any] = Field(
        default_factory=dict, description="passed to timm, for variants of a backbone"
    )
    pretrained: bool | SettingPath | BackboneFile = Field(
        default=False,
        description="timm's weights (true), or a file of backbone weights: its path, or {path, key} if it has several sets",
    )

    @property
    def weights_file(self) -> BackboneFile | None:
        """The file of backbone weights; None if there is none."""
        if isinstance(self.pretrained, str):
            return BackboneFile(path=self.pretrained)
        return None if isinstance(self.pretrained, bool) else self.pretrained

    def options(self) -> dict[str, Any]:
        """Keyword arguments of `build_model`, without the name and the number of classes."""
        return self.model_dump(
            include={"output_stride", "head_channels", "dropout", "backbone_args", "pretrained"}
        )


class TeacherConfig(ModelConfig):
    """A teacher: the sweep trains it by a recipe, or loads it from a checkpoint.

    A checkpoint describes its own network. `model` is then only the teacher's name on the leaderboard.
    """

    recipe: str | None = Field(default=None, description="recipe that trains the teacher")
    seed: Seed = Field(default=0, description="seed of the teacher's training")
    checkpoint: TeacherSource | None = Field(
        default=None, description="source of trained weights, such as the model file of an earlier run"
    )
    class_map: WrittenClassMap | None = Field(
        default=None,
        description="class of the data set → classes of the checkpoint, if they differ",
    )
    sha256: str | None = Field(
        default=None, pattern=r"^[0-9a-f]{64}$", description="expected SHA-256 of the checkpoint's weights"
    )

    @model_validator(mode="after")
    def _trained_or_loaded(self) -> Self:
        if (self.recipe is None) == (self.checkpoint is None):
            raise ValueError("a teacher needs either `recipe` (it is trained) or `checkpoint` (it is loaded)")
        if self.checkpoint is None and (self.class_map or self.sha256):
            raise ValueError("`class_map` and `sha256` belong to a `checkpoint`, and there is none")
        if isinstance(self.checkpoint, ProgramSource) and self.sha256 is None:
            raise ValueError(
                f"a checkpoint of kind {self.checkpoint.kind} is a program and runs as it is: give its `sha256`"
            )
        # A recorded config has every default, so defaults may be there.
        given = {
            name
            for name, field in ModelConfig.model_fields.items()
            if name != "model" and getattr(self, name) != field.get_default(call_default_factory=True)
        }
        if given and not isinstance(self.checkpoint, RunSource | None):
            raise ValueError(
                f"{', '.join(sorted(given))} cannot be set: the checkpoint decides how its network is built"
            )
        return self


class StudentConfig(ModelConfig):
    """A student, and the recipe by which every method trains it."""

    recipe: str = Field(description="recipe by which each method trains the student")


class PairConfig(Section):
    """A teacher and a student on a data set."""

    name: str | None = Field(
        default=None, pattern=NAME, description="name on the leaderboard; by default TEACHER_to_STUDENT"
    )
    teacher: TeacherConfig
    student: StudentConfig
    data: str = Field(description="name of a data set under `data`")

    @property
    def label(self) -> str:
        """Name of the pair on the leaderboard."""
        return self.name or f"{self.teacher.model}_to_{self.student.model}"

    @property
    def models(self) -> tuple[tuple[str, TeacherConfig | StudentConfig], ...]:
        """Its two models, each with its role."""
        return ("teacher", self.teacher), ("student", self.student)


def _with_files(pair: Any, folder: str) -> Any:
    """A written pair, with the file of each backbone that is `pretrained: true`."""
    if not isinstance(pair, dict):
        return pair
    return {role: _with_file(model, folder) for role, model in pair.items()}


def _with_file(model: Any, folder: str) -> Any:
    if not isinstance(model, dict) or model.get("pretrained") is not True:
        return model
    backbone = str(model.get("model")).partition("-")[2]
    return {**model, "pretrained": f"{folder.rstrip('/')}/{backbone}.safetensors"}


def _method_shorthand(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


def _without_spaces(name: Any) -> Any:
    """Method name without the spaces around each `+`."""
    return "+".join(part.strip() for part in name.split("+")) if isinstance(name, str) else name


class MethodSelection(Section):
    """A method, its fixed settings, and the search space of the others."""

    name: Annotated[str, BeforeValidator(_without_spaces)] = Field(
        description="name of a registered method; `a + b` combines two"
    )
    label: str | None = Field(
        default=None, pattern=NAME, description="name on the leaderboard, to distinguish variants of a method"
    )
    config: dict[str, Any] = Field(default_factory=dict, description="fixed settings of the method")
    space: dict[str, Any] | None = Field(
        default=None, description="search space in place of the default one, recipe.lr included"
    )

    @property
    def title(self) -> str:
        """Name of the method on the leaderboard."""
        return self.label or self.name


class ComputeConfig(Section):
    """Number of workers, threads and device. They determine rounding, and so they are part of the hash of a trial."""

    workers: int = Field(default=1, ge=1, le=10_000, description="data-parallel workers per worker group")
    cpus_per_worker: int = Field(
        default=1, ge=1, le=10_000, description="CPUs of a worker; torch uses as many threads"
    )
    device: Literal["cpu", "cuda"] = Field(default="cpu", description="device of the workers")
    parallelism: Literal["batches", "students"] = Field(
        default="batches",
        exclude_if=lambda parallelism: parallelism == "batches",  # keeps the hashes of earlier runs
        serialization_alias="divide",  # the name that hashes are computed with
        description="batches: every worker trains every student on its part of each batch (data parallel); students: "
        "one worker trains each student, on whole batches, and the teacher's forward pass is divided among the workers",
    )

    def workers_of_a_student(self, *, has_teacher: bool) -> int:
        """Number of workers that train one model together. All workers train a model that has no teacher."""
        return 1 if has_teacher and self.parallelism == "students" else self.workers

    def hashed(self) -> dict[str, Any]:
        """Values from which the hashes of trials, teachers and plans are computed."""
        return self.model_dump(mode="json", by_alias=True)


class DiskCacheConfig(Section):
    """A disk cache on each node, shared by its processes. It changes no result."""

    folder: NodePath = Field(
        min_length=1, description="folder local to each node: in memory (/dev/shm/...) or on a fast disk"
    )
    gigabytes: float = Field(gt=0, le=1e6, description="maximum size; what does not fit is computed again")


class MlflowTracker(Section):
    """MLflow."""

    kind: Literal["mlflow"] = "mlflow"
    uri: Annotated[str, PathSetting(names="databricks(-uc)?|uc")] | None = Field(
        default=None, description="by default MLFLOW_TRACKING_URI, or else mlflow.db in the run folder"
    )
    experiment: str | None = Field(default=None, description="by default the name of the run")


class WandbTracker(Section):
    """Weights & Biases."""

    kind: Literal["wandb"] = "wandb"
    project: str | None = Field(default=None, description="by default the name of the run")
    entity: str | None = Field(default=None, description="user or team; by default your own")
    mode: Literal["online", "offline"] = Field(
        default="online", description="offline writes files that `wandb sync` sends later"
    )
    folder: SettingPath | None = Field(default=None, description="by default wandb/ in the run folder")


class TensorBoardTracker(Section):
    """TensorBoard event files."""

    kind: Literal["tensorboard"] = "tensorboard"
    folder: SettingPath | None = Field(default=None, description="by default tensorboard/ in the run folder")


def _tracker_shorthand(value: Any) -> Any:
    return {"kind": value} if isinstance(value, str) else value


TrackerConfig = Annotated[
    Annotated[MlflowTracker | WandbTracker | TensorBoardTracker, Field(discriminator="kind")],
    BeforeValidator(_tracker_shorthand),
]


class OperationConfig(Section):
    """How the work is carried out. These settings change no result, so they may differ when a run is resumed."""

    cohorts_at_once: int | None = Field(
        default=None,
        ge=1,
        le=10_000,
        description="cohorts that train at the same time; by default as many as fit",
    )
    students_on_device: int | None = Field(
        default=None,
        ge=1,
        le=10_000,
        description="students on the device at a time, the others wait in host memory; by default as many as fit",
    )
    gpus_per_worker: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="GPU fraction of a worker: with 0.5 two cohorts share a GPU, without isolation of their memory",
    )
    loader_workers: int = Field(
        default=0,
        ge=0,
        le=1_000,
        description="data-loading processes per worker; 0: the worker loads. An evaluation decodes in as many threads, at least one",
    )
    cache: DiskCacheConfig | None = Field(
        default=None,
        description="cache of decoded pictures; by default a picture is decoded each time it is read",
    )
    teacher_outputs: DiskCacheConfig | None = Field(
        default=None, description="cache of teacher outputs; by default they are computed each time"
    )
    remote_copies: RemoteCopiesConfig = Field(
        default_factory=RemoteCopiesConfig, description="local copies of files that a node read from a bucket"
    )
    round_seconds: float = Field(
        default=2.0,
        ge=0,
        le=3600,
        description="time between two messages from the workers to the coordinator, which carry progress and requests to "
        "stop; the workers send them between two steps, or between the students of a step if it takes longer",
    )
    checkpoint_seconds: float = Field(
        default=60.0,
        ge=0,
        le=1e9,
        description="time between two checkpoints of a cohort; longer if writing them takes long",
    )
    checkpoints_kept: int = Field(
        default=2,
        ge=1,
        le=1_000,
        description="number of checkpoints to keep of a cohort; older ones are deleted",
    )
    max_failures: int = Field(
        default=3,
        ge=0,
        le=1_000,
        description="restarts of a worker group without a new checkpoint before the cohort fails",
    )
    object_store_mb: int = Field(
        default=200, ge=80, le=1_000_000, description="size of the object store of an embedded Ray"
    )
    step_timeout_seconds: float | None = Field(
        default=1800.0,
        gt=0,
        le=1e9,
        description="maximum time of one step of one student; the worker is restarted after it",
    )
    wait_minutes: float = Field(
        default=0.0,
        ge=0,
        description="time to wait for the autoscaler of a joined cluster if the cluster is too small",
    )
    trackers: tuple[TrackerConfig, ...] = Field(
        default=(), description="experiment trackers: mlflow, wandb or tensorboard, by name or with options"
    )
    teachers: SettingPath | None = Field(
        default=None, description="folder of trained teachers that runs share"
    )

    @property
    def cache_folders(self) -> dict[str, str]:
        """Folder of each disk cache, by the name of its setting."""
        caches = {"operation.cache": self.cache, "operation.teacher_outputs": self.teacher_outputs}
        return {name: cache.folder for name, cache in caches.items() if cache is not None}


class BudgetConfig(Section):
    """Limits at which a sweep stops with exit code 4. It keeps all results and can be resumed."""

    hours: float | None = Field(default=None, gt=0, description="wall-clock hours of one command")
    gpu_hours: float | None = Field(
        default=None, gt=0, description="worker hours of the run; a CPU worker counts too"
    )
    cost: float | None = Field(default=None, gt=0, description="cost of the run: worker hours × price")
    price: float | str | None = Field(
        default=None, description="price of a worker hour: a number, or a name in search_spaces/prices.yaml"
    )


class SweepConfig(Section):
    """All settings of a sweep file."""

    name: str = Field(pattern=NAME, description="name of the run")
    protocol: Literal["clean", "paper"] = Field(
        default="clean",
        description="clean: a part of train is held out as tune; paper: train on all of train, and tune on the test set",
    )
    data: dict[Annotated[str, Field(pattern=NAME)], DataConfig] = Field(
        min_length=1, description="data sets by name"
    )
    recipes: dict[Annotated[str, Field(pattern=NAME)], Recipe] = Field(
        min_length=1, description="recipes by name"
    )
    pairs: tuple[PairConfig, ...] = Field(
        min_length=1, max_length=1_000, description="pairs of teacher and student"
    )
    methods: tuple[Annotated[MethodSelection, BeforeValidator(_method_shorthand)], ...] = Field(
        min_length=1, max_length=1_000, description="methods to compare, with the student alone among them"
    )
    compare: Compare = Field(
        default=(STEPS,),
        exclude_if=lambda compare: compare == (STEPS,),  # keeps the hashes of earlier runs
        description="what all methods get equally much of: the recipe's steps, or the seconds that the student alone needs "
        "for them; a list of both makes a board of each",
    )
    step_costs: StepCosts = Field(
        default_factory=dict,
        exclude_if=lambda costs: not costs,  # keeps the hashes of earlier runs
        description="pair → method → time of one of its steps over that of the student alone, for `compare: seconds`. The "
        "sweep measures and records those that are not given",
    )
    pretrained_folder: SettingPath | None = Field(
        default=None,
        exclude_if=lambda folder: folder is None,  # keeps the hashes of earlier runs
        description="folder of files BACKBONE.safetensors, which `pretrained: true` reads instead of downloading weights",
    )
    search: SearchConfig = Field(default_factory=SearchConfig)
    final: FinalConfig = Field(default_factory=FinalConfig)
    compute: ComputeConfig = Field(default_factory=ComputeConfig)
    operation: OperationConfig = Field(default_factory=OperationConfig)
    budget: BudgetConfig = Field(default_factory=BudgetConfig)

    @model_validator(mode="before")
    @classmethod
    def _files_of_folder(cls, values: Any) -> Any:
        """`pretrained: true` with the backbone's file in the folder, so that paths, checks and ids are those of a file."""
        folder = values.get("pretrained_folder") if isinstance(values, dict) else None
        if not isinstance(folder, str) or not isinstance(values.get("pairs"), list | tuple):
            return values
        return {**values, "pairs": [_with_files(pair, folder) for pair in values["pairs"]]}

    def decisive(self) -> dict[str, Any]:
        """Settings that determine the results; the plan hash is computed from them.

        They are all but `operation`, `budget`, the folder of weights, whose files are named in the pairs, and the earlier
        runs, whose configurations are in `search.first`.
        """
        left_out: dict[str, Any] = dict.fromkeys(("operation", "budget", "pretrained_folder"), True)
        left_out["search"] = {"earlier_runs"} if self.search.finalists else {"earlier_runs", "finalists"}
        # Without finalists the values are those of the hashes of earlier versions.
        values = self.model_dump(mode="json", exclude=left_out)
        return {**values, "compute": self.compute.hashed()}
