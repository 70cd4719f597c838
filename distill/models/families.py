"""Properties of timm backbones by model file: their family, and arguments that allow images of any size."""

from __future__ import annotations

from typing import Any, Literal

Family = Literal["cnn", "transformer"]

# timm model files whose backbones mix tokens mainly by self-attention. All others (convolution, pooling, MLP,
# and convolutional networks with a few attention blocks) count as "cnn".
_TRANSFORMER_FILES = frozenset(
    {
        "beit", "cait", "coat", "convit", "cpubone", "crossvit", "davit", "deepseek_vit", "deit",
        "efficientformer", "efficientformer_v2", "efficientvit_mit", "efficientvit_msra", "eva", "gcvit",
        "gemma4_vit", "hiera", "hieradet_sam2", "levit", "lowformer", "maxxvit", "mobilevit", "mvitv2",
        "naflexvit", "nest", "nextvit", "pit", "pvt_v2", "qwen3_vit", "swiftformer", "swin_transformer",
        "swin_transformer_v2", "swin_transformer_v2_cr", "tiny_vit", "tnt", "twins", "vision_transformer",
        "vision_transformer_hybrid", "vision_transformer_relpos", "vision_transformer_sam", "visformer",
        "vitamin", "volo", "xcit",
    }
)  # fmt: skip
_TRANSFORMER_PREFIXES = ("caformer",)

_ANY_SIZE: dict[str, dict[str, Any]] = {
    "vision_transformer": {"dynamic_img_size": True, "dynamic_img_pad": True},
    "deit": {"dynamic_img_size": True, "dynamic_img_pad": True},
    "eva": {"dynamic_img_size": True, "dynamic_img_pad": True},
    "vision_transformer_hybrid": {"dynamic_img_size": True},
    "vitamin": {"dynamic_img_size": True},
    "swin_transformer": {"strict_img_size": False},
    "swin_transformer_v2": {"strict_img_size": False},
    "swin_transformer_v2_cr": {"strict_img_size": False},
}


def family_of(architecture: str, file: str) -> Family:
    """The family of a timm architecture defined in the model file `file` (name without `.py`)."""
    if file in _TRANSFORMER_FILES or architecture.startswith(_TRANSFORMER_PREFIXES):
        return "transformer"
    return "cnn"


def any_size_arguments(file: str) -> dict[str, Any]:
    """Arguments by which the backbones of a timm model file accept images of any size.

    Empty if no argument is needed, or if the backbones support one fixed size only.
    """
    return dict(_ANY_SIZE.get(file, {}))
