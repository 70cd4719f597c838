"""Segmentation models of `transformers` as teachers: UPerNet and DPT, built from a config."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

from torch import Tensor, nn

from distill.errors import UsageError
from distill.models.families import Family
from distill.models.output import Output

# Convolutional backbones; all others of transformers count as transformers.
_CNNS = {"convnext", "convnextv2", "resnet", "focalnet", "bit"}


def family_of_config(config: Mapping[str, Any]) -> Family:
    """The family of a transformers model, from its config."""
    inner = config.get("backbone_config") or {}
    return "cnn" if inner.get("model_type") in _CNNS else "transformer"


def build_network(config: Mapping[str, Any]) -> HubNetwork:
    """Build the network of a `config.json` with random weights; nothing is downloaded.

    Raises:
        UsageError: transformers is not installed, or the model type is not supported.
    """
    builder = _NETWORKS.get(str(config.get("model_type")))
    if builder is None:
        raise UsageError(
            f"transformers model of type '{config.get('model_type')}' cannot be a teacher; those that can: "
            f"segformer, {', '.join(_NETWORKS)}. Export it and use kind `export`"
        )
    try:
        import transformers  # noqa: F401
    except ImportError as error:
        raise UsageError(
            f"a {config['model_type']} needs transformers, which is not installed: pip install 'heteroakd[hub]'"
        ) from error
    return builder(dict(config))


class HubNetwork(nn.Module):
    """A transformers model that returns our `Output`."""

    model: Any

    def load_pretrained(self, folder: Path) -> None:
        """Load the weights that `save_pretrained` wrote, as plain tensors.

        Raises:
            UsageError: tensors are missing or have other shapes.
        """
        from transformers.utils import logging

        logging.disable_progress_bar()
        try:
            model, loading = type(self.model).from_pretrained(
                folder, local_files_only=True, weights_only=True, output_loading_info=True
            )
        except (OSError, RuntimeError, ValueError) as error:
            first_line = str(error).partition("\n")[0]
            raise UsageError(f"its weights cannot be read: {first_line}") from error
        if loading["missing_keys"]:
            some = ", ".join(sorted(loading["missing_keys"])[:3])
            raise UsageError(f"its weights lack {len(loading['missing_keys'])} tensors, among them {some}")
        self.model = model


class UperNetNetwork(HubNetwork):
    """UPerNet with a transformers backbone; the stages are the backbone's maps."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        from transformers import UperNetConfig, UperNetForSemanticSegmentation

        if not config.get("backbone_config"):
            raise UsageError(
                f"the UPerNet's backbone '{config.get('backbone')}' is a name, must be a config: a name would be "
                "downloaded when the model is built"
            )
        self.model = UperNetForSemanticSegmentation(UperNetConfig.from_dict(config))

    def forward(self, images_b3hw: Tensor) -> Output:
        """The output; logits are at the head's stride, before upsampling."""
        stages = tuple(self.model.backbone(images_b3hw).feature_maps)
        if len(stages) != 4:
            raise UsageError(f"the UPerNet's backbone gives {len(stages)} maps, must give 4")
        with _Input(self.model.decode_head.classifier) as seen:
            logits = self.model.decode_head(stages)
        return Output(
            stages=cast("tuple[Tensor, Tensor, Tensor, Tensor]", stages), fused=seen.value, logits=logits
        )


class DPTNetwork(HubNetwork):
    """DPT with a plain vision transformer; the stages are the reassembled maps at strides 4, 8, 16 and 32."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        from transformers import DPTConfig, DPTForSemanticSegmentation

        if config.get("is_hybrid") or config.get("backbone_config"):
            raise UsageError(
                "the DPT has a backbone beside its vision transformer, must be plain; export it and use kind "
                "`export`"
            )
        self.model = DPTForSemanticSegmentation(DPTConfig.from_dict(config))

    def forward(self, images_b3hw: Tensor) -> Output:
        """The output; logits are at the head's stride, before the final twofold upsampling."""
        config = self.model.config
        tokens = self.model.dpt(images_b3hw, output_hidden_states=True).hidden_states[1:]
        chosen = [tokens[index] for index in config.backbone_out_indices]
        height, width = (side // config.patch_size for side in images_b3hw.shape[-2:])
        neck, head = self.model.neck, self.model.head.head
        stages = neck.reassemble_stage(chosen, height, width)
        fused_maps = neck.fusion_stage(
            [convolution(stage) for convolution, stage in zip(neck.convs, stages, strict=True)]
        )
        fused = head[:4](fused_maps[config.head_in_index])
        return Output(
            stages=cast("tuple[Tensor, Tensor, Tensor, Tensor]", tuple(stages)),
            fused=fused,
            logits=head[4](fused),
        )


class _Input:
    """Records a module's input while the `with` block runs."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module

    def __enter__(self) -> _Input:
        self._hook = self._module.register_forward_pre_hook(self._see)
        return self

    def __exit__(self, *exception: object) -> None:
        self._hook.remove()

    def _see(self, module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        self.value = arguments[0]


_NETWORKS: dict[str, Callable[[dict[str, Any]], HubNetwork]] = {"upernet": UperNetNetwork, "dpt": DPTNetwork}
