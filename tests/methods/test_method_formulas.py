"""Formulas against float64 loops and finite differences."""

import loop_formulas as loops
import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from method_cases import cases, for_all, make_case
from torch.autograd import gradcheck

from distill.methods import channel_kl, cross_entropy, pixel_kl
from distill.methods.pixels import lowest, resize_labels


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


FORMULAS = {
    "cross_entropy": lambda s, t, y: cross_entropy(s, y),
    "pixel_kl": lambda s, t, y: pixel_kl(s, t, 2.0, y != 255),
    "channel_kl": lambda s, t, y: channel_kl(s, t, 3.0, y != 255),
}


@pytest.mark.parametrize("formula", FORMULAS.values(), ids=FORMULAS.keys())
def test_gradients_match_finite_differences(formula, case):
    student, teacher, labels = case.tensors(torch.float64)
    assert gradcheck(lambda s: formula(s, teacher, labels), student.requires_grad_())


@pytest.mark.parametrize("formula", FORMULAS.values(), ids=FORMULAS.keys())
def test_no_gradient_reaches_the_teacher(formula, case):
    student, teacher, labels = case.tensors()
    formula(student.requires_grad_(), teacher.requires_grad_(), labels).backward()
    assert teacher.grad is None


@pytest.mark.parametrize("name", [name for name in FORMULAS if name != "cross_entropy"])
def test_a_student_equal_to_its_teacher_has_nothing_to_learn(name, case):
    student, _, labels = case.tensors(torch.float64)
    assert FORMULAS[name](student, student.clone(), labels).abs() < 1e-7


@pytest.mark.parametrize("formula", FORMULAS.values(), ids=FORMULAS.keys())
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
    for formula in (FORMULAS["pixel_kl"], FORMULAS["channel_kl"]):
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
