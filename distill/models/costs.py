"""Cost of a model: parameters, operations and measured latency."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from distill.catalogue_entries import ModelCost
from distill.errors import UsageError
from distill.models.model import ModelOptions, build_model

LEAST = 3
"""Minimum number of timed forward passes, however slow the model is."""


@dataclass(frozen=True)
class Latency:
    """Measured forward time of one image.

    Attributes:
        median_ms: median over the `repeats`, in milliseconds.
        repeats: number of timed forward passes.
        height: of the image, in pixels.
        width: of the image, in pixels.
        device: name of the device, as torch gives it.
        threads: CPU threads that torch used.
    """

    median_ms: float
    repeats: int
    height: int
    width: int
    device: str
    threads: int


def count_cost(options: ModelOptions, height: int, width: int) -> ModelCost:
    """Parameters and forward FLOPs of one image, counted on the meta device.

    FLOPs are those of convolutions, matrix products and attention; a multiply-accumulate is two. The model is
    counted as it is for inference, so the kind of norm does not matter.
    """
    with torch.device("meta"):
        model = build_model(**{**options.arguments(), "norm": "batch"}).eval()
        images = torch.empty(1, 3, height, width)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(images)
    params = sum(parameter.numel() for parameter in model.parameters())
    return ModelCost(params=params, flops_forward=counter.get_total_flops())


def count_module(model: nn.Module, height: int, width: int, device: torch.device) -> ModelCost:
    """Parameters and forward FLOPs of a built model, from one forward pass on its device; its mode is restored.

    All parameters count, trained or not.
    """
    params = sum(parameter.numel() for parameter in model.parameters())
    with _evaluating(model), torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 3, height, width, device=device))
    return ModelCost(params=params, flops_forward=counter.get_total_flops())


def measure_latency(
    model: nn.Module,
    height: int,
    width: int,
    *,
    device: torch.device | str = "cpu",
    repeats: int = 20,
    warmup: int = 5,
    seconds: float = 2.0,
) -> Latency:
    """Median forward time of one image in inference mode. The model must be on `device`; its mode is restored.

    Args:
        model: the model to time.
        height: of the image, in pixels.
        width: of the image, in pixels.
        device: the model's device.
        repeats: maximum number of timed passes.
        warmup: maximum number of passes before them.
        seconds: time limit for a slow model. After it no pass starts, except one warm-up pass and `LEAST` timed ones.

    Raises:
        UsageError: `repeats` is below 1.
    """
    if repeats < 1:
        raise UsageError(f"repeats is {repeats}, must be at least 1")
    place = torch.device(device)
    images = torch.zeros(1, 3, height, width, device=place)
    milliseconds: list[float] = []
    begun = time.perf_counter()
    with _evaluating(model), torch.inference_mode():
        for done in range(warmup):
            if done and time.perf_counter() - begun > seconds / 4:
                break
            model(images)
            _wait(place)
        while len(milliseconds) < repeats:
            start = time.perf_counter()
            if len(milliseconds) >= LEAST and start - begun > seconds:
                break
            model(images)
            _wait(place)
            milliseconds.append(1000 * (time.perf_counter() - start))
    name = torch.cuda.get_device_name(place) if place.type == "cuda" else place.type
    return Latency(
        statistics.median(milliseconds), len(milliseconds), height, width, name, torch.get_num_threads()
    )


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Set evaluation mode, and restore every module's mode afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
