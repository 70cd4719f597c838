"""The names of pairs on pages and terminals: short, and never the same for two pairs."""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import given

from orchestrator.planning.config import PairConfig
from orchestrator.planning.pair_names import NamedPair, short_names_of, short_pair_names

MODEL = st.one_of(
    st.builds(
        "".join,
        st.tuples(
            st.sampled_from(["", "deeplabv3-", "segformer-", "a-b-"]),
            st.sampled_from(["", "tf_", "efficientnet_", "tf_efficientnet_"]),
            st.sampled_from(["lite0", "resnet18", "vit_tiny", "mobilenetv2", "_to_", ""]),
            st.sampled_from(["", "_100", "_140", "_patch16_224", "_patch16", "_050"]),
            st.sampled_from(["", ".in1k", ".a_in21k"]),
        ),
    ),
    st.text(max_size=6),
)
PAIR = st.one_of(
    st.builds(lambda teacher, student: NamedPair(f"{teacher}_to_{student}", teacher, student), MODEL, MODEL),
    st.builds(NamedPair, st.text(max_size=6), MODEL, MODEL),
)


@given(st.lists(PAIR, max_size=8))
def test_two_pairs_never_have_the_same_name_and_the_order_of_the_pairs_does_not_matter(
    pairs: list[NamedPair],
) -> None:
    names = short_pair_names(pairs)
    assert names.keys() == {pair.name for pair in pairs}
    assert len(set(names.values())) == len(names)
    assert short_pair_names(reversed(pairs)) == names
    for pair in pairs:
        assert names[pair.name] == pair.name or (pair.is_default and len(names[pair.name]) < len(pair.name))


def shown(*models: tuple[str, str]) -> list[str]:
    pairs = [NamedPair(f"{teacher}_to_{student}", teacher, student) for teacher, student in models]
    return list(short_pair_names(pairs).values())


def test_a_name_has_no_head_and_nothing_of_timm_that_does_not_tell_models_apart() -> None:
    lite, resnet = "deeplabv3-tf_efficientnet_lite0", "segformer-test_resnet"
    assert shown((lite, resnet)) == ["lite0 → test_resnet"]
    vit, wide = "upernet-vit_tiny_patch16_224.augreg_in21k", "deeplabv3-mobilenetv2_100"
    assert shown((vit, wide)) == ["vit_tiny → mobilenetv2"]


def test_what_tells_two_models_apart_stays() -> None:
    narrow, wide = "deeplabv3-mobilenetv2_100", "deeplabv3-mobilenetv2_140"
    assert shown((wide, narrow)) == ["mobilenetv2_140 → mobilenetv2_100"]
    deeplab, pspnet, teacher = "deeplabv3-resnet18", "pspnet-resnet18", "segformer-mit_b4"
    assert shown((teacher, deeplab), (teacher, pspnet)) == [
        "mit_b4 → deeplabv3-resnet18",
        "mit_b4 → pspnet-resnet18",
    ]


def test_a_name_that_the_sweep_file_gives_is_kept() -> None:
    teacher = {"model": "segformer-mit_b4", "recipe": "r"}
    student = {"model": "deeplabv3-resnet18", "recipe": "r"}
    pairs = [
        PairConfig.model_validate({"teacher": teacher, "student": student, "data": "d", **name})
        for name in ({}, {"name": "down"}, {"name": "segformer-mit_b4_to_other"})
    ]
    assert short_names_of(pairs) == {
        "segformer-mit_b4_to_deeplabv3-resnet18": "mit_b4 → resnet18",
        "down": "down",
        "segformer-mit_b4_to_other": "segformer-mit_b4_to_other",
    }
