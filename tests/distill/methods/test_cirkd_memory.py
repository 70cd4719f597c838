"""The memory of CIRKD: what enters, what is kept, what is drawn."""

import torch

from distill.methods import build_method
from distill.methods.cirkd import ClassQueue, region_means, sample_pixels
from distill.methods.pixels import one_hot
from distill.testing import CNN, NUM_CLASSES, TRANSFORMER, random_labels, random_output, tiny_model


def labelled_features(labels, channels=3):
    """Features that say their own class: the label in every channel."""
    return labels.flatten(1)[..., None].float().expand(-1, -1, channels)


def test_only_pixels_of_a_class_enter_its_row():
    """Public code fills a class's row with pixels of other classes."""
    labels = torch.randint(0, 4, (3, 6, 6), generator=torch.Generator().manual_seed(0))
    labels[0, :3] = 255
    is_class = one_hot(labels, 5).flatten(2)
    queue = ClassQueue(5, 20, 3)
    for _ in range(3):
        queue.push(*sample_pixels(labelled_features(labels), is_class, 4))
    for number in range(4):
        count = int(queue.filled[number])
        assert count == 20, "12 pixels a time, three times, fill 20 entries"
        assert (queue.entries[number, :count] == number).all()
    assert queue.filled[4] == 0


def test_the_sample_holds_as_many_pixels_as_there_are_and_none_twice():
    labels = torch.tensor([[[0, 0, 0, 255, 1, 1]]])
    positions = torch.arange(6.0).view(1, 6, 1)
    drawn, exists = sample_pixels(positions, one_hot(labels, 3).flatten(2), 4)
    assert exists.sum(1).tolist() == [3, 2, 0]
    assert sorted(drawn[0][exists[0]].flatten().tolist()) == [0, 1, 2]
    assert sorted(drawn[1][exists[1]].flatten().tolist()) == [4, 5]


def test_the_oldest_entries_leave_first():
    queue = ClassQueue(2, 3, 1)
    for value in range(5):
        wanted = torch.tensor([[True], [value == 2]])
        queue.push(torch.full((2, 1, 1), float(value)), wanted)
    assert sorted(queue.entries[0, :3].flatten().tolist()) == [2, 3, 4]
    assert queue.entries[1, :3].flatten().tolist() == [2, 0, 0]
    assert queue.filled.tolist() == [3, 1]
    many = torch.arange(7.0).view(1, 7, 1).expand(2, 7, 1)
    queue.push(many, torch.ones(2, 7, dtype=torch.bool))
    assert sorted(queue.entries[0, :3].flatten().tolist()) == [0, 1, 2]


def test_only_what_was_entered_is_drawn():
    queue = ClassQueue(3, 10, 2)
    queue.push(torch.ones(3, 4, 2), torch.tensor([[True] * 4, [False] * 4, [True, False, False, False]]))
    drawn, exists = queue.draw(6)
    assert drawn.shape == (1, 18, 2)
    assert exists.view(3, 6).all(1).tolist() == [True, False, True]
    assert (drawn[exists] == 1).all()


def test_a_region_is_the_mean_direction_of_its_pixels():
    labels = torch.tensor([[[0, 0, 1, 255]]])
    features = torch.tensor([[[3.0, 0.0], [0.0, 3.0], [0.0, 2.0], [9.0, 9.0]]])
    means, exists = region_means(features, one_hot(labels, 3).flatten(2))
    assert exists.tolist() == [[True], [True], [False]]
    torch.testing.assert_close(means[0, 0], torch.tensor([0.5, 0.5]).sqrt())
    torch.testing.assert_close(means[1, 0], torch.tensor([0.0, 1.0]))


def test_memory_terms_start_at_zero_grow_with_memory_and_stand_still_in_evaluation():
    method = build_method(
        "cirkd",
        student=tiny_model(CNN),
        teacher=tiny_model(TRANSFORMER),
        num_classes=NUM_CLASSES,
        pixel_weight=0.1,
        region_weight=0.1,
        pixel_queue=50,
        region_queue=10,
        pool=4,
    )
    outputs = random_output(CNN, seed=1), random_output(TRANSFORMER, seed=2)
    first = method(*outputs, random_labels())
    assert first["pixel"] == first["region"] == 0
    second = method(*outputs, random_labels())
    assert min(second["pixel"], second["region"]) > 0
    method.eval()
    before = method.regions.entries.clone()
    method(*outputs, random_labels(seed=3))
    assert torch.equal(method.regions.entries, before)
