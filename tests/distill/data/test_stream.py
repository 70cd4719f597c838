"""Batches: what they depend on, how ranks share them, how they resume."""

from __future__ import annotations

import random
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from distill.data import AugmentationConfig, FolderConfig, ScenesConfig, build_dataset
from distill.data.stream import HostBatch, stream
from distill.errors import UsageError
from distill.normalisation import normalise
from tests.distill.data.trees import write_folder_tree, write_labels

DATASET = build_dataset(ScenesConfig(size=32, train=10), "train")
VIEWS = AugmentationConfig(crop=24, colour=0.2)


def draw(count: int, **options: int) -> list[HostBatch]:
    return list(islice(stream(DATASET, VIEWS, **{"batch_size": 4, "seed": 3, **options}), count))


def assert_same(left: list[HostBatch], right: list[HostBatch]) -> None:
    assert [batch.step for batch in left] == [batch.step for batch in right]
    for one, other in zip(left, right, strict=True):
        assert torch.equal(one.images_b3hw, other.images_b3hw)
        assert torch.equal(one.labels_bhw, other.labels_bhw)
        assert torch.equal(one.index, other.index)


def global_states() -> list[object]:
    name, keys, *rest = np.random.get_state()
    return [random.getstate(), name, keys.tolist(), rest, torch.get_rng_state().tolist()]


def test_a_batch_has_the_agreed_shapes_and_types() -> None:
    (batch,) = draw(1)
    assert (batch.images_b3hw.shape, batch.images_b3hw.dtype) == ((4, 3, 24, 24), torch.uint8)
    assert (batch.labels_bhw.shape, batch.labels_bhw.dtype) == ((4, 24, 24), torch.uint8)
    assert (batch.index.shape, batch.index.dtype, batch.step) == ((4,), torch.int64, 0)


def test_the_same_seed_gives_the_same_batches_and_another_seed_others() -> None:
    assert_same(draw(6), draw(6))
    assert not torch.equal(draw(1)[0].images_b3hw, draw(1, seed=4)[0].images_b3hw)


def test_a_resumed_stream_goes_on_with_the_very_next_batch() -> None:
    assert_same(draw(7)[5:], draw(2, start_step=5))


def test_a_stream_may_be_drawn_every_so_many_batches() -> None:
    drawn = draw(3, start_step=1, every=2)
    assert_same(drawn, draw(6)[1::2])
    assert [batch.step for batch in drawn] == [1, 3, 5]


@pytest.mark.parametrize("world_size", [2, 4])
def test_the_shares_of_all_ranks_in_order_are_the_global_batch(world_size: int) -> None:
    shares = [draw(2, start_step=3, rank=rank, world_size=world_size) for rank in range(world_size)]
    for step, whole in enumerate(draw(2, start_step=3)):
        assert torch.equal(torch.cat([share[step].images_b3hw for share in shares]), whole.images_b3hw)
        assert torch.equal(torch.cat([share[step].labels_bhw for share in shares]), whole.labels_bhw)
        assert torch.equal(torch.cat([share[step].index for share in shares]), whole.index)


def test_every_epoch_shows_each_picture_once_in_an_order_of_its_own() -> None:
    shown = torch.cat([batch.index for batch in draw(10)]).tolist()
    epochs = [shown[start : start + 10] for start in range(0, 40, 10)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4


def test_a_picture_is_seen_in_another_view_in_each_epoch() -> None:
    views = [
        image
        for batch in draw(10)
        for image, index in zip(batch.images_b3hw, batch.index, strict=True)
        if index == 0
    ]
    assert len(views) == 4
    assert len({view.numpy().tobytes() for view in views}) == 4


def in_cycles(count: int, views: int, **options: int) -> list[HostBatch]:
    source = stream(
        DATASET, VIEWS.model_copy(update={"views": views}), **{"batch_size": 4, "seed": 3, **options}
    )
    return list(islice(source, count))


def pixels(batches: list[HostBatch]) -> list[bytes]:
    return [batch.images_b3hw.numpy().tobytes() for batch in batches]


def test_a_stream_of_so_many_views_shows_the_same_batches_again_in_another_order() -> None:
    whole = 5  # batches of 4 that hold two views of each of 10 pictures
    drawn = in_cycles(4 * whole, views=2)
    assert [batch.step for batch in drawn] == list(range(4 * whole))
    assert_same(drawn[:whole], draw(whole))
    cycles = [pixels(drawn[start : start + whole]) for start in range(0, 4 * whole, whole)]
    assert all(set(cycle) == set(cycles[0]) for cycle in cycles)
    assert len({tuple(cycle) for cycle in cycles}) > 1
    assert len(set(cycles[0])) == whole


def test_the_last_batch_of_a_cycle_is_filled_so_that_no_view_is_left_out() -> None:
    drawn = in_cycles(6, views=1)  # 10 pictures by 4: two batches and a half
    assert set(torch.cat([batch.index for batch in drawn[:3]]).tolist()) == set(range(10))
    assert sorted(pixels(drawn[3:])) == sorted(pixels(drawn[:3]))


def test_a_cut_or_divided_stream_in_cycles_is_the_same_stream() -> None:
    whole = in_cycles(12, views=2)
    assert_same(in_cycles(5, views=2, start_step=7), whole[7:])
    assert_same(in_cycles(6, views=2, start_step=1, every=2), whole[1::2])
    halves = [in_cycles(12, views=2, rank=rank, world_size=2) for rank in range(2)]
    for one, other, batch in zip(*halves, whole, strict=True):
        assert torch.equal(torch.cat([one.images_b3hw, other.images_b3hw]), batch.images_b3hw)


def test_a_recipe_whose_views_are_all_new_is_written_as_before_there_was_a_choice() -> None:
    """Cohorts and trial ids are hashes of what is written; those of earlier runs stand."""
    assert "views" not in VIEWS.model_dump(mode="json")
    assert VIEWS.model_copy(update={"views": 2}).model_dump(mode="json")["views"] == 2


def test_a_batch_may_be_larger_than_the_data_set() -> None:
    (batch,) = draw(1, batch_size=25)
    assert torch.bincount(batch.index, minlength=10).min() == 2


def test_loader_processes_give_the_same_batches_in_the_same_order() -> None:
    assert_same(draw(8)[3:], draw(5, start_step=3, loader_workers=2))


@pytest.mark.parametrize("loader_workers", [0, 1])
def test_no_global_random_state_is_read_or_changed(loader_workers: int) -> None:
    before = global_states()
    first = draw(2, loader_workers=loader_workers)
    assert global_states() == before
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    assert_same(first, draw(2))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 5, "world_size": 2}, "batch_size is 5, must be a positive multiple of .* 2"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"rank": 2, "world_size": 2}, "rank is 2, must be from 0 to 1"),
    ],
)
def test_a_batch_that_cannot_be_shared_is_refused_before_anything_is_drawn(
    options: dict[str, int], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        stream(DATASET, VIEWS, **{"batch_size": 4, "seed": 0, **options})


def spoil(root: Path, *names: str) -> None:
    for name in names:
        (root / "images" / name).write_bytes(b"gone")


@pytest.mark.parametrize("loader_workers", [0, 1])
def test_a_picture_that_breaks_on_the_way_is_named_once_and_the_next_one_stands_in(
    tmp_path: Path, loader_workers: int
) -> None:
    config = FolderConfig.model_validate(
        {"root": write_folder_tree(tmp_path), "classes": "classes.csv", "broken_share": 0.2}
    )
    whole = build_dataset(config, "train")
    before = list(islice(stream(whole, VIEWS, batch_size=1, seed=3), 14))
    spoil(tmp_path, "clip1/train2.jpg")
    lost = [whole.pairs[int(batch.index)].key for batch in before].index("clip1/train2")  # type: ignore[attr-defined]
    told: list[str] = []
    source = stream(whole, VIEWS, batch_size=1, seed=3, loader_workers=loader_workers, on_skipped=told.append)
    after = list(islice(source, 14))
    assert len(told) == 1
    assert "train2.jpg" in told[0]
    for step, (one, other) in enumerate(zip(before, after, strict=True)):
        if one.index == before[lost].index:
            assert other.index == before[(step + 1) % 7 + step // 7 * 7].index
        else:
            assert torch.equal(one.images_b3hw, other.images_b3hw)


def test_more_broken_pictures_than_the_share_end_the_stream_with_their_names(tmp_path: Path) -> None:
    root = write_folder_tree(tmp_path)
    dataset = build_dataset(
        FolderConfig.model_validate({"root": root, "classes": "classes.csv", "broken_share": 0.2}), "train"
    )
    broken = [pair.image.name for pair in dataset.pairs[:2]]  # type: ignore[attr-defined]
    spoil(root, *(str(pair.image.relative_to(root / "images")) for pair in dataset.pairs[:2]))  # type: ignore[attr-defined]
    source = stream(dataset, VIEWS, batch_size=7, seed=3, on_skipped=lambda message: None)
    with pytest.raises(UsageError, match="(?s)2 of 7 pictures .* at most 1 .*" + ".*".join(sorted(broken))):
        next(source)


def test_what_ends_a_loading_process_is_told_in_its_own_words(tmp_path: Path) -> None:
    root = write_folder_tree(tmp_path)
    for mask in (root / "masks").rglob("*.png"):
        write_labels(mask, np.full((40, 56), 5, np.uint8))
    config = FolderConfig.model_validate({"root": root, "classes": "classes.csv"})
    with pytest.raises(UsageError, match=r"^[^\n]*png holds label 5, must be one of [^\n]*$"):
        next(stream(build_dataset(config, "train"), VIEWS, batch_size=2, seed=3, loader_workers=1))


def test_normalised_bytes_have_imagenet_mean_zero_and_deviation_one() -> None:
    mean = torch.tensor([[0.485, 0.456, 0.406]]).view(1, 3, 1, 1)
    deviation = torch.tensor([0.229, 0.224, 0.225])
    images = torch.randint(0, 256, (2, 3, 4, 5), dtype=torch.uint8)
    restored = normalise(images) * deviation.view(1, 3, 1, 1) + mean
    torch.testing.assert_close(restored * 255, images.float(), atol=1e-3, rtol=0)
