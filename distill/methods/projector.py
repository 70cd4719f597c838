"""HeteroAKD's projector from features to class logits, and its training for a teacher."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

import torch
from torch import Tensor, nn

from distill.errors import UsageError
from distill.methods.pixels import cross_entropy, grid, resize_labels
from distill.methods.taps import for_layer


class LogitsProjector(nn.Module):
    """G: a 1×1 convolution, BatchNorm and ReLU (two sources agree), from features to aligned logits.

    Args:
        channels: channels of the features.
        num_classes: K, channels of the result.
        final_relu: False omits the ReLU. With the ReLU, sigmoid(Z) ≥ ½, so no class can have a low probability.
        norm: False has a bias in place of the BatchNorm: a linear projection, without the ReLU.
    """

    def __init__(
        self, channels: int, num_classes: int, final_relu: bool = True, *, norm: bool = True
    ) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(channels, num_classes, 1, bias=not norm)
        self.norm = nn.BatchNorm2d(num_classes) if norm else nn.Identity()
        self.activation = nn.ReLU() if final_relu else nn.Identity()

    def forward(self, features: Tensor) -> Tensor:
        """`B×C×h×w` to Z, `B×K×h×w`."""
        projected: Tensor = self.activation(self.norm(self.convolution(for_layer(features, self))))
        return projected


def train_teacher_projector(
    projector: LogitsProjector,
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    steps: int = 1000,
    learning_rate: float = 1e-3,
) -> LogitsProjector:
    """Train G_t once for a teacher: its loss CE(Z_t, y) does not depend on any student.

    Adam with a cosine schedule to 0 is our choice.

    Args:
        projector: the projector to train, in place.
        batches: frozen teacher features at the tap, `B×C×h×w`, and labels, `B×H×W`; at least one batch.
        steps: maximum number of batches.
        learning_rate: initial learning rate.

    Returns:
        The same projector, in evaluation mode.

    Raises:
        UsageError: there are no batches.
    """
    optimizer = torch.optim.Adam(projector.parameters(), lr=learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    projector.train()
    for features, labels in islice(batches, steps):
        logits = projector(features.detach())
        loss = cross_entropy(logits, resize_labels(labels, grid(logits)))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    if schedule.last_epoch == 0:
        raise UsageError(
            "training a teacher projector got 0 batches, must get at least 1; pass steps above 0 and data"
        )
    return projector.eval()
