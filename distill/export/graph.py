"""A model as an ONNX graph from bytes to classes, held to the model by onnxruntime before it is handed out."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import logging
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distill.data.labels import voc_colour
from distill.data.stream import normalise
from distill.errors import UsageError
from distill.models import CheckpointMetadata, ModelOptions, SegmentationModel, build_model
from distill.segmenter import EVEN, ONNX_CLASSES, ONNX_INPUT, ONNX_LOGITS, ONNX_METADATA

OPSET = 18
_NEEDED = ("onnx", "onnxscript", "onnxruntime")
_TRACED = (2, 3 * EVEN, 5 * EVEN)
_ELSEWHERE = {"any": (1, 131, 97), "even": (1, 4 * EVEN, 2 * EVEN)}
# Float32 sums in another order; more than this is another network.
_MOST = 1e-3


@dataclass(frozen=True)
class Check:
    """What onnxruntime gave beside torch on pictures of noise of one size.

    Attributes:
        size: pictures, height and width.
        logits: largest difference of two logits.
        scale: largest absolute logit, to read that by.
        pixels: share of the pixels whose class differs.
    """

    size: tuple[int, int, int]
    logits: float
    scale: float
    pixels: float


@dataclass(frozen=True)
class Graph:
    """A written graph, and what the check found.

    Attributes:
        sizes: of the pictures that it takes: `any`, `even` (multiples of 32), or one as H×W.
        opset: of ONNX.
        checks: one per size and number.
    """

    sizes: str
    opset: int
    checks: tuple[Check, ...]


class _Form(NamedTuple):
    """How free a graph is, and the sizes to trace it with (the first) and to check it at."""

    sizes: str
    shapes: tuple[tuple[int, int, int], ...]


class _BytesToClasses(nn.Module):
    """Normalisation, model, enlarging and argmax as one network."""

    def __init__(self, model: SegmentationModel, metadata: CheckpointMetadata) -> None:
        super().__init__()
        self.model = model
        self.mean, self.std = metadata.mean, metadata.std

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """From RGB bytes `B×H×W×3` to classes `B×H×W`, uint8, and logits `B×K×H×W`."""
        images_b3hw = normalise(image.permute(0, 3, 1, 2), self.mean, self.std)
        logits = self.model(images_b3hw).logits
        logits = F.interpolate(logits, images_b3hw.shape[-2:], mode="bilinear", align_corners=False)
        return logits.argmax(1).to(torch.uint8), logits


def refuse_without_onnx() -> None:
    """Raises UsageError where the extra `onnx` is not installed."""
    if missing := [name for name in _NEEDED if importlib.util.find_spec(name) is None]:
        raise UsageError(
            f"{', '.join(missing)} is not installed: pip install 'heteroakd[onnx]', or leave ONNX out with --no-onnx"
        )


def write_graph(path: Path, model: SegmentationModel, metadata: CheckpointMetadata) -> Graph:
    """Writes one `.onnx` file and holds it to the model in onnxruntime at two sizes.

    Number of pictures and their size are free where the backbone lets them be; else the size is the crop that the
    model was trained on. The graph carries classes, palette, windows and its sizes in its metadata.

    Raises:
        UsageError: torch cannot export this model, or onnxruntime gives other logits than torch.
    """
    network = _BytesToClasses(_plain(model), metadata).eval()
    failure: Exception = RuntimeError()
    with _quiet():
        # heads and backbones that bake sizes in: a graph of one size is better than none
        for form in _forms(network, metadata):
            try:
                return _written(path, network, metadata, form)
            except _FAILURES as error:
                path.unlink(missing_ok=True)
                failure = error
    raise _refusal(model, failure) from failure


def _refusal(model: SegmentationModel, error: Exception) -> UsageError:
    cause: BaseException = error
    while (
        cause.__cause__ is not None
    ):  # the exporter's own words tell of its steps, the first cause of the model
        cause = cause.__cause__
    lines = str(cause).strip().splitlines() or [type(cause).__name__]
    return UsageError(
        f"model '{model.options.name}' cannot be written as ONNX: {lines[0]}. Leave it out with --no-onnx"
    )


class _WrongGraphError(Exception):
    """onnxruntime gives something else than torch."""


_FAILURES = (_WrongGraphError, RuntimeError, ValueError, TypeError)


def _plain(model: SegmentationModel) -> SegmentationModel:
    """The model with batch norms that need no process group; they compute the same."""
    if model.options.norm != "sync":
        return model
    options: ModelOptions = replace(model.options, norm="batch")
    plain = build_model(**asdict(options))
    plain.load_state_dict(model.state_dict())
    return plain


def _forms(network: nn.Module, metadata: CheckpointMetadata) -> Iterator[_Form]:
    """What to try, the freest first."""
    for sizes, elsewhere in _ELSEWHERE.items():
        with contextlib.suppress(UsageError), torch.no_grad():
            network(_noise(elsewhere))
            network(_noise(_TRACED))
            yield _Form(sizes, (_TRACED, elsewhere))
            break
    height, width = metadata.notes.get("crop", (224, 224))
    fixed = f"{height}×{width}"
    yield _Form(fixed, ((2, height, width), (1, height, width)))


def _written(path: Path, network: _BytesToClasses, metadata: CheckpointMetadata, form: _Form) -> Graph:
    free = torch.export.Dim.DYNAMIC
    dynamic = {0: free}
    if form.sizes in _ELSEWHERE:
        dynamic |= {1: free, 2: free}
    program: Any = torch.onnx.export(
        network,
        (_noise(form.shapes[0]),),
        dynamo=True,
        opset_version=OPSET,
        input_names=[ONNX_INPUT],
        output_names=[ONNX_CLASSES, ONNX_LOGITS],
        dynamic_shapes={"image": dynamic},
        verbose=False,
    )
    told = {
        "classes": metadata.classes,
        "palette": metadata.palette or [voc_colour(label) for label in range(len(metadata.classes))],
        "window": metadata.window,
        "sizes": form.sizes,
        "notes": metadata.notes,
    }
    program.model.metadata_props[ONNX_METADATA] = json.dumps(told)
    program.save(path, external_data=False)
    checks = tuple(_check(path, network, shape) for shape in form.shapes)
    return Graph(form.sizes, int(program.model.opset_imports[""]), checks)


def _check(path: Path, network: _BytesToClasses, shape: tuple[int, int, int]) -> Check:
    import onnxruntime

    images = _noise(shape)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what goes wrong it raises
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        classes, logits = session.run([ONNX_CLASSES, ONNX_LOGITS], {ONNX_INPUT: images.numpy()})
    except Exception as error:  # onnxruntime has a dozen kinds, with no parent of their own
        raise _WrongGraphError(str(error)) from error
    with torch.no_grad():
        expected_classes, expected = network(images)
    difference = float((torch.from_numpy(logits) - expected).abs().max())
    scale = float(expected.abs().max())
    if not difference <= _MOST * max(1.0, scale):
        raise _WrongGraphError(
            f"onnxruntime's logits differ from torch's by {difference:.3g} at {shape}, must be at most "
            f"{_MOST:g} of the largest logit, {scale:.3g}"
        )
    changed = float((torch.from_numpy(classes) != expected_classes).float().mean())
    return Check(shape, difference, scale, changed)


def _noise(shape: tuple[int, int, int]) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (*shape, 3), dtype=torch.uint8, generator=generator)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter talks of its own affairs; what goes wrong it raises."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "torch.export")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
