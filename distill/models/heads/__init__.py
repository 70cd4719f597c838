"""Segmentation heads; importing this package registers them all."""

from distill.models.heads import deeplabv3, segformer
from distill.models.heads.registry import HeadCard, HeadInputs, head_card, list_heads, register_head

__all__ = ["HeadCard", "HeadInputs", "deeplabv3", "head_card", "list_heads", "register_head", "segformer"]
