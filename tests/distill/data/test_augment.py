"""What a random view is, and what it depends on."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from distill.data import IGNORE_INDEX, AugmentationConfig, ScenesConfig
from distill.data.augment import PAD_COLOUR, Augmentation
from distill.data.scenes import draw_scene

IMAGE, LABELS = draw_scene(ScenesConfig(size=(48, 64)), "train", 0)
FULL = AugmentationConfig(crop=(40, 40), scale=(0.5, 2.0), colour=0.3)


def numbered_picture(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Every pixel is its own place: row in red, column in green; the label is row + column."""
    y, x = np.mgrid[:height, :width].astype(np.uint8)
    return np.stack([y, x, np.zeros_like(x)], axis=-1), y + x


def test_a_view_depends_on_seed_and_number_only_not_on_views_drawn_before() -> None:
    fresh = Augmentation(FULL, seed=5)(IMAGE, LABELS, 7)
    used = Augmentation(FULL, seed=5)
    for number in range(4):
        used(LABELS[..., None].repeat(3, axis=2), LABELS, number)
    again = used(IMAGE, LABELS, 7)
    np.testing.assert_array_equal(fresh[0], again[0])
    np.testing.assert_array_equal(fresh[1], again[1])


def test_another_seed_or_number_gives_another_view() -> None:
    view = Augmentation(FULL, seed=5)(IMAGE, LABELS, 7)[0]
    assert (Augmentation(FULL, seed=6)(IMAGE, LABELS, 7)[0] != view).any()
    assert (Augmentation(FULL, seed=5)(IMAGE, LABELS, 8)[0] != view).any()


def test_picture_and_labels_are_cropped_and_flipped_together() -> None:
    image, labels = numbered_picture(50, 60)
    views = Augmentation(AugmentationConfig(crop=(20, 30), scale=(1, 1)), seed=1)
    flipped = set()
    for number in range(20):
        view, view_labels = views(image, labels, number)
        assert view.shape == (20, 30, 3)
        np.testing.assert_array_equal(view[..., 0] + view[..., 1], view_labels)
        flipped.add(bool(view[0, 0, 1] > view[0, -1, 1]))
    assert flipped == {True, False}


def test_no_class_takes_more_than_its_share_of_a_view_where_a_place_for_that_is_found() -> None:
    image, labels = np.zeros((40, 400, 3), np.uint8), np.zeros((40, 400), np.uint8)
    labels[:, 200:] = 1
    labels[:5] = IGNORE_INDEX
    shares = {}
    for cap in (1.0, 0.75):
        views = Augmentation(
            AugmentationConfig(crop=(40, 100), scale=(1, 1), max_class_share=cap, flip=False), seed=0
        )
        drawn = [views(image, labels, number)[1] for number in range(40)]
        shares[cap] = [max((view == 0).mean(), (view == 1).mean()) / (view != 255).mean() for view in drawn]
    assert sum(share > 0.75 for share in shares[1.0]) > 20
    assert sum(share > 0.75 for share in shares[0.75]) < 10


def test_flip_off_never_mirrors() -> None:
    image, labels = numbered_picture(50, 60)
    views = Augmentation(AugmentationConfig(crop=(20, 30), scale=(1, 1), flip=False), seed=1)
    assert all((np.diff(views(image, labels, n)[0][0, :, 1].astype(int)) == 1).all() for n in range(20))


def test_what_lies_outside_the_picture_is_ignored_and_of_the_mean_colour() -> None:
    image, labels = np.full((10, 12, 3), 200, np.uint8), np.zeros((10, 12), np.uint8)
    view, view_labels = Augmentation(AugmentationConfig(crop=(16, 16), scale=(1, 1)), seed=0)(
        image, labels, 0
    )
    outside = view_labels == IGNORE_INDEX
    assert outside.sum() == 16 * 16 - 10 * 12
    assert (view[outside] == PAD_COLOUR).all()
    assert (view[~outside] == 200).all()


@pytest.mark.parametrize("zoom", [0.5, 2.0])
def test_the_zoom_scales_the_picture(zoom: float) -> None:
    image, labels = numbered_picture(100, 100)
    config = AugmentationConfig(crop=(40, 40), scale=(zoom, zoom), flip=False)
    column = Augmentation(config, seed=0)(image, labels, 0)[0][0, 2:-2, 1].astype(float)
    assert np.diff(column).mean() == pytest.approx(1 / zoom, rel=0.05)


def test_zooms_cover_their_range_evenly() -> None:
    image, labels = numbered_picture(200, 200)
    views = Augmentation(AugmentationConfig(crop=(40, 40), scale=(0.5, 2.0), flip=False), seed=0)
    rows = [views(image, labels, number)[0][:, 0, 0].astype(float) for number in range(300)]
    zooms = np.array([(len(row) - 1) / (row[-1] - row[0]) for row in rows])
    assert np.histogram(zooms, bins=[0, 0.5 + 0.5, 1.5, 9])[0] == pytest.approx([100, 100, 100], abs=30)


def test_place_and_flip_are_drawn_independently() -> None:
    image, labels = numbered_picture(64, 120)
    views = Augmentation(AugmentationConfig(crop=(20, 20), scale=(1, 1)), seed=0)
    rows = [views(image, labels, number)[0][0, :, 1].astype(int) for number in range(400)]
    flips, lefts = np.array([row[0] > row[-1] for row in rows]), np.array([row.min() for row in rows])
    assert 150 < flips.sum() < 250
    assert abs(np.corrcoef(flips, lefts)[0, 1]) < 0.15


def test_labels_are_never_blended_and_colour_leaves_them_alone() -> None:
    plain = AugmentationConfig(crop=(40, 40), scale=(0.5, 2.0))
    for number in range(10):
        labels = Augmentation(FULL, seed=2)(IMAGE, LABELS, number)[1]
        assert set(np.unique(labels)) <= {*np.unique(LABELS), IGNORE_INDEX}
        np.testing.assert_array_equal(labels, Augmentation(plain, seed=2)(IMAGE, LABELS, number)[1])


@pytest.mark.parametrize(
    ("field", "value", "rule"),
    [
        ("crop", (0, 8), "must be from 1 to 16384 pixels"),
        ("scale", (2.0, 0.5), "smallest ≤ largest"),
        ("colour", 1.5, "less than or equal to 1"),
    ],
)
def test_a_config_that_makes_no_view_is_refused_with_the_rule(field: str, value: object, rule: str) -> None:
    with pytest.raises(ValidationError, match=rule):
        AugmentationConfig.model_validate({field: value})
