"""HeteroAKD between the tiny networks, for its tests."""

import torch

from distill.methods import build_method
from distill.testing import CNN, NUM_CLASSES, TRANSFORMER, random_labels, random_output, tiny_model


def build(**config):
    torch.manual_seed(0)
    return build_method(
        "heteroakd",
        student=tiny_model(CNN),
        teacher=tiny_model(TRANSFORMER),
        num_classes=NUM_CLASSES,
        **config,
    )


def losses(method, seed=1):
    return method(random_output(CNN, seed=seed), random_output(TRANSFORMER, seed=seed + 1), random_labels())
