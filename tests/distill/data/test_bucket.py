"""A data set in a bucket is the one in a folder: same pictures, fetched once by a node, told in a sentence when not there."""

from __future__ import annotations

import multiprocessing
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from distill.data import (
    CityscapesConfig,
    FolderConfig,
    SegmentationDataset,
    VocConfig,
    build_dataset,
    check_dataset,
)
from distill.data.__main__ import main
from distill.data.bucket import BucketPath
from distill.data.config import AnyDataConfig
from distill.data.images import BrokenFileError
from distill.data.picture_cache import PictureCache
from distill.data.remote_copies import RemoteCopies, RemoteCopiesConfig
from distill.errors import UsageError
from orchestrator.planning.loader import load_sweep
from orchestrator.planning.plan import make_plan
from orchestrator.planning.planned_models import data_identity
from tests.distill.data.buckets import at, changed_later, read_train, remove, upload
from tests.distill.data.trees import write_cityscapes_tree, write_folder_tree, write_voc_tree
from tests.faults.stumbling_store import StumblingStore

PICTURES = 11 * 2
"""Files of pictures and masks in the folder tree."""


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of the test's own: copies are kept below it by default."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def copies(tmp_path: Path) -> RemoteCopiesConfig:
    return RemoteCopiesConfig(folder=str(tmp_path / "copies"))


def mine(root: Path | str, **options: object) -> FolderConfig:
    return FolderConfig.model_validate({"root": str(root), "classes": "classes.csv", **options})


def kept(copies: RemoteCopiesConfig) -> list[Path]:
    return sorted(copies.place.rglob("*.copy"))


def read_all(dataset: SegmentationDataset) -> list[bytes]:
    return [dataset[index].image_hw3.tobytes() for index in range(len(dataset))]


@pytest.mark.parametrize(
    ("write", "make"),
    [
        (write_folder_tree, mine),
        (write_cityscapes_tree, lambda root: CityscapesConfig.model_validate({"root": str(root)})),
        (write_voc_tree, lambda root: VocConfig.model_validate({"root": str(root)})),
    ],
)
def test_a_bucket_gives_the_samples_and_the_report_of_the_same_folder(
    s3_server: str,
    tmp_path: Path,
    copies: RemoteCopiesConfig,
    write: Callable[[Path], Path],
    make: Callable[[Path | str], AnyDataConfig],
) -> None:
    root = write(tmp_path / "tree")
    near, far = make(root), make(upload(s3_server, root))
    assert far.scored_images == near.scored_images
    for split in ("train", "tune", "test"):
        expected, found = build_dataset(near, split), build_dataset(far, split, copies=copies)  # type: ignore[arg-type]
        assert len(found) == len(expected) > 0
        for index in range(len(expected)):
            one, other = expected[index], found[index]
            assert one.key == other.key
            np.testing.assert_array_equal(one.image_hw3, other.image_hw3)
            np.testing.assert_array_equal(one.labels_hw, other.labels_hw)
    assert check_dataset(far, full=True, copies=copies) == check_dataset(near, full=True)


def test_a_bucket_is_listed_once_and_a_picture_fetched_once_whatever_becomes_of_it(
    s3_server: str, tmp_path: Path, copies: RemoteCopiesConfig
) -> None:
    upload(s3_server, write_folder_tree(tmp_path / "tree"))
    with StumblingStore(s3_server, share=0, seed=0) as proxy:
        config = mine(at(proxy.address))
        datasets = [build_dataset(config, split, copies=copies) for split in ("train", "tune", "test")]  # type: ignore[arg-type]
        listed = proxy.requests
        assert listed <= 2 + 3 * 2  # two folders, and a HEAD and a GET of the class table and of each list
        first = [read_all(dataset) for dataset in datasets]
        assert proxy.requests == listed + PICTURES * 2
        remove(s3_server)
        assert [read_all(dataset) for dataset in pickle.loads(pickle.dumps(datasets))] == first
        assert proxy.requests == listed + PICTURES * 2
    assert len(kept(copies)) == PICTURES


def test_a_changed_object_is_fetched_anew_and_one_changed_under_a_reader_is_broken(
    s3_server: str, tmp_path: Path, copies: RemoteCopiesConfig
) -> None:
    root = write_folder_tree(tmp_path / "tree")
    address = upload(s3_server, root)
    before = build_dataset(mine(address), "test", copies=copies)
    old = before[0].image_hw3.copy()
    one, other = (root / f"images/clip0/test{number}" for number in (0, 1))
    size = one.with_suffix(".jpg").stat().st_size
    cv2.imwrite(str(one.with_suffix(".jpg")), 255 - old[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 50])
    one.with_suffix(".jpg").write_bytes(one.with_suffix(".jpg").read_bytes().ljust(size, b"\0"))
    upload(s3_server, root)
    assert one.with_suffix(".jpg").stat().st_size == size
    changed_later("data/images/clip0/test0.jpg")
    assert (before[0].image_hw3 == old).all()
    after = build_dataset(mine(address), "test", copies=copies)
    assert (after[0].image_hw3 == build_dataset(mine(root), "test")[0].image_hw3).all()
    assert not (after[0].image_hw3 == old).all()
    other.with_suffix(".png").write_bytes(one.with_suffix(".jpg").read_bytes() + b"more")
    upload(s3_server, root)
    with pytest.raises(
        BrokenFileError, match=r"runs/data/images/clip0/test1.png cannot be read: it has \d+ bytes"
    ):
        before[1]


def test_an_object_deleted_in_the_meantime_is_a_broken_picture(
    s3_server: str, tmp_path: Path, copies: RemoteCopiesConfig
) -> None:
    dataset = build_dataset(
        mine(upload(s3_server, write_folder_tree(tmp_path / "tree"))), "test", copies=copies
    )
    remove(s3_server, "images/clip0/test0.jpg")
    with pytest.raises(
        BrokenFileError, match=r"^s3://runs/data/images/clip0/test0.jpg cannot be read: it is not in"
    ):
        dataset[0]
    assert dataset[1].key == "clip0/test1"


def test_copies_keep_to_their_limit_and_what_does_not_fit_is_fetched_again(
    s3_server: str, tmp_path: Path
) -> None:
    root = write_folder_tree(tmp_path / "tree")
    address = upload(s3_server, root)
    sizes = [path.stat().st_size for folder in ("images", "masks") for path in (root / folder).rglob("*.*")]
    limit = sum(sizes) // 2
    copies = RemoteCopiesConfig(folder=str(tmp_path / "copies"), gigabytes=limit / 1e9)
    dataset = build_dataset(mine(address), "train", copies=copies, protocol="paper")
    expected = read_all(build_dataset(mine(root), "train", protocol="paper"))
    for index in range(len(dataset)):
        assert dataset[index].image_hw3.tobytes() == expected[index]
        assert 0 < sum(path.stat().st_size for path in kept(copies)) <= limit
    assert read_all(dataset) == expected
    nothing = RemoteCopiesConfig(folder=str(tmp_path / "small"), gigabytes=1e-9)
    assert read_all(build_dataset(mine(address), "train", copies=nothing, protocol="paper")) == expected
    assert not kept(nothing)


def test_what_was_longest_unused_makes_room(tmp_path: Path) -> None:
    copies = RemoteCopies(RemoteCopiesConfig(folder=str(tmp_path), gigabytes=1000 / 1e9))
    names = [f"{number:032x}" for number in range(11)]
    for name in names[:10]:
        copies.open(name, 100, lambda: bytes(100))
    paths = {path.stem: path for path in kept(copies.config)}
    for age, name in enumerate(names[:10]):
        os.utime(paths[name], (age + 1, age + 1))
    copies.open(names[0], 100, lambda: pytest.fail("it is there")).close()
    copies.open(names[10], 100, lambda: bytes(100))
    assert [path.stem for path in kept(copies.config)] == [names[0], *names[2:]]


@pytest.mark.slow
def test_two_processes_of_a_node_fetch_a_picture_once(
    s3_server: str, tmp_path: Path, copies: RemoteCopiesConfig
) -> None:
    upload(s3_server, write_folder_tree(tmp_path / "tree"))
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(2)
    with StumblingStore(s3_server, share=0, seed=0) as proxy:
        arguments = (at(proxy.address), copies.folder, barrier)
        readers = [context.Process(target=read_train, args=arguments) for _ in range(2)]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join()
        assert [reader.exitcode for reader in readers] == [0, 0]
        fetches = 7 * 2 * 2  # a HEAD and a GET of each file
        assert proxy.requests - fetches <= 2 * (2 + 2 * 2)
    assert len(kept(copies)) == 7 * 2


def test_a_copy_that_was_cut_short_is_fetched_anew(
    s3_server: str, tmp_path: Path, copies: RemoteCopiesConfig
) -> None:
    dataset = build_dataset(
        mine(upload(s3_server, write_folder_tree(tmp_path / "tree"))), "test", copies=copies
    )
    expected = dataset[0].image_hw3.copy()
    for path in kept(copies):
        os.truncate(path, 10)
    assert (dataset[0].image_hw3 == expected).all()
    assert all(path.stat().st_size > 10 for path in kept(copies))


def test_decoded_pictures_of_a_bucket_are_kept_as_those_of_a_folder(
    s3_server: str, tmp_path: Path, copies: RemoteCopiesConfig
) -> None:
    address = upload(s3_server, write_folder_tree(tmp_path / "tree"))
    cache = PictureCache(tmp_path / "cache", 10**7)
    dataset = build_dataset(mine(address), "test", cache=cache, copies=copies)
    first = read_all(dataset)
    remove(s3_server)
    for path in kept(copies):
        path.unlink()
    assert read_all(dataset) == first


def test_a_store_that_stumbles_is_asked_again(
    s3_server: str, tmp_path: Path, copies: RemoteCopiesConfig
) -> None:
    root = write_folder_tree(tmp_path / "tree", train=4, test=2)
    upload(s3_server, root)
    with StumblingStore(s3_server, share=0.2, seed=3) as proxy:
        dataset = build_dataset(mine(at(proxy.address)), "test", copies=copies)
        assert read_all(dataset) == read_all(build_dataset(mine(root), "test"))
        assert sum(proxy.faults.values()) > 0


def test_a_quick_check_fetches_what_is_scored_and_a_sample_and_a_full_one_fills_the_folder(
    s3_server: str, tmp_path: Path, copies: RemoteCopiesConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("distill.data.check.SAMPLE", 3)
    address = upload(s3_server, write_folder_tree(tmp_path / "tree"))
    report = check_dataset(mine(address), copies=copies)
    assert sum(report.images.values()) - report.images["train (teacher)"] == 11
    scored = report.images["tune"] + report.images["test"]
    assert sum(report.sizes.values()) == scored + 3
    assert "7 of 11 label maps, and no other file was fetched" in report.coverage
    assert len(kept(copies)) == (scored + 3) * 2
    assert sum(check_dataset(mine(address), full=True, copies=copies).sizes.values()) == 11
    assert len(kept(copies)) == PICTURES


@pytest.mark.parametrize("classes", ["classes.csv", ["a", "b"]])
def test_a_bucket_that_is_not_there_is_one_sentence_of_the_check(
    s3_server: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], classes: object
) -> None:
    file = tmp_path / "mine.yaml"
    root = at(s3_server, bucket="nowhere").replace("s3://", "s3://k:planted-secret@")
    file.write_text(yaml.safe_dump({"data": {"mine": {"kind": "folder", "root": root, "classes": classes}}}))
    assert main(["check", str(file)]) == 2
    told = capsys.readouterr().err
    assert "s3://nowhere/data" in told
    assert "planted-secret" not in told
    if classes == "classes.csv":
        assert "classes.csv" in told
    else:
        assert "is refused by its store" in told
        assert "check bucket, region and credentials" in told


def test_a_store_that_failed_is_not_asked_again_folder_by_folder(
    s3_server: str, copies: RemoteCopiesConfig
) -> None:
    with StumblingStore(s3_server, share=0, seed=0) as proxy:
        config = VocConfig.model_validate({"root": at(proxy.address, bucket="nowhere")})
        with pytest.raises(
            UsageError, match=r"^s3://nowhere/data/JPEGImages is refused by its store [^\n]*$"
        ):
            check_dataset(config, copies=copies)
        assert proxy.requests == 1


def test_a_folder_or_picture_that_is_missing_is_named_with_what_lies_beside_it(
    s3_server: str, tmp_path: Path, copies: RemoteCopiesConfig
) -> None:
    address = upload(s3_server, write_folder_tree(tmp_path / "tree"))
    with pytest.raises(
        UsageError,
        match=r"folder s3://runs/data/pictures does not exist; s3://runs/data holds classes.csv, im",
    ):
        build_dataset(mine(address, images="pictures"), "train", copies=copies)
    with pytest.raises(UsageError, match=r"folder s3://runs/dta does not exist; s3://runs holds data"):
        build_dataset(mine(at(s3_server, "dta"), classes=["a", "b"]), "train", copies=copies)
    remove(s3_server, "masks/clip0/test0.png")
    with pytest.raises(
        UsageError, match=r"'clip0/test0' in line 1: s3://runs/data/masks/clip0/test0.png is missing"
    ):
        build_dataset(mine(address), "test", copies=copies)


def test_a_folder_that_cannot_hold_copies_is_a_sentence(s3_server: str, tmp_path: Path) -> None:
    address = upload(s3_server, write_folder_tree(tmp_path / "tree"))
    dataset = build_dataset(mine(address), "test", copies=RemoteCopiesConfig(folder="/proc/nothing"))
    with pytest.raises(
        UsageError, match=r"cannot be stored in /proc/nothing .*set operation.remote_copies.folder"
    ):
        dataset[0]


def test_the_check_keeps_copies_where_the_sweep_file_says(
    s3_server: str, tmp_path: Path, copies: RemoteCopiesConfig, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    address = upload(s3_server, write_folder_tree(tmp_path / "tree"))
    data = {"data": {"mine": {"kind": "folder", "root": address, "classes": "classes.csv"}}}
    file = tmp_path / "sweep.yaml"
    file.write_text(yaml.safe_dump({**data, "operation": {"remote_copies": {"folder": copies.folder}}}))
    assert main(["check", str(file), "--full"]) == 0
    assert len(kept(copies)) == PICTURES
    assert not home.exists()
    file.write_text(yaml.safe_dump({**data, "operation": {"remote_copies": {"foldr": copies.folder}}}))
    assert main(["check", str(file)]) == 2
    assert (
        "operation.remote_copies.foldr: Extra inputs are not permitted; did you mean folder?"
        in capsys.readouterr().err
    )
    file.write_text(yaml.safe_dump({**data, "operation": {"copies": {"folder": copies.folder}}}))
    assert main(["check", str(file)]) == 2
    assert "'operation.copies' is called 'operation.remote_copies' now" in capsys.readouterr().err
    file.write_text(yaml.safe_dump(data))
    assert main(["check", str(file)]) == 0
    assert list((home / ".cache/heteroakd/pictures").rglob("*.copy"))


def test_neither_address_nor_folder_of_copies_is_part_of_a_trial(tmp_path: Path) -> None:
    def config(root: str, folder: str) -> object:
        return load_sweep(
            "smoke",
            [
                f"data.scenes={{kind: camvid, root: '{root}'}}",
                f"operation.remote_copies={{folder: '{folder}', gigabytes: 1}}",
            ],
        )

    one, other = config("/data/camvid", "/a"), config("s3://k:planted@bucket/camvid?region=x", "/b")
    assert data_identity(one, "scenes") == data_identity(other, "scenes")  # type: ignore[arg-type]
    studies = [[study.study_id for study in make_plan(found).studies] for found in (one, other)]  # type: ignore[arg-type]
    assert studies[0] == studies[1]
    dumped = other.model_dump(mode="json")["data"]["scenes"]["root"]  # type: ignore[attr-defined]
    assert dumped == "s3://k:planted@bucket/camvid?region=x"
    assert "planted" not in repr(other)


def test_an_address_is_shown_and_walked_as_a_path_without_credentials_and_options() -> None:
    root = BucketPath("s3://k:hid/den@bucket/a/b/?region=x&secret_key=planted")
    assert str(root) == "s3://bucket/a/b"
    assert str(root / "c" / "../d.png") == "s3://bucket/a/b/d.png"
    above = BucketPath("s3://k:secret@bucket/a/b?region=x").parent.parent
    assert str(above) == str(above.parent) == "s3://bucket"
    assert above.address == "s3://k:secret@bucket?region=x"
    assert (root / "c").address == "s3://k:hid/den@bucket/a/b/c?region=x&secret_key=planted"
    assert "den" not in root.as_uri()
    assert "planted" not in root.as_uri() + repr(root)
    assert root == pickle.loads(pickle.dumps(root))
    assert FolderConfig.model_validate({"root": "file:///a%20b", "classes": ["a", "b"]}).root == Path("/a b")
