"""A trained model in the hand: from a picture to its classes, whatever the picture's size and the model's file."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from distill.data.labels import Colour, voc_colour
from distill.data.stream import normalise
from distill.errors import UsageError
from distill.evaluation import pixel_logits, resized_logits
from distill.models import SegmentationModel, load_model
from distill.recipe import SlidingWindow

EVEN = 32
"""Sides that every backbone takes which takes more than one size."""

ONNX_INPUT, ONNX_CLASSES, ONNX_LOGITS, ONNX_METADATA = "image", "classes", "logits", "distill"


@dataclass(frozen=True)
class Segmenter:
    """Predicts the classes of pictures.

    Attributes:
        classes: names by label.
        palette: a colour (R, G, B) per class.
        window: the sliding windows that the model was scored in; None is whole.
        logits_of: from RGB bytes `B×3×H×W` on `device` to logits `B×K×h×w`.
        device: where it computes.
    """

    classes: tuple[str, ...]
    palette: tuple[Colour, ...]
    window: SlidingWindow | None
    logits_of: Callable[[Tensor], Tensor]
    device: torch.device

    def labels(self, image_hw3: NDArray[np.uint8], window: SlidingWindow | None = None) -> NDArray[np.uint8]:
        """The class of every pixel of an RGB picture, `H×W`; with `window` in sliding windows, else whole.

        Raises:
            UsageError: the model does not take pictures of this size.
        """
        images_13hw = torch.tensor(image_hw3, device=self.device).permute(2, 0, 1)[None]
        with torch.inference_mode():
            predicted = pixel_logits(self.logits_of, images_13hw, window).max(1).indices
        return np.asarray(predicted[0].to(torch.uint8).cpu().numpy())


def load_segmenter(path: str | Path, device: str = "cpu") -> Segmenter:
    """A model file of this project (`.safetensors`), or one that `python -m distill.export` wrote (`.onnx`).

    Raises:
        UsageError: no such file, not one of these, a damaged one, or no such device.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise UsageError("device is cuda, and torch finds no GPU here; leave --device out")
    if Path(path).suffix == ".onnx":
        return _of_graph(Path(path), device)
    model, metadata = load_model(path)
    model = model.to(device).eval()

    def logits_of(images_b3hw: Tensor) -> Tensor:
        return padded_logits(model, normalise(images_b3hw, metadata.mean, metadata.std))

    window = None if metadata.window is None else SlidingWindow.model_validate(metadata.window)
    palette = metadata.palette or tuple(voc_colour(label) for label in range(len(metadata.classes)))
    return Segmenter(metadata.classes, palette, window, logits_of, torch.device(device))


def padded_logits(model: SegmentationModel, images_b3hw: Tensor) -> Tensor:
    """A model's logits; where it takes only even sides, of the picture continued to multiples of 32 and cut again.

    Raises:
        UsageError: the model does not take pictures of this size even so.
    """
    height, width = images_b3hw.shape[-2:]
    try:
        logits: Tensor = model(images_b3hw).logits
        return logits
    except UsageError:
        if height % EVEN == 0 and width % EVEN == 0:
            raise
    padded = continued(images_b3hw)
    return resized_logits(model(padded).logits, padded)[..., :height, :width]


def continued(images_b3hw: Tensor) -> Tensor:
    """Pictures whose last row and column are repeated until both sides are multiples of 32."""
    height, width = images_b3hw.shape[-2:]
    rest = (0, -width % EVEN, 0, -height % EVEN)
    if images_b3hw.is_floating_point():
        return F.pad(images_b3hw, rest, mode="replicate")
    return F.pad(images_b3hw.float(), rest, mode="replicate").to(images_b3hw.dtype)


def _of_graph(path: Path, device: str) -> Segmenter:
    try:
        import onnxruntime
    except ImportError:
        raise UsageError(f"{path} needs onnxruntime: pip install 'heteroakd[onnx]'") from None
    if not path.is_file():
        raise UsageError(f"model '{path}' is not a file")
    wanted = (
        ["CUDAExecutionProvider", "CPUExecutionProvider"] if device == "cuda" else ["CPUExecutionProvider"]
    )
    if wanted[0] not in onnxruntime.get_available_providers():
        raise UsageError(
            "device is cuda, and this onnxruntime computes on the CPU alone; install onnxruntime-gpu, or use the "
            ".safetensors file"
        )
    try:
        session = onnxruntime.InferenceSession(path, providers=wanted)
    except Exception as error:  # onnxruntime has a dozen kinds, with no parent of their own
        raise UsageError(f"model '{path}' cannot be read by onnxruntime: {error}") from error
    told = session.get_modelmeta().custom_metadata_map.get(ONNX_METADATA)
    if told is None:
        raise UsageError(f"model '{path}' was not written by python -m distill.export: it names no classes")
    metadata = json.loads(told)

    def logits_of(images_b3hw: Tensor) -> Tensor:
        height, width = images_b3hw.shape[-2:]
        pictures = images_b3hw if metadata["sizes"] == "any" else continued(images_b3hw)
        feed = {ONNX_INPUT: pictures.permute(0, 2, 3, 1).contiguous().cpu().numpy()}
        try:
            (logits,) = session.run([ONNX_LOGITS], feed)
        except Exception as error:
            raise UsageError(
                f"model '{path}' takes pictures of {metadata['sizes']} pixels, not of {height}×{width}; cut them with "
                f"--window, or take the .safetensors file ({str(error).splitlines()[0]})"
            ) from error
        return torch.from_numpy(logits)[..., :height, :width]

    window = None if metadata["window"] is None else SlidingWindow.model_validate(metadata["window"])
    palette = tuple((red, green, blue) for red, green, blue in metadata["palette"])
    return Segmenter(tuple(metadata["classes"]), palette, window, logits_of, torch.device("cpu"))
