"""Decoded pictures are kept as they were decoded, within the limit, for all processes."""

from __future__ import annotations

import contextlib
import os
import subprocess
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from distill.data import AugmentationConfig, FolderConfig, SegmentationDataset, build_dataset
from distill.data.images import BrokenFileError
from distill.data.picture_cache import PictureCache
from distill.data.stream import HostBatch, stream
from tests.distill.data.trees import write_folder_tree

PICTURE = 64 + 40 * 56 * 4
"""Bytes of one picture of the tree in the cache."""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_folder_tree(tmp_path / "data")


def dataset(root: Path, cache: PictureCache | None = None) -> SegmentationDataset:
    config = FolderConfig.model_validate({"root": root, "classes": "classes.csv"})
    return build_dataset(config, "train", cache=cache)


def draw(root: Path, cache: PictureCache | None, count: int, **options: int) -> list[HostBatch]:
    view = AugmentationConfig(crop=24, colour=0.2)
    return list(islice(stream(dataset(root, cache), view, batch_size=4, seed=3, **options), count))


def assert_same(left: list[HostBatch], right: list[HostBatch]) -> None:
    for one, other in zip(left, right, strict=True):
        assert one.step == other.step
        assert torch.equal(one.images_b3hw, other.images_b3hw)
        assert torch.equal(one.labels_bhw, other.labels_bhw)


def held(cache: PictureCache) -> int:
    """Bytes of its files. One that gets its name while we look is seen twice, or not at all."""
    sizes = {}
    for path in cache.folder.rglob("*.p*"):
        with contextlib.suppress(FileNotFoundError):
            found = path.stat()
            sizes[found.st_ino] = found.st_size
    return sum(sizes.values())


@pytest.mark.parametrize("pictures", [0, 3, 100])
def test_batches_are_the_same_bytes_whatever_of_them_is_cached(
    root: Path, tmp_path: Path, pictures: int
) -> None:
    cache = PictureCache(tmp_path / "cache", pictures * PICTURE)
    plain = draw(root, None, 6)
    assert_same(draw(root, cache, 6), plain)
    assert held(cache) == min(7, pictures) * PICTURE
    assert_same(draw(root, cache, 6), plain)
    assert_same(draw(root, cache, 2, start_step=4), plain[4:])


@pytest.mark.parametrize(("free", "kept"), [(100, 0), (101, 1), (103, 3)])
def test_a_cache_leaves_a_tenth_of_its_file_system_free(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, kept: int
) -> None:
    """The file system has room for 1000 pictures, and others have left room for so many."""
    cache = PictureCache(tmp_path / "cache", 10**9)
    plain = draw(root, None, 2)

    def statvfs(folder: Path) -> SimpleNamespace:
        return SimpleNamespace(f_frsize=PICTURE, f_blocks=1000, f_bavail=free - held(cache) // PICTURE)

    monkeypatch.setattr(os, "statvfs", statvfs)
    assert_same(draw(root, cache, 2), plain)
    assert held(cache) == kept * PICTURE


@pytest.mark.slow
def test_several_processes_fill_one_cache_up_to_its_limit(root: Path, tmp_path: Path) -> None:
    cache = PictureCache(tmp_path / "cache", 5 * PICTURE + PICTURE // 2)
    assert_same(draw(root, cache, 6, loader_workers=2), draw(root, None, 6))
    assert held(cache) <= cache.limit_bytes
    draw(root, cache, 6)
    assert held(cache) == 5 * PICTURE


def test_a_cached_picture_is_not_decoded_again_and_a_changed_file_is(root: Path, tmp_path: Path) -> None:
    cache = PictureCache(tmp_path / "cache", 10**6)
    pictures = dataset(root, cache)
    first = pictures[0].image_hw3.copy()
    assert pictures[1].image_hw3.any()
    image, other = (pair.image for pair in pictures.pairs[:2])  # type: ignore[attr-defined]
    known = image.stat()
    image.write_bytes(b"x" * known.st_size)
    os.utime(image, ns=(known.st_atime_ns, known.st_mtime_ns))
    assert (pictures[0].image_hw3 == first).all()
    other.write_bytes(b"x" * other.stat().st_size)
    with pytest.raises(BrokenFileError):
        pictures[1]


def test_a_cached_picture_cannot_be_written_to(root: Path, tmp_path: Path) -> None:
    pictures = dataset(root, PictureCache(tmp_path / "cache", 10**6))
    for _ in range(2):
        sample = pictures[0]
    with pytest.raises(ValueError, match="read-only"):
        sample.image_hw3[0] = 0


def test_a_cache_file_cut_short_is_written_anew(root: Path, tmp_path: Path) -> None:
    cache = PictureCache(tmp_path / "cache", 10**6)
    pictures = dataset(root, cache)
    expected = pictures[0].labels_hw.copy()
    (file,) = cache.folder.rglob("*.pixels")
    for size in (0, 30, 300):
        os.truncate(file, size)
        assert (pictures[0].labels_hw == expected).all()
        assert file.stat().st_size == PICTURE


def test_what_a_dead_process_began_to_write_makes_room_again(root: Path, tmp_path: Path) -> None:
    dead = subprocess.Popen(["true"])
    dead.wait()
    cache = PictureCache(tmp_path / "cache", 2 * PICTURE)
    cache.folder.mkdir()
    left, mine = (cache.folder / f"{pid}-{'0' * 32}.part" for pid in (dead.pid, os.getpid()))
    for part in (left, mine):
        part.write_bytes(bytes(PICTURE))
    pictures = dataset(root, cache)
    for index in range(3):
        pictures[index]
    assert not left.exists()
    assert mine.exists()
    assert len(list(cache.folder.rglob("*.pixels"))) == 1


def test_a_picture_that_an_older_reader_decoded_is_decoded_again_in_its_place(
    root: Path, tmp_path: Path
) -> None:
    cache = PictureCache(tmp_path / "cache", PICTURE)
    pictures = dataset(root, cache)
    plain = pictures[0].image_hw3.copy()
    (entry,) = cache.folder.rglob("*.pixels")
    entry.write_bytes(b"pixels-1" + entry.read_bytes()[8:64] + bytes(PICTURE - 64))
    cache = PictureCache(tmp_path / "cache", PICTURE)
    for _ in range(2):
        assert (dataset(root, cache)[0].image_hw3 == plain).all()
    assert entry.read_bytes()[:8] != b"pixels-1"
    assert held(cache) == PICTURE
