"""Methods of another package, which go wrong in every way a method can."""

from __future__ import annotations

import os
import signal
import time
import weakref
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from distill.methods import Card, Method, MethodConfig, register
from distill.models.output import Output

STEP = 10  # where they go wrong


class Trouble(Method):
    """Behaves for a while, then does what its subclass does."""

    Config: ClassVar[type[MethodConfig]] = MethodConfig
    space: ClassVar[Mapping[str, Any]] = {"recipe.lr": {"log_uniform": [0.01, 0.04]}}

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.steps: Tensor
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    @property
    def weights(self) -> dict[str, float]:
        return {"nothing": 1.0}

    def forward(self, student: Output, teacher: Output | None, labels: Tensor) -> dict[str, Tensor]:
        if int(self.steps) == STEP:
            self.trouble(labels)
        self.steps += 1
        return {"nothing": 0.0 * student.logits.mean()}

    def trouble(self, labels: Tensor) -> None:
        raise NotImplementedError


def card(name: str) -> Card:
    return Card(name, "Trouble", "Anon", "None", 2026, "https://example.org", "logits", ("logits",))


@register
class Raising(Trouble):
    card: ClassVar[Card] = card("raising")

    def trouble(self, labels: Tensor) -> None:
        raise RuntimeError("this method is broken")


@register
class Hanging(Trouble):
    card: ClassVar[Card] = card("hanging")

    def trouble(self, labels: Tensor) -> None:
        while True:
            time.sleep(1)


@register
class Dying(Trouble):
    card: ClassVar[Card] = card("dying")

    def trouble(self, labels: Tensor) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


@register
class Greedy(Trouble):
    card: ClassVar[Card] = card("greedy")

    def trouble(self, labels: Tensor) -> None:
        torch.empty(10**15)


@register
class GreedyWhenWhole(Trouble):
    card: ClassVar[Card] = card("greedy_when_whole")

    def trouble(self, labels: Tensor) -> None:
        if len(labels) > 2:
            torch.empty(10**15)


@register
class Crowded(Trouble):
    """Two of these do not fit on one device, as if their students were large."""

    card: ClassVar[Card] = card("crowded")
    present: ClassVar[weakref.WeakSet[Crowded]] = weakref.WeakSet()

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.present.add(self)

    def trouble(self, labels: Tensor) -> None:
        if len(self.present) > 1:
            torch.empty(10**15)


@register
class Bulky(Trouble):
    """A third one cannot even be built."""

    card: ClassVar[Card] = card("bulky")
    present: ClassVar[weakref.WeakSet[Bulky]] = weakref.WeakSet()

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        if len(self.present) > 1:
            torch.empty(10**15)
        self.present.add(self)

    def trouble(self, labels: Tensor) -> None:
        """None."""
