"""What timm's pretrained weights were trained with."""

from __future__ import annotations

from distill.normalisation import IMAGENET, Normalisation, normalisation_of


def timm_normalisation(timm_name: str) -> Normalisation:
    """The normalisation of the pictures that timm's weights of a network were trained with."""
    from timm.models import get_pretrained_cfg

    config = get_pretrained_cfg(timm_name)
    assert config is not None  # every architecture of timm has one
    return normalisation_of((config.mean, config.std))


def with_own_normalisation() -> list[str]:
    """Networks of timm, with and without a weights tag, whose weights were trained with another one than ImageNet's."""
    import timm

    names = {*timm.list_models(), *timm.list_pretrained()}
    return sorted(name for name in names if timm_normalisation(name) != IMAGENET)
