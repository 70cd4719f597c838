"""Training settings other than the method's. Imports no torch, so that planning does not need it."""

from __future__ import annotations

import hashlib
import json
import math
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from distill.data.config import AugmentationConfig

Side = Annotated[int, Field(gt=0, le=10**6)]


class SlidingWindow(BaseModel):
    """Pictures are scored in overlapping windows, whose logits are averaged, instead of whole.

    Square numbers may be given as one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    size: tuple[Side, Side] = Field(
        description="height and width of a window; what is larger than the picture is the picture's own"
    )
    stride: tuple[Side, Side] = Field(
        description="steps down and across, at most the size; the last window ends where the picture does"
    )

    @field_validator("size", "stride", mode="before")
    @classmethod
    def _square(cls, value: object) -> object:
        return (value, value) if isinstance(value, int) else value

    @model_validator(mode="after")
    def _no_gaps(self) -> Self:
        if any(step > side for step, side in zip(self.stride, self.size, strict=True)):
            raise ValueError(
                f"stride is {self.stride}, must be at most the size {self.size}, or pixels are left out"
            )
        return self

    def starts(self, height: int, width: int) -> list[tuple[int, int]]:
        """Top and left of every window of a picture."""
        rows, columns = (
            [*range(0, max(0, length - side), step), max(0, length - side)]
            for length, side, step in zip((height, width), self.size, self.stride, strict=True)
        )
        return [(top, left) for top in rows for left in columns]


COHORT_SETTINGS = ("batch_size", "steps", "augmentation", "precision", "channels_last")
"""Settings of a recipe that all trials of a cohort must share."""


class Recipe(BaseModel):
    """How a model is trained. Every result has the recipe's hash; only results of one hash are ranked together."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    steps: int = Field(gt=0, le=10**9, description="optimiser steps")
    batch_size: int = Field(gt=0, le=10**6, description="pictures per optimiser step, over all workers")
    augmentation: AugmentationConfig = Field(description="the view of a picture that is trained on")
    optimizer: Literal["sgd", "adamw"] = Field(default="sgd", description="SGD with momentum, or AdamW")
    lr: float = Field(gt=0, description="peak learning rate of the backbone")
    head_lr_factor: float = Field(
        default=1.0, gt=0, description="the heads' learning rate over the backbone's"
    )
    weight_decay: float = Field(
        default=1e-4, ge=0, description="weight decay; norms and biases under AdamW have none"
    )
    momentum: float = Field(default=0.9, ge=0, lt=1, description="momentum of SGD")
    schedule: Literal["poly", "cosine", "one_cycle"] = Field(
        default="poly", description="shape of the learning rate"
    )
    power: float = Field(default=0.9, gt=0, description="exponent of the poly schedule")
    warmup_steps: int = Field(
        default=0, ge=0, le=10**9, description="linear warm-up (one_cycle: steps to the peak)"
    )
    clip_norm: float | None = Field(default=None, gt=0, description="largest gradient norm; none by default")
    accumulate: int = Field(
        default=1, ge=1, le=10**6, description="micro-batches that make up one worker's batch"
    )
    accumulate_if_out_of_memory: bool = Field(
        default=False,
        description="train a student that ran out of memory once more, in twice as many micro-batches",
    )
    ema_decay: float | None = Field(
        default=None, gt=0, lt=1, description="decay of the averaged weights that are scored"
    )
    norm: Literal["batch", "sync", "group"] = Field(
        default="batch",
        description="kind of the models' batch norms; sync makes a GPU wait in every norm layer",
    )
    precision: Literal["fp32", "bf16"] = Field(default="fp32", description="bf16: autocast of forward passes")
    sliding_window: SlidingWindow | None = Field(
        default=None, description="score pictures in overlapping windows; whole by default"
    )
    channels_last: bool = Field(default=False, description="memory layout of convolutions")

    def lr_factor(self, step: int) -> float:
        """Learning rate of `step` (from 0) over the peak rate; a pure function, so there is no scheduler state."""
        if self.schedule == "one_cycle":
            rise = self.warmup_steps or max(1, round(0.3 * self.steps))
            if step < rise:
                return 0.04 + 0.96 * _half_cosine(step / rise)
            return max(1e-4, 1.0 - _half_cosine((step - rise) / max(1, self.steps - rise)))
        if step < self.warmup_steps:
            return (step + 1) / (self.warmup_steps + 1)
        if self.schedule == "poly":
            return float((1.0 - step / self.steps) ** self.power)
        progress = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        return 1.0 - _half_cosine(progress)

    def data_key(self) -> dict[str, Any]:
        """Settings that all trials of a cohort must share: batches, length and memory format."""
        return self.model_dump(mode="json", include={*COHORT_SETTINGS})

    def digest(self) -> str:
        """Hash over every field."""
        return digest(self.model_dump(mode="json"))


def digest(value: Any, length: int = 12) -> str:
    """Hash of a JSON value; equal values have equal hashes on every machine."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def _half_cosine(progress: float) -> float:
    """Half a cosine period from 0 to 1 while `progress` goes from 0 to 1."""
    return 0.5 - 0.5 * math.cos(math.pi * min(1.0, max(0.0, progress)))
