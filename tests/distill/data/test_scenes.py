"""Generated scenes: what they are a function of, and what tells one class from its twin."""

from __future__ import annotations

import hashlib
import pickle
import random

import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import ValidationError

from distill.data import ScenesConfig, build_dataset
from distill.data.config import SCENE_CLASSES
from distill.data.scenes import BALLOONS, draw_scene

CLEAR = {"noise": 0.0, "clutter": 0.0}
LABEL = {name: index for index, name in enumerate(SCENE_CLASSES)}


def scenes(count: int, **options: object) -> list[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    config = ScenesConfig.model_validate(options)
    return [draw_scene(config, "train", number) for number in range(count)]


def column_of(image: NDArray[np.uint8], colour: tuple[int, int, int]) -> float:
    """Where in the upper quarter the pixels nearest to a colour are; shadows and light change all a little."""
    upper = image[: len(image) // 4].astype(int)
    distance = np.abs(upper - colour).sum(axis=-1)
    return float(np.nonzero(distance <= distance.min() + 10)[1].mean())


def kerb_top(labels: NDArray[np.uint8]) -> float:
    """The column at which the ground's class changes, in the highest row that shows both."""
    ground = np.isin(labels, [LABEL["road"], LABEL["sidewalk"]])
    for row in range(len(labels)):
        if ground[row].mean() > 0.9:
            road = labels[row] == LABEL["road"]
            columns = np.nonzero(road[1:] != road[:-1])[0]
            if len(columns):
                return float(np.median(columns))
    raise AssertionError("no kerb found")


def share_of_sidewalks_on_the_suns_side(context: float) -> float:
    agree = []
    for image, labels in scenes(150, context=context, **CLEAR):
        sun_is_right = column_of(image, (255, 255, 225)) > kerb_top(labels)
        sidewalk = np.nonzero(labels == LABEL["sidewalk"])[1].mean()
        road = np.nonzero(labels == LABEL["road"])[1].mean()
        agree.append(sun_is_right == (sidewalk > road))
    return float(np.mean(agree))


def test_a_scene_is_the_same_whatever_was_drawn_before_and_whatever_the_global_seeds() -> None:
    config = ScenesConfig(train=20)
    random.seed(1)
    np.random.seed(1)
    forwards = [build_dataset(config, "train")[index] for index in range(5)]
    np.random.seed(2)
    dataset = build_dataset(config, "train")
    for index in reversed(range(5)):
        np.testing.assert_array_equal(dataset[index].image_hw3, forwards[index].image_hw3)
        np.testing.assert_array_equal(dataset[index].labels_hw, forwards[index].labels_hw)


def test_scenes_are_the_same_on_every_machine() -> None:
    digest = hashlib.sha256()
    for context, size in ((0.5, (64, 64)), (1.0, (48, 96)), (0.0, (96, 64))):
        drawn = scenes(5, context=context, size=size, ignore_border=1, texture=0.1, noise=0.08, clutter=0.5)
        for image, labels in drawn:
            digest.update(image.tobytes() + labels.tobytes())
    assert digest.hexdigest()[:16] == "140bf0f6a4343672"


def test_seed_split_and_number_each_give_other_scenes() -> None:
    config = ScenesConfig()
    images = [
        draw_scene(config, "train", 0)[0],
        draw_scene(config, "train", 1)[0],
        draw_scene(config, "tune", 0)[0],
        draw_scene(config, "test", 0)[0],
        draw_scene(ScenesConfig(seed=1), "train", 0)[0],
    ]
    assert len({image.tobytes() for image in images}) == 5


def test_splits_have_their_counts_and_the_teacher_has_the_students_pictures_and_more() -> None:
    config = ScenesConfig(train=3, teacher_train=5, tune=2, test=4)
    student, teacher = build_dataset(config, "train"), build_dataset(config, "train", role="teacher")
    assert [len(student), len(teacher)] == [3, 5]
    assert [len(build_dataset(config, split)) for split in ("tune", "test")] == [2, 4]
    assert [sample.key for sample in student] == [sample.key for sample in teacher][:3]


def test_the_paper_protocol_trains_on_tune_too_and_tunes_on_test() -> None:
    config = ScenesConfig(train=3, tune=2, test=4)
    train = [sample.key for sample in build_dataset(config, "train", protocol="paper")]
    tune = [sample.key for sample in build_dataset(config, "tune", protocol="paper")]
    assert train == [s.key for split in ("train", "tune") for s in build_dataset(config, split)]
    assert tune == [sample.key for sample in build_dataset(config, "test")]


def test_a_picture_beyond_the_last_does_not_exist() -> None:
    with pytest.raises(IndexError):
        build_dataset(ScenesConfig(tune=2), "tune")[2]


def test_kept_pictures_cannot_be_written_to_and_do_not_travel_to_other_processes() -> None:
    dataset = build_dataset(ScenesConfig(train=30), "train")
    empty = len(pickle.dumps(dataset))
    sample = dataset[0]
    assert dataset[0] is sample
    with pytest.raises(ValueError, match="read-only"):
        sample.image_hw3[0] = 0
    assert len(pickle.dumps(dataset)) == empty


@pytest.mark.parametrize("classes", range(3, 10))
def test_a_scene_holds_the_first_classes_and_no_other(classes: int) -> None:
    labels = np.concatenate([labels.ravel() for _, labels in scenes(40, classes=classes, clutter=1.0)])
    assert sorted(np.unique(labels)) == list(range(classes))


@pytest.mark.parametrize("size", [32, (40, 100), (256, 128)])
def test_a_scene_has_the_size_asked_for(size: int | tuple[int, int]) -> None:
    expected = (size, size) if isinstance(size, int) else size
    for image, labels in scenes(3, size=size):
        assert (image.shape, labels.shape) == ((*expected, 3), expected)
        assert len(np.unique(labels)) >= 4


def test_an_ignored_border_lies_between_classes_and_nowhere_else() -> None:
    plain = scenes(5)
    for (image, labels), (same_image, bordered) in zip(plain, scenes(5, ignore_border=1), strict=True):
        np.testing.assert_array_equal(image, same_image)
        ignored = bordered == 255
        np.testing.assert_array_equal(bordered[~ignored], labels[~ignored])
        padded = np.pad(labels, 1, mode="edge")
        around = [padded[y : y + 64, x : x + 64] for y in range(3) for x in range(3)]
        np.testing.assert_array_equal(ignored, np.any([other != labels for other in around], axis=0))


def test_with_full_context_the_sidewalk_is_on_the_suns_side() -> None:
    assert share_of_sidewalks_on_the_suns_side(1.0) > 0.97


def test_without_context_the_sun_says_nothing_about_the_sidewalk() -> None:
    assert 0.35 < share_of_sidewalks_on_the_suns_side(0.0) < 0.65


def test_with_full_context_the_balloons_colour_says_whether_uprights_are_persons_or_poles() -> None:
    for image, labels in scenes(60, context=1.0, **CLEAR):
        upper = image[:16].astype(int)
        red, blue = (np.abs(upper - colour).sum(axis=-1).min() for colour in BALLOONS)
        assert not (labels == LABEL["pole" if red < blue else "person"]).any()


def look(
    drawn: list[tuple[NDArray[np.uint8], NDArray[np.uint8]]], name: str
) -> tuple[NDArray[np.float64], float, float]:
    """Mean colour of a class, and mean change of brightness from pixel to pixel down and along."""
    inside = [(image.astype(float), labels == LABEL[name]) for image, labels in drawn]
    changes = []
    for axis in (0, 1):
        steps = [
            np.abs(np.diff(image.mean(axis=-1), axis=axis))[
                np.delete(mask, -1, axis) & np.delete(mask, 0, axis)
            ]
            for image, mask in inside
        ]
        changes.append(float(np.concatenate(steps).mean()))
    return np.concatenate([image[mask] for image, mask in inside]).mean(axis=0), *changes


TWINS = [("building", "vegetation"), ("road", "sidewalk"), ("car", "sign"), ("person", "pole")]


@pytest.mark.parametrize("twins", TWINS)
def test_twins_told_by_texture_have_one_mean_colour_and_other_stripes(twins: tuple[str, str]) -> None:
    drawn = scenes(500, context=0.0, noise=0.0)
    (first, down, along), (second, other_down, other_along) = (look(drawn, name) for name in twins)
    np.testing.assert_allclose(first, second, atol=9)
    assert down > 1.5 * other_down
    assert other_along > 1.5 * along


@pytest.mark.parametrize("twins", TWINS)
def test_twins_told_by_layout_look_the_same(twins: tuple[str, str]) -> None:
    drawn = scenes(500, context=1.0, noise=0.0)
    (first, down, along), (second, other_down, other_along) = (look(drawn, name) for name in twins)
    np.testing.assert_allclose(first, second, atol=9)
    assert [down, along] == pytest.approx([other_down, other_along], rel=0.15)


def test_context_changes_which_twin_stands_where_and_no_places_shapes_or_colours() -> None:
    twin = np.arange(len(SCENE_CLASSES))
    for first, second in TWINS:
        twin[LABEL[second]] = LABEL[first]
    plain = {"texture": 0.0, "noise": 0.0}
    drawn = [scenes(20, context=context, **plain) for context in (0.0, 0.25, 0.5, 0.75, 1.0)]
    for same_number in zip(*drawn, strict=True):
        image, labels = same_number[0]
        for other_image, other_labels in same_number[1:]:
            np.testing.assert_array_equal(other_image, image)
            np.testing.assert_array_equal(twin[other_labels], twin[labels])


def test_texture_and_noise_have_the_amplitudes_asked_for() -> None:
    plain, noisy = (scenes(3, texture=0.0, noise=noise, clutter=0.0) for noise in (0.0, 0.05))
    differences = np.concatenate(
        [
            noisy_image[(image > 60) & (image < 195)].astype(float) - image[(image > 60) & (image < 195)]
            for (image, _), (noisy_image, _) in zip(plain, noisy, strict=True)
        ]
    )
    assert differences.std() == pytest.approx(0.05 * 255, rel=0.05)
    assert abs(differences.mean()) < 0.5


@pytest.mark.parametrize(
    ("field", "value", "rule"),
    [
        ("size", 16, "from 32 to 4096"),
        ("classes", 10, "less than or equal to 9"),
        ("context", -0.1, "greater than or equal to 0"),
        ("train", 0, "greater than or equal to 1"),
        ("colour", 1, "not permitted"),
    ],
)
def test_a_config_that_makes_no_scene_is_refused_with_the_rule(field: str, value: object, rule: str) -> None:
    with pytest.raises(ValidationError, match=rule):
        ScenesConfig.model_validate({field: value})
