"""Data sets as published and pictures of one's own: which files make which split, what labels mean."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from distill.data import (
    Ade20kConfig,
    CamVidConfig,
    CocoStuffConfig,
    FolderConfig,
    ScenesConfig,
    VocConfig,
    build_dataset,
    check_dataset,
)
from distill.data.config import SCENE_CLASSES, AnyDataConfig, DiskConfig
from distill.data.disk import DiskDataset
from distill.data.layouts import layout_of
from distill.data.scenes import draw_scene
from distill.data.splits import hold_out
from distill.errors import UsageError
from tests.distill.data.trees import (
    write_ade20k_tree,
    write_camvid_tree,
    write_cocostuff_tree,
    write_folder_tree,
    write_labels,
    write_voc_tree,
)

KINDS: dict[str, tuple[Callable[[Path], Path], Callable[[Path], DiskConfig]]] = {
    "voc": (write_voc_tree, lambda root: VocConfig(root=root)),
    "ade20k": (write_ade20k_tree, lambda root: Ade20kConfig(root=root)),
    "camvid": (write_camvid_tree, lambda root: CamVidConfig(root=root)),
    "cocostuff": (write_cocostuff_tree, lambda root: CocoStuffConfig(root=root)),
    "folder": (write_folder_tree, lambda root: folder(root)),
}
COUNTS = {
    "voc": (7, 1, 3),
    "ade20k": (7, 1, 3),
    "camvid": (4, 2, 3),
    "cocostuff": (3, 1, 2),
    "folder": (7, 1, 3),
}


def folder(root: Path, **options: object) -> FolderConfig:
    return FolderConfig.model_validate({"root": root, "classes": "classes.csv", **options})


@pytest.fixture(scope="session")
def configs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, AnyDataConfig]:
    return {kind: make(write(tmp_path_factory.mktemp(kind))) for kind, (write, make) in KINDS.items()}  # type: ignore[misc]


def keys(config: AnyDataConfig, split: str, **options: str) -> list[str]:
    dataset = build_dataset(config, split, **options)  # type: ignore[arg-type]
    assert isinstance(dataset, DiskDataset)
    return [pair.key for pair in dataset.pairs]


@pytest.mark.parametrize("kind", KINDS)
def test_a_checked_tree_has_its_splits_and_sizes(configs: dict[str, AnyDataConfig], kind: str) -> None:
    report = check_dataset(configs[kind], full=True)
    train, tune, test = COUNTS[kind]
    assert report.images == {"train (student)": train, "train (teacher)": train, "tune": tune, "test": test}
    assert sum(report.sizes.values()) == train + tune + test
    assert len(report.classes) == configs[kind].class_count
    assert report.licence
    for *classes, ignored in report.pixels.values():
        assert sum(classes) > ignored > 0


@pytest.mark.parametrize("kind", KINDS)
def test_no_picture_is_in_two_splits_and_paper_trains_on_all_of_train(
    configs: dict[str, AnyDataConfig], kind: str
) -> None:
    splits = [set(keys(configs[kind], split)) for split in ("train", "tune", "test")]
    assert len(set.union(*splits)) == sum(map(len, splits))
    paper = set(keys(configs[kind], "train", protocol="paper"))
    assert paper == (splits[0] if kind == "camvid" else splits[0] | splits[1])
    assert set(keys(configs[kind], "tune", protocol="paper")) == splits[2]


@pytest.mark.parametrize(
    ("kind", "written"),
    [
        ("voc", {0: 0, 5: 5, 20: 20, 255: 255}),
        ("ade20k", {0: 255, 1: 0, 21: 20, 150: 149}),
        ("camvid", {0: 0, 10: 10, 11: 255}),
        ("cocostuff", {0: 0, 10: 10, 12: 11, 24: 23, 26: 24, 91: 80, 181: 170, 255: 255}),
        ("folder", {0: 0, 10: 1, 80: 8, 255: 255}),
    ],
)
def test_the_values_of_label_files_become_the_published_classes(
    configs: dict[str, AnyDataConfig], kind: str, written: dict[int, int]
) -> None:
    label_map = layout_of(configs[kind]).label_map  # type: ignore[arg-type]
    values = np.array([list(written)], np.uint8)
    assert label_map.labels(values, Path("x.png")).tolist() == [list(written.values())]


@pytest.mark.parametrize(
    ("kind", "value", "allowed"),
    [
        ("voc", 21, "one of 0–20, 255"),
        ("ade20k", 151, "from 0 to 150"),
        ("camvid", 12, "from 0 to 11"),
        ("cocostuff", 25, "one of 0–10, 12–24, 26–27, 30–43"),
        ("folder", 5, "one of 0, 10, 20"),
    ],
)
def test_a_value_outside_the_label_map_is_named_with_what_is_allowed(
    configs: dict[str, AnyDataConfig], kind: str, value: int, allowed: str
) -> None:
    label_map = layout_of(configs[kind]).label_map  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=rf"x.png holds label {value}, must be {allowed}"):
        label_map.labels(np.array([[value]], np.uint8), Path("x.png"))


def test_a_palette_label_file_is_read_by_its_indices_not_its_colours(
    configs: dict[str, AnyDataConfig],
) -> None:
    dataset = build_dataset(configs["voc"], "test")
    labels_hw = draw_scene(ScenesConfig(size=(48, 64), ignore_border=1), "train", 8)[1]
    voc = np.full(256, 255, np.uint8)
    voc[:9] = [0, 1, 2, 5, 7, 15, 18, 19, 20]
    np.testing.assert_array_equal(dataset[0].labels_hw, voc[labels_hw])


def test_voc_trains_on_all_labels_that_val_does_not_name(configs: dict[str, AnyDataConfig]) -> None:
    assert all(key.startswith("2008") for key in keys(configs["voc"], "train") + keys(configs["voc"], "tune"))
    assert keys(configs["voc"], "test") == ["2007_000000", "2007_000001", "2007_000002"]
    assert "1 pictures and 3 label maps are in no split" in check_dataset(configs["voc"]).describe()


def test_camvid_tunes_on_its_own_val_set(configs: dict[str, AnyDataConfig]) -> None:
    assert all(key.startswith("va") for key in keys(configs["camvid"], "tune"))
    assert all(key.startswith("te") for key in keys(configs["camvid"], "test"))


def test_the_tune_split_depends_on_names_and_seed_not_on_order() -> None:
    config = VocConfig(root=Path("/data"))
    names = [f"2008_{number:06d}" for number in range(500)]
    drawn = hold_out(config, layout_of(config), dict.fromkeys(names, 1))
    assert len(drawn) == 50
    assert drawn[:3] == ("2008_000007", "2008_000009", "2008_000012")
    random.Random(0).shuffle(names)
    assert hold_out(config, layout_of(config), dict.fromkeys(names, 1)) == drawn
    fewer = hold_out(config, layout_of(config), dict.fromkeys(names[:-1], 1))
    assert len(set(drawn) ^ set(fewer)) <= 2
    other = config.model_copy(update={"tune_seed": 1})
    assert hold_out(other, layout_of(config), dict.fromkeys(names, 1)) != drawn


def test_pictures_of_one_group_are_held_out_together(tmp_path: Path) -> None:
    root = write_folder_tree(tmp_path)
    config = folder(root, group="^(clip[0-9]+)/", tune_share=0.3)
    tune, train = ({key.split("/")[0] for key in keys(config, split)} for split in ("tune", "train"))
    assert tune
    assert not tune & train
    assert len(keys(config, "tune")) == 2


def test_a_folder_takes_a_tune_list_of_its_own(tmp_path: Path) -> None:
    root = write_folder_tree(tmp_path)
    lines = (root / "train.txt").read_text().split()
    (root / "train.txt").write_text("\n".join(lines[:5]))
    (root / "tune.txt").write_text(
        "\n".join(f"{name}.png" if "1" in name[-1:] else name for name in lines[5:])
    )
    config = folder(root, tune="tune.txt")
    assert (len(keys(config, "train")), keys(config, "tune")) == (5, lines[5:])
    assert config.scored_images == 3 + 3


def test_a_class_table_stands_in_the_config_whatever_it_was_written_in(tmp_path: Path) -> None:
    root = write_folder_tree(tmp_path)
    from_file = folder(root)
    assert from_file.classes[1].model_dump() == {"value": 10, "name": "building", "colour": (1, 0, 255)}
    by_value = folder(root, classes={10 * label: name for label, name in enumerate(SCENE_CLASSES)})
    assert [label.name for label in by_value.classes] == [label.name for label in from_file.classes]
    in_order = folder(root, classes=list(SCENE_CLASSES))
    assert [label.value for label in in_order.classes] == list(range(9))
    assert build_dataset(from_file, "test").palette[1] == (1, 0, 255)
    colours = np.array(build_dataset(in_order, "test").palette)
    apart = np.abs(colours[:, None] - colours[None]).sum(-1) + 1000 * np.eye(len(colours))
    assert apart.min() >= 96, "classes without a colour get colours that are told apart"
    assert (colours.sum(-1) >= 96).all(), "none is nearly black"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": ["a", "a"]}, "name 'a' occurs twice"),
        ({"classes": {300: "a", 1: "b"}}, "less than or equal to 255"),
        ({"classes": {255: "a", 1: "b"}}, "value 255 is a class and ignored"),
        ({"classes": ["a"]}, "classes are 1, must be from 2 to 254"),
        ({"classes": "table.csv"}, "class table .*table.csv cannot be read"),
        ({"group": "("}, "must be a regular expression"),
    ],
)
def test_a_wrong_class_table_or_group_is_refused_with_the_rule(
    tmp_path: Path, options: dict[str, object], message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        FolderConfig.model_validate({"root": tmp_path, "classes": ["a", "b"], **options})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "clip0/train0\nclip9/train99\n",
            r"1 names in train.txt have neither .*'clip9/train99' in line 2: .*clip9/train99.jpg is missing",
        ),
        ("clip0/train0\nclip0/train0.jpg\n", r"train.txt:2: 'clip0/train0' is already in line 1"),
        ("clip0/train0\nclip0/test0\n", r"1 pictures are in train and in test .*clip0/test0"),
        ("", r"no pictures: .*train.txt names none, must be at least one"),
        (None, r"train.txt cannot be read: No such file .* Did you mean 'test.txt'"),
    ],
)
def test_a_wrong_list_is_refused_with_file_line_and_name(
    tmp_path: Path, content: str | None, message: str
) -> None:
    root = write_folder_tree(tmp_path)
    (root / "train.txt").unlink() if content is None else (root / "train.txt").write_text(content)
    with pytest.raises(UsageError, match=message):
        check_dataset(folder(root))


def test_two_files_of_one_name_are_refused(tmp_path: Path) -> None:
    root = write_folder_tree(tmp_path)
    (root / "images/clip0/train0.png").write_bytes((root / "images/clip0/train1.png").read_bytes())
    with pytest.raises(UsageError, match=r"train0.* and .*train0.* have the same name"):
        build_dataset(folder(root), "train")


def test_coloured_and_16_bit_masks_are_refused_from_their_headers(tmp_path: Path) -> None:
    root = write_folder_tree(tmp_path)
    mask = root / "masks/clip0/test0.png"
    cv2.imwrite(str(mask), np.zeros((40, 56, 3), np.uint8))
    with pytest.raises(UsageError, match=r"test0.png has 3 channels, must be a grey label map"):
        check_dataset(folder(root))
    cv2.imwrite(str(mask), np.zeros((40, 56), np.uint16))
    with pytest.raises(UsageError, match=r"test0.png holds 16 bits per pixel, must hold 8 bits"):
        check_dataset(folder(root))


def test_unreadable_train_pictures_pass_as_notes_up_to_the_share_a_run_may_skip(tmp_path: Path) -> None:
    root = write_folder_tree(tmp_path)
    config = folder(root, broken_share=0.2)
    (root / "images/clip2/train5.png").write_bytes(b"gone")
    with pytest.raises(UsageError, match=r"train5.png is not a PNG"):
        check_dataset(config)
    report = check_dataset(config, skip_broken=True)
    assert any("will be skipped" in note and "train5.png" in note for note in report.notes)
    with pytest.raises(UsageError, match=r"train5.png"):
        check_dataset(folder(root), skip_broken=True)


@pytest.mark.parametrize("split", ["tune", "test"])
def test_an_unreadable_picture_that_is_scored_on_never_passes(tmp_path: Path, split: str) -> None:
    config = folder(write_folder_tree(tmp_path), broken_share=0.5)
    scored = build_dataset(config, split).pairs[0].image  # type: ignore[arg-type, attr-defined]
    scored.write_bytes(b"gone")
    with pytest.raises(UsageError, match=scored.name):
        check_dataset(config, skip_broken=True)


def test_a_bilevel_mask_holds_0_and_1(tmp_path: Path) -> None:
    from distill.data.images import read_values

    values = np.eye(4, dtype=np.uint8)
    Image.fromarray(values * 255).convert("1").save(tmp_path / "mask.png")
    np.testing.assert_array_equal(read_values(tmp_path / "mask.png"), values)
    write_labels(tmp_path / "grey.png", values, palette=True)
    np.testing.assert_array_equal(read_values(tmp_path / "grey.png"), values)
