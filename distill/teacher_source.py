"""Configs of a teacher's weights. Imports nothing slower than pydantic.

No config names code to run: each kind reads one file format. Weights are read as plain tensors.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from distill.setting_paths import PathSetting, SettingPath

WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
"""Weights in a folder of transformers; the first counts."""
PROCESSOR_FILES = ("processor_config.json", "preprocessor_config.json")
"""Files of a processor's config. As in transformers, the first counts if it has a section `image_processor`."""

TapName = int | str
"""An output of a program by position or key, or (torch.export only) the path of a module inside it."""


class _Source(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class RunSource(_Source):
    """A model file that an earlier run of this program has written."""

    kind: Literal["run"] = "run"
    path: SettingPath = Field(description="model file (.safetensors) of an earlier run")


class TransformersSource(_Source):
    """A SegFormer, UPerNet or DPT of `transformers`; a SegFormer becomes our `segformer-mit_bN`."""

    kind: Literal["transformers"]
    path: Annotated[str, PathSetting(names=r"[\w.-]+(/[\w.-]+)?")] = Field(
        description="a folder that `save_pretrained` wrote, or a name on the Hugging Face hub"
    )
    revision: str | None = Field(default=None, description="commit on the hub; the newest by default")


class TorchvisionSource(_Source):
    """A checkpoint of torchvision's DeepLabV3 or FCN on ResNet-50 or ResNet-101, or of VainF's DeepLabV3 on them."""

    kind: Literal["torchvision"]
    path: SettingPath = Field(
        description="a state dict (.pth or .safetensors), alone or in a training checkpoint"
    )
    key: str | None = Field(
        default=None,
        description="key of the weights, if the file has several sets, such as model and model_ema",
    )
    output_stride: Literal[8, 16] | None = Field(
        default=None, description="for VainF's DeepLabV3, the output stride that it was trained with"
    )
    classes: tuple[str, ...] | None = Field(default=None, description="names of its classes, in order")


class BackboneFile(_Source):
    """A file of backbone weights that has several sets of them."""

    path: SettingPath = Field(description="file of backbone weights")
    key: str | None = Field(default=None, description="key of the weights, such as model_ema")


class Taps(_Source):
    """Which of a program's tensors are the maps that methods read."""

    stages: tuple[TapName, TapName, TapName, TapName] = Field(
        description="four maps `B×C×h×w`, from fine to coarse"
    )
    fused: TapName | None = Field(
        default=None, description="what its classifier sees; the last stage by default"
    )
    logits: TapName = Field(description="class scores, `B×K×h×w`")


class ProgramSource(_Source):
    """A TorchScript or torch.export file: a program, which runs as it is. Its sha256 must be given."""

    kind: Literal["torchscript", "export"]
    path: SettingPath = Field(description="file written by `torch.jit.save` or `torch.export.save`")
    taps: Taps
    family: Literal["cnn", "transformer"] = Field(description="how it mixes positions, for the board")
    classes: tuple[str, ...] | int = Field(description="names of its classes, in order; or how many it has")
    mean: tuple[float, float, float] = Field(
        default=(0.485, 0.456, 0.406), description="mean that it wants RGB in [0, 1] normalised with"
    )
    std: tuple[float, float, float] = Field(
        default=(0.229, 0.224, 0.225), description="standard deviation of the same"
    )


def _path_alone(value: Any) -> Any:
    return {"kind": "run", "path": value} if isinstance(value, str) else value


TeacherSource = Annotated[
    RunSource | TransformersSource | TorchvisionSource | ProgramSource,
    Field(discriminator="kind"),
    BeforeValidator(_path_alone),
    PathSetting(),
]
"""Any source; a plain string is the path of a `RunSource`."""


def brings_network(source: TeacherSource | None) -> bool:
    """Whether a source defines its network, so that `model` is only a name on the leaderboard."""
    return isinstance(source, TransformersSource | ProgramSource)


def files_of(source: TeacherSource | BackboneFile) -> list[Path]:
    """The files that are read of a source; none if it is a name on the hub, or does not exist on this machine."""
    path = Path(source.path)
    if not path.is_absolute():
        return []
    if not isinstance(source, TransformersSource):
        return [path] if path.is_file() else []
    weights = [path / name for name in WEIGHT_FILES if (path / name).is_file()]
    described = [path / name for name in ("config.json", *PROCESSOR_FILES)]
    return [*filter(Path.is_file, described), *weights[:1]]


ClassMap = dict[str, tuple[TapName, ...]]
"""Maps a class of the data set to the teacher's classes (name or number) whose probabilities are summed."""


def _one_as_many(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return {name: theirs if isinstance(theirs, list | tuple) else (theirs,) for name, theirs in value.items()}


WrittenClassMap = Annotated[ClassMap, BeforeValidator(_one_as_many)]
"""A class map in a config file, where a single class need not be in a list."""
