"""`python -m distill.data check`: what it counts, and what it finds."""

from __future__ import annotations

import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from distill.data import CityscapesConfig, ScenesConfig, check_dataset
from distill.data.__main__ import main
from distill.errors import UsageError
from tests.distill.data.trees import write_cityscapes_tree, write_folder_tree


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_cityscapes_tree(tmp_path)


def one(root: Path, kind: str, folder: str = "val") -> Path:
    return sorted((root / kind / folder).glob("*/*.png"))[0]


def test_a_good_tree_is_counted(root: Path) -> None:
    report = check_dataset(CityscapesConfig(root=root, student_images=2), full=True)
    assert report.images["train (student)"] == 2
    assert report.images["train (teacher)"] + report.images["tune"] == 9
    assert report.images["test"] == 5
    assert report.sizes == {(64, 128): 14}
    assert sum(report.decoded.values()) == 14
    assert sum(map(sum, report.pixels.values())) == 14 * 64 * 128
    assert any("terrain" in note for note in report.notes)


def test_generated_scenes_are_counted() -> None:
    report = check_dataset(ScenesConfig(size=32, train=5, teacher_train=7, tune=3, test=2))
    assert list(report.images.values()) == [5, 7, 3, 2]
    assert sum(report.pixels["train"]) == 7 * 32 * 32


@pytest.mark.parametrize("kind", ["leftImg8bit", "gtFine"])
def test_a_file_without_its_partner_is_named(root: Path, kind: str) -> None:
    gone = one(root, kind)
    gone.unlink()
    with pytest.raises(UsageError, match=f"1 .* of val have no .*{gone.name} is missing"):
        check_dataset(CityscapesConfig(root=root))


@pytest.mark.parametrize("content", [b"", b"<html>quota exceeded</html>"])
@pytest.mark.parametrize("kind", ["leftImg8bit", "gtFine"])
def test_a_file_that_is_no_image_is_named(root: Path, kind: str, content: bytes) -> None:
    broken = one(root, kind)
    broken.write_bytes(content)
    with pytest.raises(UsageError, match=f"{broken.name} is not a PNG"):
        check_dataset(CityscapesConfig(root=root))


def test_a_picture_cut_short_is_found_by_its_end(root: Path) -> None:
    broken = one(root, "leftImg8bit")
    broken.write_bytes(broken.read_bytes()[:-40])
    with pytest.raises(UsageError, match=f"{broken.name} ends too early"):
        check_dataset(CityscapesConfig(root=root))


@pytest.mark.parametrize("folder", ["train", "val"])
def test_a_picture_broken_in_the_middle_is_found_if_it_is_scored_and_by_a_full_check(
    root: Path, folder: str
) -> None:
    broken = one(root, "leftImg8bit", folder)
    content = broken.read_bytes()
    broken.write_bytes(content[:60] + b"\xff" * (len(content) - 80) + content[-20:])
    if folder == "train":
        check_dataset(CityscapesConfig(root=root, tune_cities=("ulm",)))
    with pytest.raises(UsageError, match=f"{broken.name} is not an image"):
        check_dataset(CityscapesConfig(root=root), full=folder == "train")


def test_a_label_outside_the_map_is_named_with_the_allowed_values(root: Path) -> None:
    wrong = one(root, "gtFine", "train")
    cv2.imwrite(str(wrong), np.full((64, 128), 77, np.uint8))
    with pytest.raises(UsageError, match=f"{wrong.name} holds label 77, must be from 0 to 33"):
        check_dataset(CityscapesConfig(root=root))


def test_a_coloured_label_map_is_told_apart_from_label_ids(root: Path) -> None:
    wrong = one(root, "gtFine")
    cv2.imwrite(str(wrong), np.zeros((64, 128, 3), np.uint8))
    with pytest.raises(UsageError, match=f"{wrong.name} has 3 channels, must be a grey label map"):
        check_dataset(CityscapesConfig(root=root))


def test_sizes_that_differ_are_found_from_the_headers(root: Path) -> None:
    wrong = one(root, "gtFine")
    cv2.imwrite(str(wrong), np.zeros((32, 64), np.uint8))
    with pytest.raises(UsageError, match=r"is 64×128 and .* is 32×64, must be of one size"):
        check_dataset(CityscapesConfig(root=root))


def test_all_problems_are_told_at_once(root: Path) -> None:
    one(root, "gtFine").unlink()
    one(root, "leftImg8bit", "train").write_bytes(b"")
    with pytest.raises(UsageError, match=r"2 problems under (.|\n)*is missing(.|\n)*is not a PNG"):
        check_dataset(CityscapesConfig(root=root))


def run(tmp_path: Path, text: str, *options: str) -> int:
    config = tmp_path / "config.yaml"
    config.write_text(text)
    return main(["check", str(config), *options])


def test_the_command_prints_counts_and_shares(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, f"data:\n  city: {{kind: cityscapes, root: {root}}}\n  toy: {{kind: scenes}}\n") == 0
    printed = capsys.readouterr().out
    assert "city (cityscapes)" in printed
    assert "14 of 64×128" in printed
    assert "licence   Cityscapes: License Agreement" in printed
    assert "toy (scenes)" in printed
    assert "sidewalk" in printed


def test_the_command_takes_a_bare_data_config(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, "kind: scenes\nsize: 32\ntrain: 6\n") == 0
    assert "6 train (student)" in capsys.readouterr().out


def test_bad_data_ends_the_command_with_2_and_the_other_sets_are_still_checked(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one(root, "gtFine").unlink()
    text = f"data:\n  bad: {{kind: cityscapes, root: {root}}}\n  good: {{kind: scenes, size: 32}}\n"
    assert run(tmp_path, text) == 2
    captured = capsys.readouterr()
    assert "data set 'bad'" in captured.err
    assert "good (scenes)" in captured.out


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kind: scenes\nclases: 4\n", "config.yaml:2: clases: .*did you mean classes"),
        (
            "data:\n  a:\n    kind: scenes\n    context: 3\n",
            "config.yaml:4: data.a.context is 3, must be at most 1",
        ),
        ("data:\n  a:\n    kind: scene\n", "config.yaml:2: data.a: .*'scenes'"),
        ("search: 4\n", "holds no data config"),
        ("kind: [", "not valid YAML"),
    ],
)
def test_a_wrong_config_ends_the_command_with_2_and_its_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, message: str
) -> None:
    assert run(tmp_path, text) == 2
    assert re.search(message, capsys.readouterr().err)


def test_the_protocol_of_a_sweep_file_decides_which_splits_are_checked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One train picture cannot be cut into train and tune; the message names the protocol that needs no cut."""
    root = write_folder_tree(tmp_path / "mine", train=1)
    text = f"data:\n  mine: {{kind: folder, root: {root}, classes: classes.csv}}\n"
    assert run(tmp_path, text) == 2
    assert "add a picture, or set protocol: paper" in capsys.readouterr().err
    assert run(tmp_path, "protocol: paper\n" + text) == 0
    assert "1 train (student) · 1 train (teacher) · 3 test" in capsys.readouterr().out
