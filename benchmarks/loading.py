"""Crops per second and core out of 1024×2048 PNGs: `python benchmarks/loading.py`.

Three pipelines give batches of the same pictures: torchvision's v2 transforms as its segmentation reference chains them,
albumentations' transforms as its documentation chains them, and `distill.data.stream` with its cache of decoded pictures.
They take turns, each in this process on one thread; a round is an epoch of each. What is counted is the processor time
of an epoch (user and system), so that other work on the machine disturbs little. All pictures lie in the page cache,
those of the decoded cache in memory. Prints a table: median over the rounds, smallest and largest.

The two others hand out normalised floats. The stream hands out bytes, which the device normalises; its rows "on the
CPU" count that as well.
"""

from __future__ import annotations

import os

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import albumentations as A
import cv2
import numpy as np
import torch
from albumentations.pytorch import ToTensorV2
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2

from distill.data import (
    AugmentationConfig,
    CityscapesConfig,
    ScenesConfig,
    SegmentationDataset,
    build_dataset,
)
from distill.data.layout import Pair
from distill.data.layouts.cityscapes import LABEL_CLASSES
from distill.data.picture_cache import PictureCache
from distill.data.scenes import draw_scene
from distill.data.stream import stream
from distill.normalisation import IMAGENET, normalise

SIZE, CROP, SCALE, BATCH = (1024, 2048), (512, 1024), (0.5, 2.0), 4
TRAIN_ID = np.full(256, 255, np.uint8)
TRAIN_ID[[label.value for label in LABEL_CLASSES]] = np.arange(len(LABEL_CLASSES))


def write_pictures(root: Path, count: int) -> None:
    """Generated scenes in Cityscapes' layout, blurred until a PNG takes about the 2 MB that Cityscapes' take.

    Label maps are written by Pillow with its defaults, as Cityscapes' own script (json2labelImg) writes them: the filter
    that an encoder chooses for a row decides how fast it is undone, by every decoder.
    """
    config = ScenesConfig(size=SIZE)
    values = np.array([label.value for label in LABEL_CLASSES], np.uint8)
    for split, cities in (("train", ("a", "b")), ("val", ("c",))):
        for city in cities:
            images, labels = (root / kind / split / city for kind in ("leftImg8bit", "gtFine"))
            images.mkdir(parents=True)
            labels.mkdir(parents=True)
            for number in range(count if city == "a" else 1):
                image_hw3, labels_hw = draw_scene(config, "train", number)
                blurred = cv2.GaussianBlur(image_hw3[..., ::-1], (0, 0), 1.5)
                cv2.imwrite(str(images / f"{number}_leftImg8bit.png"), blurred)
                Image.fromarray(values[labels_hw]).save(labels / f"{number}_gtFine_labelIds.png")


class TorchvisionPictures(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """PIL reads, v2 transforms: scale, flip, crop, to float, normalise."""

    def __init__(self, pairs: list[Pair]) -> None:
        self.pairs = pairs
        self.transform = v2.Compose([
            v2.RandomResize(int(SCALE[0] * SIZE[0]), int(SCALE[1] * SIZE[0]), antialias=True),
            v2.RandomHorizontalFlip(),
            v2.RandomCrop(CROP, pad_if_needed=True, fill={tv_tensors.Image: 0, tv_tensors.Mask: 255}),
            v2.ToDtype({tv_tensors.Image: torch.float32, tv_tensors.Mask: torch.int64, "others": None}, scale=True),
            v2.Normalize(*IMAGENET),
        ])  # fmt: skip

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        image = tv_tensors.Image(Image.open(self.pairs[index].image).convert("RGB"))
        labels = tv_tensors.Mask(torch.from_numpy(TRAIN_ID[np.asarray(Image.open(self.pairs[index].labels))]))
        return self.transform(image, labels)


class AlbumentationsPictures(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """OpenCV reads, albumentations transforms: scale, pad, crop, flip, normalise, to tensor."""

    def __init__(self, pairs: list[Pair]) -> None:
        self.pairs = pairs
        self.transform = A.Compose([
            A.RandomScale(scale_limit=(SCALE[0] - 1, SCALE[1] - 1), p=1.0),
            A.PadIfNeeded(*CROP, border_mode=cv2.BORDER_CONSTANT, fill=0, fill_mask=255),
            A.RandomCrop(*CROP),
            A.HorizontalFlip(p=0.5),
            A.Normalize(*IMAGENET),
            ToTensorV2(),
        ])  # fmt: skip

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        image = cv2.cvtColor(cv2.imread(str(self.pairs[index].image)), cv2.COLOR_BGR2RGB)
        labels = TRAIN_ID[cv2.imread(str(self.pairs[index].labels), cv2.IMREAD_UNCHANGED)]
        view = self.transform(image=image, mask=labels)
        return view["image"], view["mask"].long()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument(
        "--folder", type=Path, default=Path("/dev/shm"), help="where pictures and cache are written"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        write_pictures(Path(folder) / "data", options.pictures)
        rows = measure(Path(folder), options.rounds)
    reference, plain = rows["torchvision v2"], rows["albumentations"]
    print(f"| pipeline | crops per second and core | × torchvision v2 | × albumentations |\n|{' --- |' * 4}")
    for name, rates in rows.items():
        print(
            f"| {name} | {spread(rates, 1)} | {spread(ratios(rates, reference), 2)} | {spread(ratios(rates, plain), 2)} |"
        )


def measure(folder: Path, rounds: int) -> dict[str, list[float]]:
    """Pipeline → its rate in each round, all rounds side by side."""
    config = CityscapesConfig(root=folder / "data", tune_cities=("b",))
    pairs = build_dataset(config, "train").pairs  # type: ignore[attr-defined]
    loaders = {
        "torchvision v2": DataLoader(TorchvisionPictures(pairs), BATCH, shuffle=True),
        "albumentations": DataLoader(AlbumentationsPictures(pairs), BATCH, shuffle=True),
    }
    rows: dict[str, list[float]] = {}

    def note(name: str, run: Callable[[], None]) -> None:
        begun = time.process_time()
        run()
        rows.setdefault(name, []).append(len(pairs) / (time.process_time() - begun))

    for number in range(rounds + 1):
        for name, loader in loaders.items():
            note(name, lambda loader=loader: exhaust(iter(loader)))
        shutil.rmtree(folder / "cache", ignore_errors=True)
        for host in (False, True):
            place = ", normalised on the CPU" if host else ""
            cache = PictureCache(folder / "cache" / str(host), 10**11)
            decoding, caching = (
                our_epochs(
                    build_dataset(config, "train", cache=kept), number, len(pairs) // BATCH, normalised=host
                )
                for kept in (None, cache)
            )
            for epoch, epochs in (
                ("no cache", decoding),
                ("first epoch", caching),
                ("later epochs", caching),
            ):
                note(f"distill, {epoch}{place}", lambda epochs=epochs: exhaust(next(epochs)))
    return {name: rates[1:] for name, rates in rows.items()}  # the first round warms up


def our_epochs(
    dataset: SegmentationDataset, seed: int, per_epoch: int, *, normalised: bool
) -> Iterator[Iterator[object]]:
    """Epochs, each an iterator over its batches."""
    source = stream(dataset, AugmentationConfig(crop=CROP, scale=SCALE), batch_size=BATCH, seed=seed)
    while True:
        epoch = islice(source, per_epoch)
        yield ((normalise(b.images_b3hw), b.labels_bhw.long()) for b in epoch) if normalised else epoch


def exhaust(batches: Iterator[object]) -> None:
    for _ in batches:
        pass


def ratios(rates: list[float], others: list[float]) -> list[float]:
    return [rate / other for rate, other in zip(rates, others, strict=True)]


def spread(values: list[float], digits: int) -> str:
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


if __name__ == "__main__":
    main()
