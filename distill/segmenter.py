"""Inference with a trained model, for pictures of any size and model files of all formats."""

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
from distill.errors import UsageError
from distill.evaluation import predicted_classes, resized_logits
from distill.models import SegmentationModel, load_model
from distill.normalisation import normalise
from distill.recipe import SlidingWindow

EVEN = 32
"""Sides that are multiples of this are accepted by every backbone without a fixed size."""

ONNX_INPUT, ONNX_CLASSES, ONNX_LOGITS, ONNX_METADATA = "image", "classes", "logits", "distill"


@dataclass(frozen=True)
class Segmenter:
    """Predicts the classes of pictures.

    Attributes:
        classes: names by label.
        palette: a colour (R, G, B) per class.
        window: the sliding windows that the model was evaluated with; None is whole pictures.
        logits_of: maps RGB bytes `B×3×H×W` on `device` to logits `B×K×h×w`.
        device: device of the model.
    """

    classes: tuple[str, ...]
    palette: tuple[Colour, ...]
    window: SlidingWindow | None
    logits_of: Callable[[Tensor], Tensor]
    device: torch.device

    def labels(self, image_hw3: NDArray[np.uint8], window: SlidingWindow | None = None) -> NDArray[np.uint8]:
        """Predict the class of every pixel `H×W` of an RGB picture, in sliding windows if `window` is given.

        Raises:
            UsageError: the model does not accept pictures of this size.
        """
        images_13hw = torch.tensor(image_hw3, device=self.device).permute(2, 0, 1)[None]
        with torch.inference_mode():
            predicted = predicted_classes(self.logits_of, images_13hw, window)
        return np.asarray(predicted[0].to(torch.uint8).cpu().numpy())


def load_segmenter(path: str | Path, device: str = "cpu") -> Segmenter:
    """Load a model file of this project (`.safetensors`) or of `python -m distill.export` (`.onnx`).

    Raises:
        UsageError: the file is missing, damaged or of another kind, or the device does not exist.
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
    """A model's logits; if it rejects the size, pictures are padded to multiples of 32 and the logits cropped.

    Raises:
        UsageError: the model does not accept the padded size either.
    """
    height, width = images_b3hw.shape[-2:]
    try:
        logits: Tensor = model(images_b3hw).logits
        return logits
    except UsageError:
        if height % EVEN == 0 and width % EVEN == 0:
            raise
    larger = padded(images_b3hw)
    return resized_logits(model(larger).logits, larger)[..., :height, :width]


def padded(images_b3hw: Tensor) -> Tensor:
    """Pictures padded to multiples of 32 by repeating the last row and column."""
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
    providers = (
        ["CUDAExecutionProvider", "CPUExecutionProvider"] if device == "cuda" else ["CPUExecutionProvider"]
    )
    if providers[0] not in onnxruntime.get_available_providers():
        raise UsageError(
            "device is cuda, and this onnxruntime computes on the CPU alone; install onnxruntime-gpu, or use the "
            ".safetensors file"
        )
    try:
        session = onnxruntime.InferenceSession(path, providers=providers)
    except Exception as error:  # onnxruntime's error classes have no common base
        raise UsageError(f"model '{path}' cannot be read by onnxruntime: {error}") from error
    text = session.get_modelmeta().custom_metadata_map.get(ONNX_METADATA)
    if text is None:
        raise UsageError(f"model '{path}' was not written by python -m distill.export: it names no classes")
    metadata = json.loads(text)

    def logits_of(images_b3hw: Tensor) -> Tensor:
        height, width = images_b3hw.shape[-2:]
        pictures = images_b3hw if metadata["sizes"] == "any" else padded(images_b3hw)
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
