"""Segmentation heads; importing this package registers them all."""

from distill.models.heads import deeplabv3, deeplabv3plus, fcn, pspnet, segformer, upernet
from distill.models.heads.registry import HeadCard, HeadInputs, head_card, list_heads, register_head

__all__ = [
    "HeadCard",
    "HeadInputs",
    "deeplabv3",
    "deeplabv3plus",
    "fcn",
    "head_card",
    "list_heads",
    "pspnet",
    "register_head",
    "segformer",
    "upernet",
]
