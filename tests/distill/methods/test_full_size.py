"""What makes losses affordable at real size changes none of their values."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distill.methods import cross_entropy, cross_image_relation
from distill.methods.relations import mean_pool_valid
from distill.models.heads.layers import resized
from distill.models.heads.registry import HeadInputs
from distill.models.heads.segformer import SegFormerHead


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_the_task_loss_in_blocks_of_pictures_is_that_of_the_whole_batch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    labels = torch.randint(0, 5, (5, 16, 24), generator=torch.Generator().manual_seed(1))
    labels[:, :3] = 255
    found = []
    for largest in (2**28, 2 * 5 * 16 * 24):
        monkeypatch.setattr("distill.methods.pixels.LARGEST_MAP", largest)
        logits = random(5, 5, 4, 6).requires_grad_()
        loss = cross_entropy(logits, labels)
        loss.backward()
        found.append((loss.detach(), logits.grad))
    torch.testing.assert_close(found[0], found[1])


def test_a_pooled_cell_is_the_mean_of_its_valid_positions() -> None:
    maps, valid = random(2, 3, 5, 7), random(2, 5, 7, seed=1) > 0
    pooled, any_valid = mean_pool_valid(maps.masked_fill(~valid[:, None], torch.nan), valid, 2)
    assert pooled.shape == (2, 3, 3, 4)
    for picture, row, column in ((0, 0, 0), (1, 1, 2), (0, 2, 3), (1, 2, 0)):
        cell = (picture, slice(2 * row, 2 * row + 2), slice(2 * column, 2 * column + 2))
        inside = maps[(picture, slice(None), *cell[1:])][:, valid[cell]]
        assert any_valid[picture, row, column] == valid[cell].any()
        expected = inside.mean(1) if inside.numel() else torch.zeros(3, dtype=torch.float64)
        torch.testing.assert_close(pooled[picture, :, row, column], expected)


def test_products_in_bfloat16_change_the_relation_by_their_rounding_only() -> None:
    student, teacher = random(2, 16, 6, 6).float(), random(2, 24, 6, 6, seed=1).float()
    exact = cross_image_relation(student, teacher, 0.1)
    rounded = cross_image_relation(student, teacher, 0.1, products=torch.bfloat16)
    assert rounded.dtype == torch.float32
    assert rounded != exact
    assert rounded.item() == pytest.approx(exact.item(), rel=0.02)


def test_segformers_head_has_the_map_of_the_papers_order() -> None:
    """The paper upsamples the projected stages, joins them and fuses them."""
    torch.manual_seed(0)
    head = SegFormerHead(HeadInputs((8, 12, 16, 24), (4, 8, 16, 32), 5, 10, 0.0)).double().eval()
    stages = tuple(random(2, c, 32 // s, 64 // s, seed=s) for c, s in ((8, 1), (12, 2), (16, 4), (24, 8)))
    joined = torch.cat(
        [
            resized(project(stage), like=stages[0])
            for project, stage in zip(head.project, stages, strict=True)
        ],
        dim=1,
    )
    convolution, norm, activation = head.fuse
    assert isinstance(convolution, nn.Conv2d)
    expected = activation(norm(F.conv2d(joined, convolution.weight)))
    fused, _ = head(stages)  # type: ignore[arg-type]
    torch.testing.assert_close(fused, expected)
