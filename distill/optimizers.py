"""The optimiser of a student and its method, and the memory that it needs."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from distill.models import SegmentationModel
from distill.recipe import Recipe


def build_optimizer(recipe: Recipe, model: SegmentationModel, method: nn.Module) -> torch.optim.Optimizer:
    """SGD or AdamW. Heads and the method's parameters have the heads' rate; AdamW does not decay norms and biases."""
    head = {id(p) for p in model.head_parameters()}
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for parameter, is_head in [
        *((p, id(p) in head) for p in model.parameters()),
        *((p, True) for p in method.parameters()),
    ]:
        if not parameter.requires_grad:
            continue
        lr = recipe.lr * (recipe.head_lr_factor if is_head else 1.0)
        decays = recipe.optimizer == "sgd" or parameter.ndim > 1
        groups.setdefault((lr, recipe.weight_decay if decays else 0.0), []).append(parameter)
    settings = [
        {"params": parameters, "lr": lr, "peak_lr": lr, "weight_decay": decay}
        for (lr, decay), parameters in groups.items()
    ]
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(settings, momentum=recipe.momentum, fused=True)
    return torch.optim.AdamW(settings, fused=True)


def allocate_state(optimizer: torch.optim.Optimizer) -> None:
    """Allocate what the optimiser would allocate in its first step, whose result stays the same.

    A step with rate and decay 0 changes no weight; then all state is set to 0.
    """
    kept = [(group["lr"], group["weight_decay"]) for group in optimizer.param_groups]
    for group in optimizer.param_groups:
        group["lr"] = group["weight_decay"] = 0.0
    optimizer.step()
    for group, (lr, weight_decay) in zip(optimizer.param_groups, kept, strict=True):
        group["lr"], group["weight_decay"] = lr, weight_decay
    for state in optimizer.state.values():
        for value in state.values():
            if isinstance(value, Tensor):
                value.zero_()
