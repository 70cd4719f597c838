"""What a model costs: parameters, operations and measured latency."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from distill.catalogue.entries import ModelCost
from distill.errors import UsageError
from distill.models.model import ModelOptions, build_model

LEAST = 3
"""Forwards of which a median is taken, however slow the model is."""


@dataclass(frozen=True)
class Latency:
    """Measured forward time of one image.

    Attributes:
        median_ms: median over the `repeats`, in milliseconds.
        repeats: how many forwards were timed.
        height: of the image, in pixels.
        width: of the image, in pixels.
        device: name of the device, as torch gives it.
        threads: threads torch may use on the CPU.
    """

    median_ms: float
    repeats: int
    height: int
    width: int
    device: str
    threads: int


def count_cost(options: ModelOptions, height: int, width: int) -> ModelCost:
    """Parameters and forward FLOPs of one image, counted on the meta device: no memory, no data.

    FLOPs are those of convolutions, matrix products and attention; a multiply-accumulate is two. The model is
    counted as it is for inference, so the kind of norm does not matter.
    """
    with torch.device("meta"):
        model = build_model(**{**vars(options), "norm": "batch"}).eval()
        images = torch.empty(1, 3, height, width)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(images)
    params = sum(parameter.numel() for parameter in model.parameters())
    return ModelCost(params=params, flops_forward=counter.get_total_flops())


def count_module(model: nn.Module, height: int, width: int, device: torch.device) -> ModelCost:
    """The same of a model that is built already, by one pass where it lies; it keeps its mode.

    What a network from elsewhere counts as a parameter is counted, whether or not it is trained.
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
    """Median forward time at batch 1, in inference mode; the model keeps its mode, and must be on `device`.

    Args:
        model: what is timed. height: of the image. width: of the image. device: where the model lies.
        repeats: forwards to time, at most. warmup: forwards before them, at most.
        seconds: what a slow model may take: afterwards no forward begins but for the first to warm up and `LEAST` timed.

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
    """Evaluation mode inside; afterwards every module has the mode it had."""
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
