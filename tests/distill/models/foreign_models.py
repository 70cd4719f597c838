"""Small models of other libraries with random weights, saved as their own libraries save them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

WIDTHS, HEADS = [8, 16, 24, 32], [1, 1, 2, 4]


def segformer(classes: int = 4, **changes: Any) -> nn.Module:
    """A small SegFormer of transformers."""
    torch.manual_seed(0)
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    config = SegformerConfig(
        depths=[1, 2, 1, 1], hidden_sizes=WIDTHS, num_attention_heads=HEADS, decoder_hidden_size=12,
        num_labels=classes, **changes,
    )  # fmt: skip
    return _shaken(SegformerForSemanticSegmentation(config))


def upernet(classes: int = 4, **changes: Any) -> nn.Module:
    """A small UPerNet on Swin of transformers."""
    torch.manual_seed(0)
    from transformers import SwinConfig, UperNetConfig, UperNetForSemanticSegmentation

    backbone = SwinConfig(
        embed_dim=8, depths=[1] * 4, num_heads=[1, 1, 2, 2], window_size=4,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )  # fmt: skip
    config = UperNetConfig(
        backbone_config=backbone, hidden_size=8, num_labels=classes, use_auxiliary_head=False, **changes
    )
    return _shaken(UperNetForSemanticSegmentation(config))


def dpt(classes: int = 4) -> nn.Module:
    """A small DPT of transformers."""
    torch.manual_seed(0)
    from transformers import DPTConfig, DPTForSemanticSegmentation

    config = DPTConfig(
        hidden_size=16, num_hidden_layers=4, num_attention_heads=2, intermediate_size=32, image_size=64,
        backbone_out_indices=[0, 1, 2, 3], neck_hidden_sizes=[8, 8, 16, 16], fusion_hidden_size=8,
        num_labels=classes, use_auxiliary_head=False,
    )  # fmt: skip
    return _shaken(DPTForSemanticSegmentation(config))


def _shaken(model: nn.Module) -> nn.Module:
    """Weights and statistics away from their start, where errors of order and scale would hide."""
    generator = torch.Generator().manual_seed(0)
    for tensor in [*model.parameters(), *model.buffers()]:
        if tensor.is_floating_point():
            tensor.data += 0.1 * torch.rand(tensor.shape, generator=generator)
    return model.eval()


class Plain(nn.Module):
    """A network of nobody's make that returns its maps by name."""

    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 4, stride=4)
        self.down = nn.Sequential(nn.Conv2d(6, 8, 3, stride=2, padding=1), nn.ReLU())
        self.classifier = nn.Conv2d(8, classes, 1)

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        fine = self.stem(images)
        coarse = self.down(fine)
        return {"fine": fine, "coarse": coarse, "logits": self.classifier(coarse)}


class Silent(Plain):
    """The same, but only its logits come out."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        logits: torch.Tensor = super().forward(images)["logits"]
        return logits


def export(model: nn.Module, path: Path, *, multiple: int = 8) -> Path:
    """A torch.export file for any number of images, and for any size that is a multiple of a number."""
    rows, columns = (torch.export.Dim(name, min=-(-16 // multiple)) for name in ("rows", "columns"))
    free = ({0: torch.export.Dim("batch", min=1), 2: multiple * rows, 3: multiple * columns},)
    torch.export.save(
        torch.export.export(model.eval(), (torch.zeros(2, 3, 64, 48),), dynamic_shapes=free), path
    )
    return path


def exported_by_us(folder: Path, classes: Sequence[str]) -> Path:
    """What `python -m distill.export` writes of a model that was trained here."""
    from distill.export.__main__ import ExportOptions
    from distill.export.__main__ import export as export_model
    from distill.models import CheckpointMetadata, build_model, save_model

    torch.manual_seed(0)
    model = build_model("segformer-test_resnet", len(classes), head_channels=8)
    metadata = CheckpointMetadata(classes=tuple(classes))
    save_model(folder / "trained.safetensors", model, metadata)
    export_model(
        ExportOptions(run=str(folder / "trained.safetensors"), output=folder / "exported", onnx=False)
    )
    return folder / "exported" / "model.safetensors"
