"""The layouts of weight files that are read, for backbones and teachers alike: keys, prefixes and names of tensors."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor

from distill.models.mit import MIX_TRANSFORMER, mit_encoder, rename
from distill.normalisation import IMAGENET, Normalisation

State = dict[str, Tensor]
Translate = Callable[[Mapping[str, Tensor], Collection[str]], State]
"""Gives tensors timm's names; the second argument has the names that the backbone wants."""

NESTS = (
    "state_dict", "model_state_dict", "model_state", "model", "module", "net", "network", "weights", "params",
    "state_dict_ema", "model_ema", "ema_state_dict", "ema", "params_ema",
)  # fmt: skip
"""Keys under which training programs save a state dict. A file with several of them is read by the key that is given."""

WRAPPERS = ("module.", "_orig_mod.", "model.", "net.", "network.", "student.")
"""Prefixes that a wrapper (DataParallel, torch.compile, Lightning, averaged weights) gives to every tensor."""

PARTS = ("backbone.", "encoder.", "trunk.", "body.")
"""Prefixes of the backbone in a larger network."""

COMPUTED = (
    "relative_position_index",
    "relative_coords_table",
    "attn_mask",
    "k_bias",
    "num_batches_tracked",
    "n_averaged",
)
"""Last parts of the names of tensors that are computed by their module or only counted; none of them is a weight."""


@dataclass(frozen=True)
class Vocabulary:
    """Names that another program gives to the tensors of a timm network.

    Attributes:
        name: for messages and provenance.
        mark: a pattern that at least one name of such a file matches.
        translate: from the file's tensors and the network's names to tensors with timm's names.
        normalisation: what that program trains all its networks with; None if they differ, as timm's do.
    """

    name: str
    mark: str
    translate: Translate
    normalisation: Normalisation | None = IMAGENET

    def recognises(self, names: Collection[str]) -> bool:
        """Whether a file with these names is of this vocabulary."""
        return any(re.search(self.mark, name) for name in names)


def is_computed(name: str) -> bool:
    """Whether a tensor of this name is computed or counted, so that it is no weight."""
    return name.rpartition(".")[2] in COMPUTED


def unwrapped(state: Mapping[str, Tensor]) -> State:
    """The tensors without the prefixes that all of them have, and without the counter of averaged weights."""
    names = {name: name for name in state if name != "n_averaged"}
    while prefix := next((p for p in WRAPPERS if names and all(n.startswith(p) for n in names.values())), ""):
        names = {name: short.removeprefix(prefix) for name, short in names.items()}
    return {short: state[name] for name, short in names.items()}


def views(state: Mapping[str, Tensor]) -> list[tuple[str, State]]:
    """The ways to find a backbone in a file: the prefix of each, and its tensors without it. The first is all tensors."""
    found = [("", unwrapped(state))]
    for prefix, seen in found:  # grows: a part can be in a part
        for part in PARTS:
            inside = {n.removeprefix(part): tensor for n, tensor in seen.items() if n.startswith(part)}
            if inside and prefix.count(".") < 3:
                found.append((prefix + part, unwrapped(inside)))
    return found


def vocabularies(names: Collection[str]) -> list[Vocabulary]:
    """The vocabularies that a file with these names may be of; timm's own is always among them, last."""
    return [*(one for one in VOCABULARIES if one.recognises(names)), TIMM]


def resemblance(names: Collection[str]) -> str:
    """What a file that is not read looks like, for messages; empty if it looks like nothing known."""
    found = next((what for mark, what in _UNREAD if any(re.search(mark, name) for name in names)), "")
    return f"; it looks like {found}" if found else ""


def plain_name(name: str, wanted: Collection[str]) -> str:
    """The name in timm's whole network of a tensor of its feature extractor.

    A feature extractor joins the first two parts of some names, as in `stages_0.blocks`, or starts them with `model.`.
    """
    name = name.removeprefix("model.")
    joints = (found.start() for found in re.finditer("_", name.partition(".")[0]))
    split = (f"{name[:joint]}.{name[joint + 1 :]}" for joint in joints)
    return name if name in wanted else next((candidate for candidate in split if candidate in wanted), name)


def _same(state: Mapping[str, Tensor], wanted: Collection[str]) -> State:
    return dict(state)


def _ours(state: Mapping[str, Tensor], wanted: Collection[str]) -> State:
    return {plain_name(name, wanted): tensor for name, tensor in state.items()}


def _by(*rules: tuple[str, str]) -> Translate:
    def translate(state: Mapping[str, Tensor], wanted: Collection[str]) -> State:
        return {rename(name, rules): tensor for name, tensor in state.items()}

    return translate


def _mobile(*rules: tuple[str, str]) -> Translate:
    """Rules for networks of inverted residuals: from their names to the steps of a block, then to timm's names.

    The rules give `<block>|step.rest` for a tensor of a block. The blocks of the file are timm's in the same order.
    """

    def translate(state: Mapping[str, Tensor], wanted: Collection[str]) -> State:
        neutral = {rename(name, rules): tensor for name, tensor in state.items()}
        places = sorted({place for name in neutral if (place := _place(name)) is not None})
        blocks = sorted(
            {
                tuple(map(int, found.groups()))
                for n in wanted
                if (found := re.match(r"blocks\.(\d+)\.(\d+)\.", n))
            }
        )
        target = {
            place: f"blocks.{stage}.{index}." for place, (stage, index) in zip(places, blocks, strict=False)
        }
        renamed = {}
        for name, tensor in neutral.items():
            place = _place(name)
            if place in target:
                block, inside = target[place], name.partition("|")[2]
                steps = _EXPANDED if f"{block}conv_pwl.weight" in wanted else _NARROW
                step, _, rest = inside.partition(".")
                renamed[f"{block}{steps[step]}.{rest}"] = tensor
            else:
                renamed[name] = tensor
        return renamed

    return translate


def _place(name: str) -> tuple[int, ...] | None:
    found = re.match(r"<([\d.]+)>\|", name)
    return tuple(map(int, found[1].split("."))) if found else None


def _convnext(state: Mapping[str, Tensor], wanted: Collection[str]) -> State:
    renamed = {}
    for name, tensor in state.items():
        found = re.match(r"features\.([1-7])\.(\d+)\.(.*)", name)
        if found is None:
            renamed[rename(name, _CONVNEXT_ENDS)] = tensor
            continue
        place, index, rest = int(found[1]), found[2], found[3]
        if place % 2:
            tensor = tensor.flatten() if rest == "layer_scale" else tensor
            renamed[f"stages.{place // 2}.blocks.{index}.{rename(rest, _CONVNEXT_BLOCK)}"] = tensor
        else:
            renamed[f"stages.{place // 2}.downsample.{index}.{rest}"] = tensor
    return renamed


_NARROW = {
    "depthwise": "conv_dw", "depthwise_norm": "bn1", "reduce": "se.conv_reduce", "widen": "se.conv_expand",
    "project": "conv_pw", "project_norm": "bn2",
}  # fmt: skip
_EXPANDED = {
    "expand": "conv_pw", "expand_norm": "bn1", "depthwise": "conv_dw", "depthwise_norm": "bn2",
    "reduce": "se.conv_reduce", "widen": "se.conv_expand", "project": "conv_pwl", "project_norm": "bn3",
}  # fmt: skip
_CONVNEXT_ENDS = (
    (r"^features\.0\.", r"stem."),
    (r"^classifier\.0\.", r"head.norm."),
    (r"^classifier\.2\.", r"head.fc."),
)
_CONVNEXT_BLOCK = (
    (r"^block\.0\.", r"conv_dw."),
    (r"^block\.2\.", r"norm."),
    (r"^block\.3\.", r"mlp.fc1."),
    (r"^block\.5\.", r"mlp.fc2."),
    (r"^layer_scale$", r"gamma"),
)
_FEATURES_ENDS = (
    (r"^features\.0\.0\.", r"conv_stem."),
    (r"^features\.0\.1\.", r"bn1."),
    (r"^classifier\.1\.", r"classifier."),
)

_EXPANDED_PARTS = ("expand", "expand_norm", "depthwise", "depthwise_norm", "project", "project_norm")


def _mobilenetv2(first: tuple[str, ...], others: tuple[str, ...]) -> Translate:
    """Rename a MobileNetV2 whose blocks are `features.N.conv`.

    Args:
        first: places of the parts of the first block, which has no expansion, from depthwise to the norm of the projection.
        others: places of the parts of all other blocks, in the order of `_EXPANDED_PARTS`.
    """

    def block(
        number: str, target: str, places: tuple[str, ...], parts: tuple[str, ...]
    ) -> Iterator[tuple[str, str]]:
        for place, part in zip(places, parts, strict=True):
            yield rf"^features\.{number}\.conv\.{re.escape(place)}\.", rf"<{target}>|{part}."

    return _mobile(
        *_FEATURES_ENDS,
        (r"^features\.18\.0\.", r"conv_head."),
        (r"^features\.18\.1\.", r"bn2."),
        *block("1", "1", first, _EXPANDED_PARTS[2:]),
        *block(r"(\d+)", r"\1", others, _EXPANDED_PARTS),
    )


TIMM = Vocabulary("timm", r"", _same, normalisation=None)

VOCABULARIES = (
    Vocabulary("this program's", r"^[a-z]+_\d+\.", _ours),
    Vocabulary("transformers' SegFormer", MIX_TRANSFORMER, lambda state, wanted: mit_encoder(state)),
    Vocabulary(
        "lukemelas' EfficientNet",
        r"^_conv_stem\.",
        _mobile(
            (r"^_conv_stem\.", r"conv_stem."),
            (r"^_bn0\.", r"bn1."),
            (r"^_conv_head\.", r"conv_head."),
            (r"^_bn1\.", r"bn2."),
            (r"^_fc\.", r"classifier."),
            (r"^_blocks\.(\d+)\._expand_conv\.", r"<\1>|expand."),
            (r"^_blocks\.(\d+)\._bn0\.", r"<\1>|expand_norm."),
            (r"^_blocks\.(\d+)\._depthwise_conv\.", r"<\1>|depthwise."),
            (r"^_blocks\.(\d+)\._bn1\.", r"<\1>|depthwise_norm."),
            (r"^_blocks\.(\d+)\._se_reduce\.", r"<\1>|reduce."),
            (r"^_blocks\.(\d+)\._se_expand\.", r"<\1>|widen."),
            (r"^_blocks\.(\d+)\._project_conv\.", r"<\1>|project."),
            (r"^_blocks\.(\d+)\._bn2\.", r"<\1>|project_norm."),
        ),
        normalisation=None,
    ),
    Vocabulary(
        "torchvision's MobileNetV2",
        r"^features\.1\.conv\.0\.0\.",
        _mobilenetv2(("0.0", "0.1", "1", "2"), ("0.0", "0.1", "1.0", "1.1", "2", "3")),
    ),
    Vocabulary(
        "tonylins' MobileNetV2",
        r"^features\.1\.conv\.3\.",
        _mobilenetv2(("0", "1", "3", "4"), ("0", "1", "3", "4", "6", "7")),
    ),
    Vocabulary(
        "torchvision's EfficientNet",
        r"^features\.1\.0\.block\.0\.0\.",
        _mobile(
            *_FEATURES_ENDS,
            (r"^features\.8\.0\.", r"conv_head."),
            (r"^features\.8\.1\.", r"bn2."),
            (r"^features\.1\.(\d+)\.block\.0\.0\.", r"<1.\1>|depthwise."),
            (r"^features\.1\.(\d+)\.block\.0\.1\.", r"<1.\1>|depthwise_norm."),
            (r"^features\.1\.(\d+)\.block\.1\.fc1\.", r"<1.\1>|reduce."),
            (r"^features\.1\.(\d+)\.block\.1\.fc2\.", r"<1.\1>|widen."),
            (r"^features\.1\.(\d+)\.block\.2\.0\.", r"<1.\1>|project."),
            (r"^features\.1\.(\d+)\.block\.2\.1\.", r"<1.\1>|project_norm."),
            (r"^features\.(\d+)\.(\d+)\.block\.0\.0\.", r"<\1.\2>|expand."),
            (r"^features\.(\d+)\.(\d+)\.block\.0\.1\.", r"<\1.\2>|expand_norm."),
            (r"^features\.(\d+)\.(\d+)\.block\.1\.0\.", r"<\1.\2>|depthwise."),
            (r"^features\.(\d+)\.(\d+)\.block\.1\.1\.", r"<\1.\2>|depthwise_norm."),
            (r"^features\.(\d+)\.(\d+)\.block\.2\.fc1\.", r"<\1.\2>|reduce."),
            (r"^features\.(\d+)\.(\d+)\.block\.2\.fc2\.", r"<\1.\2>|widen."),
            (r"^features\.(\d+)\.(\d+)\.block\.3\.0\.", r"<\1.\2>|project."),
            (r"^features\.(\d+)\.(\d+)\.block\.3\.1\.", r"<\1.\2>|project_norm."),
        ),
    ),
    Vocabulary("torchvision's ConvNeXt", r"^features\.1\.0\.layer_scale$", _convnext),
    Vocabulary(
        "torchvision's ViT",
        r"^encoder\.layers\.encoder_layer_0\.",
        _by(
            (r"^conv_proj\.", r"patch_embed.proj."),
            (r"^class_token$", r"cls_token"),
            (r"^encoder\.pos_embedding$", r"pos_embed"),
            (r"^encoder\.ln\.", r"norm."),
            (r"^heads\.head\.", r"head."),
            (r"^encoder\.layers\.encoder_layer_(\d+)\.", r"blocks.\1."),
            (r"\.ln_([12])\.", r".norm\1."),
            (r"\.self_attention\.in_proj_", r".attn.qkv."),
            (r"\.self_attention\.out_proj\.", r".attn.proj."),
            (r"\.mlp\.(?:linear_1|0)\.", r".mlp.fc1."),
            (r"\.mlp\.(?:linear_2|3)\.", r".mlp.fc2."),
        ),
    ),
)
"""The vocabularies that are translated to timm's. torchvision's ResNets have timm's names."""

VAINF = "classifier.classifier."
"""Prefix of the head of VainF's DeepLabV3, where torchvision has `classifier.`."""

_UNREAD = (
    (r"^classifier\.(classifier|aspp)\.", "VainF's DeepLab, whose backbone is read but not its head"),
    (r"^features\.1\.block\.0\.0\.", "torchvision's MobileNetV3, which differs from timm's"),
    (r"^features\.1\.0\.attn\.qkv", "torchvision's Swin; take timm's file"),
    (r"^features\.denseblock1\.", "torchvision's DenseNet"),
    (
        r"^(decode_head|auxiliary_head)\.",
        "a network of OpenMMLab; save its backbone alone, with timm's names",
    ),
    (r"^encoder\.layer\.0\.attention\.attention\.", "a vision transformer of transformers; take timm's file"),
    (r"^resnet\.encoder\.stages\.", "a ResNet of transformers; take timm's file"),
    (r"^stem\.conv1\.norm\.", "a backbone of Detectron2"),
)
