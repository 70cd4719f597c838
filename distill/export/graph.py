"""Exports a model as an ONNX graph from bytes to classes, and checks it with onnxruntime."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distill.data.labels import voc_colour
from distill.errors import UsageError
from distill.models import CheckpointMetadata, ModelOptions, SegmentationModel, build_model
from distill.normalisation import normalise
from distill.segmenter import EVEN, ONNX_CLASSES, ONNX_INPUT, ONNX_LOGITS, ONNX_METADATA

OPSET = 18
_NEEDED = ("onnx", "onnxscript", "onnxruntime")
_TRACED = (2, 3 * EVEN, 5 * EVEN)
_ELSEWHERE = {"any": (1, 131, 97), "even": (1, 4 * EVEN, 2 * EVEN)}
# Tolerance relative to the largest logit: float32 sums in another order differ by less.
_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Check:
    """Comparison of onnxruntime with torch on images of noise of one size.

    Attributes:
        size: number of images, height and width.
        logits: largest absolute difference of a logit.
        scale: largest absolute logit.
        pixels: share of the pixels whose class differs.
    """

    size: tuple[int, int, int]
    logits: float
    scale: float
    pixels: float


@dataclass(frozen=True)
class Graph:
    """A written graph and its checks.

    Attributes:
        sizes: accepted image sizes: `any`, `even` (multiples of 32), or one size as H×W.
        opset: ONNX opset version.
        checks: one per checked size.
    """

    sizes: str
    opset: int
    checks: tuple[Check, ...]


class _Form(NamedTuple):
    """Accepted sizes of a graph, and the shapes to trace it with (the first) and to check it at."""

    sizes: str
    shapes: tuple[tuple[int, int, int], ...]


class _BytesToClasses(nn.Module):
    """Normalisation, model, upsampling and argmax as one network."""

    def __init__(self, model: SegmentationModel, metadata: CheckpointMetadata) -> None:
        super().__init__()
        self.model = model
        self.mean, self.std = metadata.mean, metadata.std

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Map RGB bytes `B×H×W×3` to classes `B×H×W`, uint8, and logits `B×K×H×W`."""
        images_b3hw = normalise(image.permute(0, 3, 1, 2), self.mean, self.std)
        logits = self.model(images_b3hw).logits
        logits = F.interpolate(logits, images_b3hw.shape[-2:], mode="bilinear", align_corners=False)
        return logits.argmax(1).to(torch.uint8), logits


def refuse_without_onnx() -> None:
    """Raise UsageError if the extra `onnx` is not installed."""
    if missing := [name for name in _NEEDED if importlib.util.find_spec(name) is None]:
        raise UsageError(
            f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} not installed: pip install 'heteroakd[onnx]', or "
            "leave ONNX out with --no-onnx"
        )


def write_graph(path: Path, model: SegmentationModel, metadata: CheckpointMetadata) -> Graph:
    """Write an `.onnx` file and compare it with the model in onnxruntime at two sizes.

    The number and size of images are dynamic if the backbone supports it; otherwise the size is the training crop. The
    graph's metadata contains classes, palette, windows and accepted sizes.

    Raises:
        UsageError: torch cannot export the model, or onnxruntime's logits differ from torch's.
    """
    network = _BytesToClasses(_plain(model), metadata).eval()
    failure: Exception = RuntimeError()
    with _quiet():
        # some heads and backbones have fixed sizes; then try a graph of one size
        for form in _forms(network, metadata):
            try:
                return _written(path, network, metadata, form)
            except _FAILURES as error:
                path.unlink(missing_ok=True)
                failure = error
    raise _refusal(model, failure) from failure


def _refusal(model: SegmentationModel, error: Exception) -> UsageError:
    cause: BaseException = error
    while cause.__cause__ is not None:  # the root cause is about the model, the exporter's messages are not
        cause = cause.__cause__
    lines = str(cause).strip().splitlines() or [type(cause).__name__]
    return UsageError(
        f"model '{model.options.name}' cannot be written as ONNX: {lines[0]}. Leave it out with --no-onnx"
    )


class _WrongGraphError(Exception):
    """onnxruntime's outputs differ from torch's."""


_FAILURES = (_WrongGraphError, RuntimeError, ValueError, TypeError)


def _plain(model: SegmentationModel) -> SegmentationModel:
    """The model with plain batch norms, which compute the same and need no process group."""
    if model.options.norm != "sync":
        return model
    options: ModelOptions = replace(model.options, norm="batch")
    plain = build_model(**options.arguments())
    plain.load_state_dict(model.state_dict())
    return plain


def _forms(network: nn.Module, metadata: CheckpointMetadata) -> Iterator[_Form]:
    """Forms to try, the most general first."""
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
    description = {
        "classes": metadata.classes,
        "palette": metadata.palette or [voc_colour(label) for label in range(len(metadata.classes))],
        "window": metadata.window,
        "sizes": form.sizes,
        "notes": metadata.notes,
    }
    program.model.metadata_props[ONNX_METADATA] = json.dumps(description)
    program.save(path, external_data=False)
    checks = tuple(_check(path, network, shape) for shape in form.shapes)
    return Graph(form.sizes, int(program.model.opset_imports[""]), checks)


def _check(path: Path, network: _BytesToClasses, shape: tuple[int, int, int]) -> Check:
    import onnxruntime

    images = _noise(shape)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # errors are raised, not logged
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        classes, logits = session.run([ONNX_CLASSES, ONNX_LOGITS], {ONNX_INPUT: images.numpy()})
    except Exception as error:  # onnxruntime's error classes have no common base
        raise _WrongGraphError(str(error)) from error
    with torch.no_grad():
        expected_classes, expected = network(images)
    difference = float((torch.from_numpy(logits) - expected).abs().max())
    scale = float(expected.abs().max())
    if not difference <= _TOLERANCE * max(1.0, scale):
        raise _WrongGraphError(
            f"onnxruntime's logits differ from torch's by {difference:.3g} at {shape}, must be at most "
            f"{_TOLERANCE:g} of the largest logit, {scale:.3g}"
        )
    changed = float((torch.from_numpy(classes) != expected_classes).float().mean())
    return Check(shape, difference, scale, changed)


def _noise(shape: tuple[int, int, int]) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (*shape, 3), dtype=torch.uint8, generator=generator)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's logs, warnings and prints; errors are still raised."""
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
