"""Cityscapes as unpacked: which pictures make which split, what labels mean, what is refused."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from distill.data import CityscapesConfig, ScenesConfig, build_dataset
from distill.data.disk import DiskDataset
from distill.data.layouts import layout_of
from distill.data.scenes import draw_scene
from distill.data.splits import hold_out
from distill.errors import UsageError
from tests.distill.data.trees import CITIES, write_cityscapes_tree

REAL_CITIES = {
    "aachen": 174, "bochum": 96, "bremen": 316, "cologne": 154, "darmstadt": 85, "dusseldorf": 221,
    "erfurt": 109, "hamburg": 248, "hanover": 196, "jena": 119, "krefeld": 99, "monchengladbach": 94,
    "strasbourg": 365, "stuttgart": 196, "tubingen": 144, "ulm": 95, "weimar": 142, "zurich": 122,
}  # fmt: skip


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cityscapes_tree(tmp_path_factory.mktemp("cityscapes"))


def keys(config: CityscapesConfig, split: str, **options: str) -> list[str]:
    dataset = build_dataset(config, split, **options)  # type: ignore[arg-type]
    assert isinstance(dataset, DiskDataset)
    return [pair.key for pair in dataset.pairs]


def tune_cities(config: CityscapesConfig, cities: dict[str, int]) -> tuple[str, ...]:
    return hold_out(config, layout_of(config), cities)


def test_a_sample_is_the_picture_and_the_train_ids_that_were_written(tree: Path) -> None:
    sample = build_dataset(CityscapesConfig(root=tree), "test")[0]
    image_hw3, labels_hw = draw_scene(ScenesConfig(size=(64, 128), ignore_border=1), "val", 9)
    np.testing.assert_array_equal(sample.image_hw3, image_hw3)
    train_ids = np.full(256, 255, np.uint8)
    train_ids[:9] = [10, 2, 0, 1, 8, 13, 11, 5, 7]  # sky, building, road, sidewalk, vegetation, car, …
    np.testing.assert_array_equal(sample.labels_hw, train_ids[labels_hw])
    assert sample.key == "frankfurt/frankfurt_000000_000019"


def test_the_label_map_is_the_published_one(tree: Path) -> None:
    label_file = next((tree / "gtFine" / "val").glob("*/*"))
    before = label_file.read_bytes()
    cv2.imwrite(str(label_file), np.arange(64 * 128, dtype=np.int64).reshape(64, 128).astype(np.uint8) % 34)
    dataset = build_dataset(CityscapesConfig(root=tree), "test")
    labels = next(s for s in dataset if label_file.name.startswith(s.key.split("/")[1])).labels_hw
    label_file.write_bytes(before)
    published = dict(zip([7, 8, 11, 12, 13, 17, *range(19, 29), 31, 32, 33], range(19), strict=True))
    assert labels[0, :34].tolist() == [published.get(label_id, 255) for label_id in range(34)]


def test_clean_tune_is_whole_train_cities_and_test_is_val(tree: Path) -> None:
    config = CityscapesConfig(root=tree)
    train, tune, test = (keys(config, split) for split in ("train", "tune", "test"))
    assert len(train) + len(tune) == 9
    assert {key.split("/")[0] for key in tune}.isdisjoint(key.split("/")[0] for key in train)
    assert tune
    assert {key.split("/")[0] for key in test} == {"frankfurt", "lindau"}


def test_paper_trains_on_all_of_train_and_tunes_on_val(tree: Path) -> None:
    config = CityscapesConfig(root=tree)
    assert len(keys(config, "train", protocol="paper")) == 9
    assert keys(config, "tune", protocol="paper") == keys(config, "test", protocol="paper")
    assert keys(config, "test", protocol="paper") == keys(config, "test")


def test_named_cities_are_the_tune_split(tree: Path) -> None:
    tune = keys(CityscapesConfig(root=tree, tune_cities=("ulm", "bochum")), "tune")
    assert sorted({key.split("/")[0] for key in tune}) == ["bochum", "ulm"]


def test_the_default_tune_cities_of_the_real_data_set_stay_what_they_are() -> None:
    drawn = tune_cities(CityscapesConfig(root=Path("/data")), REAL_CITIES)
    assert drawn == ("cologne", "monchengladbach")
    assert sum(REAL_CITIES[city] for city in drawn) == 248


def test_another_tune_seed_draws_other_cities_within_the_share() -> None:
    configs = [CityscapesConfig(root=Path("/data"), tune_seed=seed) for seed in range(5)]
    draws = [tune_cities(config, REAL_CITIES) for config in configs]
    assert len(set(draws)) > 1
    assert all(0 < sum(REAL_CITIES[city] for city in draw) <= 297.5 for draw in draws)


def test_few_labels_are_for_the_student_and_the_teacher_keeps_all(tree: Path) -> None:
    config = CityscapesConfig(root=tree, student_images=3, tune_cities=("ulm",))
    student, teacher = (keys(config, "train", role=role) for role in ("student", "teacher"))
    assert (len(student), len(teacher)) == (3, 7)
    assert set(student) < set(teacher)
    assert student == keys(config, "train")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tune_cities": ("aachn",)}, "did you mean 'aachen'"),
        ({"tune_cities": ("aachen", "bochum", "ulm")}, "3 of 3 train cities .* leave at least one"),
        ({"student_images": 50}, "student_images is 50, must be at most"),
    ],
)
def test_a_split_that_cannot_be_made_is_refused(tree: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build_dataset(CityscapesConfig.model_validate({"root": tree, **options}), "train")


def test_one_train_city_cannot_be_split_and_the_error_says_what_to_do(tmp_path: Path) -> None:
    root = write_cityscapes_tree(tmp_path, {"train": {"aachen": 1}, "val": CITIES["val"]})
    with pytest.raises(UsageError, match=r"at least 2 .*protocol: paper"):
        build_dataset(CityscapesConfig(root=root), "train")


def test_a_missing_folder_is_named_with_what_is_there_instead(tmp_path: Path) -> None:
    (tmp_path / "leftImg8bit_trainvaltest").mkdir()
    with pytest.raises(
        UsageError, match=r"leftImg8bit does not exist.*holds leftImg8bit_trainvaltest.*Expected"
    ):
        build_dataset(CityscapesConfig(root=tmp_path), "test")


def test_reading_a_picture_of_another_size_than_its_labels_is_refused(tmp_path: Path) -> None:
    root = write_cityscapes_tree(tmp_path)
    image = next((root / "leftImg8bit" / "val").glob("frankfurt/*"))
    cv2.imwrite(str(image), np.zeros((10, 20, 3), np.uint8))
    with pytest.raises(UsageError, match=r"is 10×20 and .* is 64×128, must be of one size"):
        list(build_dataset(CityscapesConfig(root=root), "test"))
