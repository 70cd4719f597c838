"""The sweep file: its schema, and errors that name file, line and the nearest known key. No ray, no torch."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from distill.data.config import DataConfig
from distill.data.remote_copies import RemoteCopiesConfig
from distill.recipe import Recipe
from distill.teacher_source import ProgramSource, RunSource, TeacherSource, WrittenClassMap

NAME = r"^[A-Za-z0-9][A-Za-z0-9_.+-]{0,99}$"
MOST_TRIALS = 100_000
"""Most trials of a whole sweep: far above any budget, and few enough to be planned in seconds."""

Seed = Annotated[int, Field(ge=0, lt=2**63)]


class Section(BaseModel):
    """A part of the sweep file: immutable, and no key that is not named here."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ModelConfig(Section):
    """A model by name (`head-backbone`) and its options; a plain string is the name."""

    model: str = Field(description="head-backbone, such as deeplabv3-resnet18 or segformer-mit_b0")
    output_stride: Literal[8, 16, 32] | None = Field(default=None, description="stride of the last stage")
    head_channels: int | None = Field(default=None, gt=0, le=65_536, description="width of the head")
    dropout: float = Field(default=0.1, ge=0, lt=1, description="dropout before the classifier")
    backbone_args: dict[str, Any] = Field(
        default_factory=dict, description="passed to timm, for variants of a backbone"
    )
    pretrained: bool | str = Field(
        default=False, description="timm's weights (true), or a file of backbone weights"
    )

    def options(self) -> dict[str, Any]:
        """The keyword arguments of `build_model`, less name and classes."""
        return self.model_dump(
            include={"output_stride", "head_channels", "dropout", "backbone_args", "pretrained"}
        )


class TeacherConfig(ModelConfig):
    """A teacher: trained by the sweep under a recipe, or loaded from a checkpoint.

    A checkpoint says itself how its network is built; `model` is then the teacher's name on the board.
    """

    recipe: str | None = Field(default=None, description="recipe that trains the teacher")
    seed: Seed = Field(default=0, description="seed of its training")
    checkpoint: TeacherSource | None = Field(
        default=None, description="model file of an earlier run, or where else the weights come from"
    )
    class_map: WrittenClassMap | None = Field(
        default=None,
        description="data set's class → the checkpoint's class or classes, where they are not the same",
    )
    sha256: str | None = Field(
        default=None, pattern=r"^[0-9a-f]{64}$", description="demanded hash of the checkpoint's weights"
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
        given = (self.model_fields_set & set(ModelConfig.model_fields)) - {"model"}
        if given and not isinstance(self.checkpoint, RunSource | None):
            raise ValueError(
                f"{', '.join(sorted(given))} cannot be set: the checkpoint decides how its network is built"
            )
        return self


class StudentConfig(ModelConfig):
    """A student and the recipe under which every method trains it."""

    recipe: str = Field(description="recipe that trains the student, whatever the method")


class PairConfig(Section):
    """Teacher → student on a data set."""

    name: str | None = Field(
        default=None, pattern=NAME, description="name on the board; made from the models by default"
    )
    teacher: TeacherConfig
    student: StudentConfig
    data: str = Field(description="one of the data sets named under `data`")

    @property
    def label(self) -> str:
        """The pair's name on the board."""
        return self.name or f"{self.teacher.model}_to_{self.student.model}"


def _method_shorthand(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


def _joined(name: Any) -> Any:
    """`kd + cwd` goes by the name `kd+cwd`."""
    return "+".join(part.strip() for part in name.split("+")) if isinstance(name, str) else name


class MethodSelection(Section):
    """A method with the fields that are fixed rather than searched; a plain string is the name."""

    name: Annotated[str, BeforeValidator(_joined)] = Field(
        description="a registered method; `a + b` combines two"
    )
    label: str | None = Field(
        default=None, pattern=NAME, description="name on the board, to tell variants apart"
    )
    config: dict[str, Any] = Field(default_factory=dict, description="fixed fields of the method's config")
    space: dict[str, Any] | None = Field(
        default=None, description="search space in place of the one that ships"
    )

    @property
    def title(self) -> str:
        """The method's name on the board."""
        return self.label or self.name


class SearchConfig(Section):
    """How each study is searched. Equal for every method: that is the point."""

    sampler: Literal["sobol", "tpe"] = Field(
        default="sobol", description="scrambled Sobol points, or Optuna's TPE"
    )
    trials: int = Field(
        default=16,
        ge=0,
        le=MOST_TRIALS,
        description="configurations per study; 0 takes every method's defaults",
    )
    bracket: int = Field(
        default=8,
        ge=1,
        le=10_000,
        description="trials of a study that start together and are halved together",
    )
    wave: int = Field(default=16, ge=1, le=10_000, description="students that share one pass of the teacher")
    rungs: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = Field(
        default=(0.125, 0.25, 0.5),
        max_length=32,
        description="shares of the steps at which the worse half of a bracket stops",
    )
    evaluations: int = Field(
        default=1, ge=1, le=10_000, description="scores on tune along a training, the last one included"
    )
    seed: Seed = Field(default=0, description="seed of the points, and of the searched trainings")

    @model_validator(mode="after")
    def _rungs_rise(self) -> Self:
        if list(self.rungs) != sorted(set(self.rungs)):
            raise ValueError(f"rungs are {list(self.rungs)}, must rise")
        if self.bracket > self.wave:
            raise ValueError(
                f"bracket is {self.bracket}, must not be above wave ({self.wave}): a bracket sits in one wave"
            )
        return self


class FinalConfig(Section):
    """The final phase: each study's winner trained afresh and scored on test once per seed."""

    seeds: tuple[Seed, ...] = Field(
        default=(1, 2, 3, 4, 5),
        max_length=1_000,
        description="seeds of the final runs; five say something, three are a smoke test",
    )

    @model_validator(mode="after")
    def _seeds_differ(self) -> Self:
        if len(set(self.seeds)) != len(self.seeds) or not self.seeds:
            raise ValueError(f"seeds are {list(self.seeds)}, must be one or more different whole numbers")
        return self


class ComputeConfig(Section):
    """What decides a training's last bits: the workers, their threads, the device."""

    workers: int = Field(default=1, ge=1, le=10_000, description="workers of a cohort")
    cpus_per_worker: int = Field(
        default=1, ge=1, le=10_000, description="CPUs, and threads of arithmetic, of a worker"
    )
    device: Literal["cpu", "cuda"] = Field(
        default="cpu", description="where students and teachers are computed"
    )
    parallelism: Literal["batches", "students"] = Field(
        default="batches",
        exclude_if=lambda parallelism: parallelism == "batches",  # hashes of earlier runs stay
        serialization_alias="divide",  # the name in hashes
        description="batches: every worker trains every student on its share of each batch (data parallel); students: "
        "each student is trained by one worker, with whole batches, and the teacher's work is shared",
    )

    def workers_of_a_student(self, *, taught: bool) -> int:
        """Number of workers that train one model together. A teacher is trained by all of them."""
        return 1 if taught and self.parallelism == "students" else self.workers

    def hashed(self) -> dict[str, Any]:
        """Values for the hashes of trials, teachers and plans."""
        return self.model_dump(mode="json", by_alias=True)


class DiskCacheConfig(Section):
    """A folder on each machine in which its processes keep what they computed; changes no result."""

    folder: str = Field(
        min_length=1, description="a folder of each machine's own: in memory (/dev/shm/...) or on a fast disk"
    )
    gigabytes: float = Field(
        gt=0, le=1e6, description="most that the folder holds; what does not fit is computed anew"
    )


class MlflowTracker(Section):
    """MLflow."""

    kind: Literal["mlflow"] = "mlflow"
    uri: str | None = Field(
        default=None, description="MLFLOW_TRACKING_URI by default, else mlflow.db in the run's folder"
    )
    experiment: str | None = Field(default=None, description="the run's name by default")


class WandbTracker(Section):
    """Weights & Biases."""

    kind: Literal["wandb"] = "wandb"
    project: str | None = Field(default=None, description="the run's name by default")
    entity: str | None = Field(default=None, description="user or team; your own by default")
    mode: Literal["online", "offline"] = Field(
        default="online", description="offline writes files that `wandb sync` sends later"
    )
    folder: str | None = Field(
        default=None, description="for its files; wandb/ in the run's folder by default"
    )


class TensorBoardTracker(Section):
    """TensorBoard's event files."""

    kind: Literal["tensorboard"] = "tensorboard"
    folder: str | None = Field(
        default=None, description="for its files; tensorboard/ in the run's folder by default"
    )


def _tracker_shorthand(value: Any) -> Any:
    return {"kind": value} if isinstance(value, str) else value


TrackerConfig = Annotated[
    Annotated[MlflowTracker | WandbTracker | TensorBoardTracker, Field(discriminator="kind")],
    BeforeValidator(_tracker_shorthand),
]


class OperationConfig(Section):
    """How the work is carried out; changes no result, so it may differ when a run is gone on with."""

    cohorts_at_once: int | None = Field(
        default=None, ge=1, le=10_000, description="by default as many as the cluster holds"
    )
    students_on_device: int | None = Field(
        default=None,
        ge=1,
        le=10_000,
        description="students on the device at a time, the others wait on the host; as many as fit by default",
    )
    gpus_per_worker: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="a worker's share of a GPU: 0.5 puts two cohorts on one; their memory is not kept apart",
    )
    loader_workers: int = Field(
        default=0, ge=0, le=1_000, description="loading processes per worker; 0 loads in the worker"
    )
    cache: DiskCacheConfig | None = Field(
        default=None, description="keep decoded pictures; by default every picture is decoded every time"
    )
    teacher_outputs: DiskCacheConfig | None = Field(
        default=None, description="keep what teachers say of batches; by default they are asked every time"
    )
    remote_copies: RemoteCopiesConfig = Field(
        default_factory=RemoteCopiesConfig, description="where a node keeps what it fetched from a bucket"
    )
    round_seconds: float = Field(
        default=2.0,
        ge=0,
        le=3600,
        description="time between two exchanges of workers and coordinator: progress, budget, a request to stop",
    )
    checkpoint_seconds: float = Field(
        default=60.0, ge=0, le=1e9, description="time between two checkpoints of a cohort"
    )
    checkpoints_kept: int = Field(
        default=2, ge=1, le=1_000, description="newest checkpoints that are kept of a cohort"
    )
    max_failures: int = Field(
        default=3,
        ge=0,
        le=1_000,
        description="restarts of a cohort's workers in a row without a further checkpoint",
    )
    object_store_mb: int = Field(
        default=200, ge=80, le=1_000_000, description="object store of an embedded Ray"
    )
    step_timeout_seconds: float | None = Field(
        default=1800.0,
        gt=0,
        le=1e9,
        description="longest time for one step of one student; then its worker is restarted",
    )
    wait_minutes: float = Field(
        default=0.0, ge=0, description="wait for a joined cluster to grow; its autoscaler is asked to"
    )
    trackers: tuple[TrackerConfig, ...] = Field(
        default=(), description="mlflow, wandb, tensorboard: each by its name, or with options"
    )
    teachers: str | None = Field(default=None, description="folder of trained teachers shared between runs")

    @property
    def cache_folders(self) -> dict[str, str]:
        """Folders of disk caches on each machine, by the name of the setting."""
        caches = {"operation.cache": self.cache, "operation.teacher_outputs": self.teacher_outputs}
        return {name: cache.folder for name, cache in caches.items() if cache is not None}


class BudgetConfig(Section):
    """Limits at which a sweep stops in order (exit code 4), keeping everything."""

    hours: float | None = Field(default=None, gt=0, description="wall-clock hours of one command")
    gpu_hours: float | None = Field(
        default=None, gt=0, description="worker hours (a CPU worker counts as one) of the run"
    )
    cost: float | None = Field(default=None, gt=0, description="worker hours of the run × price")
    price: float | str | None = Field(
        default=None, description="what a worker hour costs: a number, or a name in search_spaces/prices.yaml"
    )


class SweepConfig(Section):
    """A sweep file."""

    name: str = Field(pattern=NAME, description="name of the run")
    protocol: Literal["clean", "paper"] = Field(
        default="clean",
        description="clean: tune cut out of train; paper: train on all of train, tune on the test set",
    )
    data: dict[Annotated[str, Field(pattern=NAME)], DataConfig] = Field(
        min_length=1, description="data sets by name"
    )
    recipes: dict[Annotated[str, Field(pattern=NAME)], Recipe] = Field(
        min_length=1, description="recipes by name"
    )
    pairs: tuple[PairConfig, ...] = Field(
        min_length=1, max_length=1_000, description="teacher → student pairs"
    )
    methods: tuple[Annotated[MethodSelection, BeforeValidator(_method_shorthand)], ...] = Field(
        min_length=1, max_length=1_000
    )
    search: SearchConfig = Field(default_factory=SearchConfig)
    final: FinalConfig = Field(default_factory=FinalConfig)
    compute: ComputeConfig = Field(default_factory=ComputeConfig)
    operation: OperationConfig = Field(default_factory=OperationConfig)
    budget: BudgetConfig = Field(default_factory=BudgetConfig)

    def decisive(self) -> dict[str, Any]:
        """What decides results: the config without `operation` and `budget`."""
        values = self.model_dump(mode="json", exclude={"operation", "budget"})
        return {**values, "compute": self.compute.hashed()}
