"""Formulas against float64 loops and finite differences."""

import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from torch.autograd import gradcheck

from distill.methods import (
    attention_transfer,
    boundary_kl,
    channel_kl,
    cross_entropy,
    cross_image_relation,
    feature_mse,
    intra_class_variation,
    masked_generation,
    omni_contrast,
    pairwise_similarity,
    pearson_relation,
    pixel_kl,
    relations,
    target_enhanced,
)
from distill.methods.bpkd import body_kl, class_edges
from distill.methods.pixels import lowest, resize_labels
from tests.distill.methods import loop_formulas as loops
from tests.distill.methods.method_cases import cases, for_all, make_case


@pytest.fixture
def case():
    return make_case(2, 4, 5, 3, 1.5, 0.3, 0)


temperatures = st.floats(0.5, 8)


def agrees(ours, loop):
    assert float(ours) == pytest.approx(float(loop), rel=1e-5, abs=1e-5)


@for_all(cases())
def test_cross_entropy_is_the_mean_over_valid_pixels(case):
    logits, _, labels = case.tensors()
    agrees(cross_entropy(logits, labels), loops.cross_entropy(case.student, case.labels))


@for_all(cases(), temperatures)
def test_pixel_kl_agrees_with_a_loop_over_pixels(case, temperature):
    student, teacher, _ = case.tensors()
    ours = pixel_kl(student, teacher, temperature, case.valid)
    agrees(ours, loops.pixel_kl(case.student, case.teacher, case.labels, temperature))


@for_all(cases(), temperatures)
def test_channel_kl_agrees_with_a_loop_over_channels(case, temperature):
    student, teacher, _ = case.tensors()
    ours = channel_kl(student, teacher, temperature, case.valid)
    agrees(ours, loops.channel_kl(case.student, case.teacher, case.labels, temperature))


factors = st.floats(0, 3)


@for_all(cases(), factors, factors, temperatures)
def test_pearson_relation_agrees_with_correlations_in_a_loop(case, beta, gamma, temperature):
    student, teacher, _ = case.tensors(torch.float64)
    ours = pearson_relation(student, teacher, beta, gamma, temperature, case.valid)
    loop = loops.pearson_relation(case.student, case.teacher, case.labels, beta, gamma, temperature)
    agrees(ours, loop)


@for_all(cases(), st.integers(1, 4))
def test_pairwise_similarity_agrees_with_a_loop_over_pairs_of_positions(case, pool):
    student, teacher, _ = case.tensors()
    ours = pairwise_similarity(student, teacher, pool, case.valid)
    agrees(ours, loops.pairwise_similarity(case.student, case.teacher, case.labels, pool))


@for_all(cases())
def test_intra_class_variation_agrees_with_a_loop_over_pixels(case):
    student, teacher, labels = case.tensors()
    ours = intra_class_variation(student, teacher, labels, student.shape[1])
    agrees(ours, loops.intra_class_variation(case.student, case.teacher, case.labels))


@for_all(cases())
def test_attention_transfer_agrees_with_a_loop_over_images(case):
    student, teacher, _ = case.tensors()
    ours = attention_transfer(student, teacher, case.valid)
    agrees(ours, loops.attention_transfer(case.student, case.teacher, case.labels))


@for_all(cases())
def test_feature_mse_agrees_with_a_loop_over_pixels(case):
    student, teacher, _ = case.tensors()
    agrees(
        feature_mse(student, teacher, case.valid), loops.feature_mse(case.student, case.teacher, case.labels)
    )


@for_all(cases(max_size=4), st.floats(0.05, 1))
def test_cross_image_relation_agrees_with_a_loop_over_pairs_of_pixels(case, temperature):
    student, teacher, _ = case.tensors()
    ours = cross_image_relation(student, teacher, temperature, case.valid)
    agrees(ours, loops.cross_image_relation(case.student, case.teacher, case.labels, temperature))


@for_all(cases(), st.floats(1, 3))
def test_target_enhanced_agrees_with_a_loop_over_pixels(case, gamma):
    student, teacher, labels = case.tensors()
    ours = target_enhanced(student, teacher, labels, gamma)
    agrees(ours, loops.target_enhanced(case.student, case.teacher, case.labels, gamma))


def test_an_exponent_of_one_is_cross_entropy_to_the_teacher(case):
    student, teacher, labels = case.tensors()
    soft = -(teacher.softmax(1) * student.log_softmax(1)).sum(1)[case.valid].mean()
    torch.testing.assert_close(target_enhanced(student, teacher, labels, 1.0), soft)


@for_all(cases())
def test_masked_generation_is_the_sum_over_valid_positions_per_image(case):
    restored, teacher, _ = case.tensors()
    ours = masked_generation(restored, teacher, case.valid)
    agrees(ours, loops.masked_generation(case.student, case.teacher, case.labels))


@for_all(
    cases(channels=st.sampled_from([4, 8])), st.sampled_from([2, 4]), st.integers(1, 3), st.integers(1, 3)
)
def test_omni_contrast_agrees_with_a_loop_over_positions_and_groups(case, groups, patch, pool):
    student, teacher, _ = case.tensors()
    ours = omni_contrast(student, teacher, groups, patch, pool, 2.0, case.valid)
    loop = loops.omni_contrast(case.student, case.teacher, case.labels, groups, patch, pool, 2.0)
    assert float(ours) == pytest.approx(float(loop), rel=1e-5, abs=1e-5)


@for_all(cases(max_size=12), st.sampled_from([3, 5, 7]))
def test_edges_are_dilation_minus_erosion_of_every_class(case, kernel):
    edges = class_edges(torch.tensor(case.labels), kernel)
    assert np.array_equal(edges.numpy(), loops.class_edges(case.labels, kernel))


@for_all(cases(), temperatures)
def test_boundary_and_body_split_the_valid_pixels(case, temperature):
    student, teacher, labels = case.tensors()
    edges = loops.class_edges(case.labels, 3)
    edge_labels = np.where(edges, case.labels, 255)
    body_labels = np.where(edges, 255, case.labels)
    agrees(
        boundary_kl(student, teacher, labels, 3, temperature),
        loops.pixel_kl(case.student, case.teacher, edge_labels, temperature),
    )
    agrees(
        body_kl(student, teacher, labels, 3, temperature),
        loops.channel_kl(case.student, case.teacher, body_labels, temperature),
    )


FORMULAS = {
    "pixel_kl": lambda s, t, y: pixel_kl(s, t, 2.0, y != 255),
    "channel_kl": lambda s, t, y: channel_kl(s, t, 3.0, y != 255),
    "pearson_relation": lambda s, t, y: pearson_relation(s, t, 0.7, 1.3, 2.0, y != 255),
    "pairwise_similarity": lambda s, t, y: pairwise_similarity(s, t, 2, y != 255),
    "intra_class_variation": lambda s, t, y: intra_class_variation(s, t, y, s.shape[1]),
    "attention_transfer": lambda s, t, y: attention_transfer(s, t, y != 255),
    "cross_image_relation": lambda s, t, y: cross_image_relation(s, t, 0.3, y != 255),
    "masked_generation": lambda s, t, y: masked_generation(s, t, y != 255),
    "boundary_kl": lambda s, t, y: boundary_kl(s, t, y, 3, 2.0),
    "body_kl": lambda s, t, y: body_kl(s, t, y, 3, 2.0),
    "feature_mse": lambda s, t, y: feature_mse(s, t, y != 255),
}

NEVER_ZERO = {
    "cross_entropy": lambda s, t, y: cross_entropy(s, y),
    "target_enhanced": lambda s, t, y: target_enhanced(s, t, y),
    "omni_contrast": lambda s, t, y: omni_contrast(s, t, 2, 2, 2, 1.0, y != 255),
}
EVERY = {**NEVER_ZERO, **FORMULAS}


@pytest.mark.parametrize("formula", EVERY.values(), ids=EVERY.keys())
def test_gradients_match_finite_differences(formula, case):
    student, teacher, labels = case.tensors(torch.float64)
    assert gradcheck(lambda s: formula(s, teacher, labels), student.requires_grad_())


@pytest.mark.parametrize("formula", EVERY.values(), ids=EVERY.keys())
def test_no_gradient_reaches_the_teacher(formula, case):
    student, teacher, labels = case.tensors()
    formula(student.requires_grad_(), teacher.requires_grad_(), labels).backward()
    assert teacher.grad is None


@pytest.mark.parametrize("name", FORMULAS)
def test_a_student_equal_to_its_teacher_has_nothing_to_learn(name, case):
    student, _, labels = case.tensors(torch.float64)
    assert FORMULAS[name](student, student.clone(), labels).abs() < 1e-7


@pytest.mark.parametrize("formula", EVERY.values(), ids=EVERY.keys())
def test_half_precision_input_is_computed_in_float32_even_under_autocast(formula, case):
    student, teacher, labels = (x.bfloat16() if x.is_floating_point() else x for x in case.tensors())
    with torch.autocast("cpu", torch.bfloat16):
        ours = formula(student, teacher, labels)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, formula(student.double(), teacher.double(), labels).float())


def test_peaked_logits_stay_finite():
    student = torch.tensor([[[[2000.0]], [[-2000.0]]]]).requires_grad_()
    for formula in (pixel_kl, channel_kl):
        loss = formula(student, -student.detach(), 1.0)
        loss.backward()
        assert loss.isfinite()
        assert student.grad.isfinite().all()


def test_teacher_maps_of_another_size_come_to_the_students_grid():
    student, teacher, labels = make_case(2, 4, 6, 9, 1.0, 0.2, 1).tensors()
    coarse = torch.nn.functional.interpolate(teacher, (3, 5), mode="bilinear")
    for formula in EVERY.values():
        back = torch.nn.functional.interpolate(coarse, (6, 9), mode="bilinear")
        torch.testing.assert_close(formula(student, coarse, labels), formula(student, back, labels))


def test_labels_shrink_to_the_pixel_under_each_cells_centre():
    labels = torch.arange(64).view(1, 8, 8)
    assert resize_labels(labels, (2, 2)).flatten().tolist() == [18, 22, 50, 54]
    assert torch.equal(resize_labels(resize_labels(labels, (24, 16)), (8, 8)), labels)


@for_all(st.integers(1, 30), st.integers(1, 30))
def test_label_resizing_agrees_with_exact_nearest_interpolation(size, other):
    labels = torch.arange(size * size).view(1, size, size)
    exact = torch.nn.functional.interpolate(labels[None].double(), (other, other), mode="nearest-exact")
    centres = (np.arange(other) + 0.5) * size / other
    if not np.allclose(centres, np.round(centres)):  # on a tie both neighbours are as near
        assert torch.equal(resize_labels(labels, (other, other)), exact[0].long())


def test_the_lowest_logit_has_no_share_in_a_softmax():
    logits = torch.tensor([0.0, lowest(torch.zeros(1)), -50.0])
    assert torch.softmax(logits, 0)[1] == 0
    assert torch.softmax(logits.new_full((3,), lowest(logits)), 0).tolist() == pytest.approx([1 / 3] * 3)


@pytest.mark.parametrize("formula", [pairwise_similarity, cross_image_relation])
def test_relations_in_blocks_give_the_same_value_and_gradient(formula, monkeypatch):
    student, teacher, _ = make_case(2, 4, 6, 7, 1.0, 0, 5).tensors(torch.float64)
    results = []
    for elements in (2**24, 100):
        monkeypatch.setattr(relations, "BLOCK_ELEMENTS", elements)
        ours = student.clone().requires_grad_()
        loss = formula(ours, teacher)
        loss.backward()
        results.append((loss.detach(), ours.grad))
    torch.testing.assert_close(*results)


def test_pairwise_similarity_is_as_exact_where_student_and_teacher_nearly_agree():
    """More positions than channels: the sum over pairs is a difference of sums that nearly cancel."""
    torch.manual_seed(0)
    teacher = torch.randn(2, 16, 24, 40).relu()
    student = (teacher + 0.05 * torch.randn_like(teacher)).requires_grad_()
    ours = pairwise_similarity(student, teacher, 1)
    ours.backward()
    exact = student.detach().double().requires_grad_()
    unit = torch.nn.functional.normalize
    mine, theirs = unit(exact).flatten(2), unit(teacher.double()).flatten(2)
    expected = (mine.transpose(1, 2) @ mine - theirs.transpose(1, 2) @ theirs).square().mean()
    expected.backward()
    assert float(expected.detach()) < 1e-3
    torch.testing.assert_close(ours.double(), expected, rtol=1e-4, atol=0)
    torch.testing.assert_close(
        student.grad.double(), exact.grad, rtol=1e-3, atol=1e-3 * exact.grad.abs().max().item()
    )


def test_a_feature_of_zero_gets_no_gradient_however_unlike_its_teacher():
    """A division by a vanishing length would blow up a whole step."""
    student, teacher, _ = make_case(1, 3, 4, 4, 1.0, 0, 2).tensors()
    student[..., 0, 0] = 0
    student.requires_grad_()
    labels = torch.zeros(1, 4, 4, dtype=torch.long)
    for name in ("pairwise_similarity", "intra_class_variation", "cross_image_relation"):
        student.grad = None
        EVERY[name](student, teacher, labels).backward()
        assert student.grad.any(), name
        assert student.grad[..., 0, 0].abs().max() < 10, name
