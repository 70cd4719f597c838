"""What follows from HeteroAKD's equations."""

import itertools

import pytest
import torch
from hypothesis import strategies as st
from torch.autograd import gradcheck
from torch.nn import functional as F

from distill.errors import UsageError
from distill.methods import build_method, hetero_akd, train_teacher_projector
from distill.methods.knowledge import (
    class_uncertainty,
    evaluate_knowledge,
    mix_knowledge,
    weighted_soft_cross_entropy,
)
from distill.methods.projector import LogitsProjector
from distill.methods.readings import HeteroAKDConfig
from distill.methods.taps import stride8_stage, tap_features
from distill.testing import CNN, NUM_CLASSES, TRANSFORMER, random_labels, random_output, tiny_model
from tests.distill.methods import loop_formulas as loops
from tests.distill.methods.heteroakd_cases import build, losses
from tests.distill.methods.method_cases import cases, for_all, make_case

OPTIONS = list(
    itertools.product([True, False], ["class", "space", "none"], [False, True], ["class", "pixel"])
)


def options(mixing, kem_axis, scale_by_classes, weight_per):
    return {
        "mixing": mixing,
        "kem_axis": kem_axis,
        "scale_by_classes": scale_by_classes,
        "weight_per": weight_per,
    }


def parts(case):
    """Z_s, Z_t, Z_hyb and their uncertainties in float64."""
    student, teacher, labels = case.tensors(torch.float64)
    h_s, h_t = class_uncertainty(student, labels), class_uncertainty(teacher, labels)
    mixed = mix_knowledge(student, teacher, h_s, h_t)
    return student, teacher, mixed, h_s, h_t, class_uncertainty(mixed, labels)


@for_all(cases(max_scale=5), st.floats(0.5, 8), st.sampled_from(OPTIONS))
def test_it_agrees_with_a_loop_for_every_switch(case, temperature, switches):
    student, teacher, labels = case.tensors()
    ours = hetero_akd(student, teacher, labels, temperature, **options(*switches))
    loop = loops.hetero_akd(case.student, case.teacher, case.labels, temperature, *switches)
    assert float(ours) == pytest.approx(float(loop), rel=1e-5, abs=1e-5)


@for_all(cases())
def test_mixed_logits_lie_between_both(case):
    student, teacher, mixed, *_ = parts(case)
    assert (mixed >= torch.minimum(student, teacher) - 1e-12).all()
    assert (mixed <= torch.maximum(student, teacher) + 1e-12).all()


@for_all(cases())
def test_mixed_uncertainty_is_at_most_the_harmonic_mean(case):
    *_, h_s, h_t, h_mixed = parts(case)
    assert (h_mixed <= 2 * h_t * h_s / (h_t + h_s) * (1 + 1e-9)).all()


@for_all(cases())
def test_the_mix_improves_exactly_where_the_teacher_errs_less(case):
    *_, h_s, h_t, h_mixed = parts(case)
    assert torch.equal(h_s - h_mixed > 0, h_t < h_s)


@for_all(cases())
def test_equal_logits_mix_to_themselves_at_equal_shares(case):
    student, _, labels = case.tensors()
    h = class_uncertainty(student, labels)
    mixed = mix_knowledge(student, student, h, h)
    assert torch.equal(mixed, student)
    between = mix_knowledge(torch.zeros_like(student), torch.ones_like(student), h, h)
    assert torch.equal(between, torch.full_like(student, 0.5))


def test_logits_certain_beyond_float_precision_share_equally():
    right = torch.full((1, 1, 1, 1), 500.0)
    h = class_uncertainty(right, torch.zeros(1, 1, 1, dtype=torch.long))
    assert h.item() == 0
    assert mix_knowledge(right, 2 * right, h, h).item() == 750


@for_all(cases(), st.sampled_from(["class", "space", "none"]))
def test_weights_sum_to_one_over_classes_or_average_to_one_over_space(case, axis):
    *_, h_s, _, h_mixed = parts(case)
    weight = evaluate_knowledge(h_s, h_mixed, case.valid, axis)
    if axis == "space":
        means = (weight * case.valid[:, None]).sum((2, 3)) / case.valid.sum((1, 2)).clamp(min=1)[:, None]
        filled = case.valid.any(2).any(1)
        torch.testing.assert_close(means[filled], torch.ones_like(means[filled]))
    else:
        torch.testing.assert_close(weight.sum(1), torch.ones_like(weight.sum(1)))


@for_all(cases(), st.sampled_from(["class", "pixel"]))
def test_a_uniform_scaled_weight_is_plain_cross_entropy(case, weight_per):
    student, teacher, labels = case.tensors(torch.float64)
    switches = options(False, "none", True, weight_per)
    ours = hetero_akd(student, teacher, labels, **switches)
    plain = -(teacher.softmax(1) * student.log_softmax(1)).sum(1)[case.valid].sum()
    assert float(ours) == pytest.approx(float(plain / case.valid.sum().clamp(min=1)))


@pytest.mark.parametrize("switches", OPTIONS)
def test_the_gradient_is_that_of_a_fixed_target_and_weight(switches, case):
    student, teacher, labels = case.tensors(torch.float64)
    student.requires_grad_()
    hetero_akd(student, teacher, labels, 2.0, **options(*switches)).backward()
    mixing, axis, scale, per = switches
    _, _, mixed, h_s, _, h_mixed = parts(case)
    if not mixing:
        mixed, h_mixed = teacher, class_uncertainty(teacher, labels)
    target = (mixed / 2).softmax(1)
    weight = evaluate_knowledge(h_s, h_mixed, case.valid, axis, scale)
    weight = (weight * target).sum(1, keepdim=True) if per == "pixel" else weight

    def fixed(logits):
        return weighted_soft_cross_entropy(logits, target, weight, case.valid, 2.0)

    again = student.detach().clone().requires_grad_()
    fixed(again).backward()
    torch.testing.assert_close(student.grad, again.grad)
    assert gradcheck(fixed, again)


@pytest.mark.parametrize(("per", "unbiased"), [("class", False), ("pixel", True)])
def test_a_weight_per_class_biases_the_minimiser_and_a_weight_per_pixel_does_not(per, unbiased):
    target = torch.tensor([0.6, 0.3, 0.1]).view(1, 3, 1, 1)
    weight = torch.tensor([0.2, 0.3, 0.5]).view(1, 3, 1, 1)
    factor = (weight * target).sum(1, keepdim=True) if per == "pixel" else weight
    logits = torch.zeros(1, 3, 1, 1, requires_grad=True)
    optimizer = torch.optim.LBFGS([logits], max_iter=100, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = weighted_soft_cross_entropy(logits, target, factor, torch.ones(1, 1, 1, dtype=torch.bool))
        loss.backward()
        return loss

    optimizer.step(closure)
    best = target if unbiased else weight * target / (weight * target).sum()
    torch.testing.assert_close(logits.detach().softmax(1), best, atol=1e-3, rtol=0)


def test_with_the_relu_no_class_can_be_denied():
    features = torch.randn(2, 7, 5, 5)
    assert torch.sigmoid(LogitsProjector(7, 4)(features)).min() >= 0.5
    assert torch.sigmoid(LogitsProjector(7, 4, final_relu=False)(features)).min() < 0.5


@pytest.mark.parametrize(("classes", "most"), [(19, 0.23), (21, 0.23), (150, 0.05)])
def test_class_weights_make_the_term_a_small_part_of_cross_entropy_and_space_weights_a_larger_one(
    classes, most
):
    for scale in (0.5, 1.0, 2.0):
        student, teacher, labels = make_case(1, classes, 16, 16, scale, 0.1, 3).tensors()
        plain = hetero_akd(student, teacher, labels, kem_axis="none", scale_by_classes=True)
        by_class = hetero_akd(student, teacher, labels, kem_axis="class")
        by_space = hetero_akd(student, teacher, labels, kem_axis="space")
        assert 0.5 / classes < by_class / plain < most
        assert by_space > 4 * by_class


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("axis", ["class", "space"])
def test_ignored_pixels_may_hold_anything(value, axis, case):
    student, teacher, labels = case.tensors()
    ignored = (labels == 255)[:, None]
    results = []
    for fill in (0.0, value):
        ours = student.masked_fill(ignored, fill).requires_grad_()
        loss = hetero_akd(ours, teacher.masked_fill(ignored, fill), labels, kem_axis=axis)
        loss.backward()
        results.append((loss.detach(), ours.grad))
    torch.testing.assert_close(results[0], results[1], atol=0, rtol=0)


def test_the_stable_preset_sets_three_switches_and_given_settings_win():
    stable = HeteroAKDConfig(preset="stable")
    assert (stable.final_relu, stable.scale_by_classes, stable.weight_per) == (False, True, "pixel")
    assert HeteroAKDConfig(preset="stable", final_relu=True).final_relu
    paper = HeteroAKDConfig(preset="paper")
    assert (paper.final_relu, paper.scale_by_classes, paper.weight_per) == (True, False, "class")
    assert (paper.kd_weight, paper.hakd_weight, paper.temperature, paper.tap) == (0.1, 1, 1, "stage4")


def test_without_the_heterogeneous_term_it_is_logits_distillation():
    ours = losses(build(hakd_weight=0))
    kd = build_method("kd", student=tiny_model(CNN), teacher=tiny_model(TRANSFORMER), num_classes=NUM_CLASSES)
    assert ours == losses(kd)
    assert not list(build(hakd_weight=0).parameters())


@pytest.mark.parametrize(
    ("config", "student_learns", "teacher_learns"),
    [
        ({}, True, True),
        ({"proj_supervision": "student"}, True, False),
        ({"proj_supervision": "none"}, True, False),
        ({"proj_weight": 0}, True, False),
        ({"teacher_projector": "pretrained"}, True, False),
    ],
)
def test_the_teachers_projector_learns_from_its_own_cross_entropy_only(
    config, student_learns, teacher_learns
):
    method = build(**config)
    if "teacher_projector" in config:
        method.use_prepared(
            LogitsProjector(tiny_model(TRANSFORMER).info.channels[3], NUM_CLASSES).state_dict()
        )
    torch.stack(list(losses(method).values())).sum().backward()
    assert all((p.grad is not None) == student_learns for p in method.student_projector.parameters())
    assert all((p.grad is not None) == teacher_learns for p in method.teacher_projector.parameters())


def frozen_features(count):
    for seed in range(count):
        labels = random_labels(seed=seed)
        signal = F.one_hot(labels[:, ::32, ::32], NUM_CLASSES).permute(0, 3, 1, 2).float()
        noise = tap_features(
            random_output(TRANSFORMER, seed=seed), tiny_model(TRANSFORMER).info, "stage4"
        ).detach()
        noise[:, :NUM_CLASSES] += 3 * signal
        yield noise, labels.view(2, 2, 32, 4, 32).float().mean((2, 4)).round().long()


def test_a_pretrained_projector_must_be_loaded_and_stays_as_it_is():
    method = build(teacher_projector="pretrained")
    with pytest.raises(UsageError, match="none was loaded"):
        losses(method)
    projector = train_teacher_projector(
        LogitsProjector(tiny_model(TRANSFORMER).info.channels[3], NUM_CLASSES), frozen_features(5), steps=5
    )
    method.use_prepared(projector.state_dict())
    method.train()
    before = {k: v.clone() for k, v in method.teacher_projector.state_dict().items()}
    losses(method)
    assert all(torch.equal(v, before[k]) for k, v in method.teacher_projector.state_dict().items())
    again = build(teacher_projector="pretrained")
    again.load_state_dict(method.state_dict())
    assert losses(again, seed=3)["hakd"].isfinite()
    with pytest.raises(UsageError, match="must be 'pretrained'"):
        build().use_prepared(projector.state_dict())


def test_training_a_teachers_projector_lowers_its_cross_entropy():
    def loss(projector):
        features, labels = next(frozen_features(1))
        return F.cross_entropy(projector.eval()(features), labels).item()

    torch.manual_seed(0)
    projector = LogitsProjector(tiny_model(TRANSFORMER).info.channels[3], NUM_CLASSES)
    before = loss(projector)
    train_teacher_projector(projector, frozen_features(100), steps=100, learning_rate=0.02)
    assert loss(projector) < 0.8 * before
    with pytest.raises(UsageError, match="0 batches"):
        train_teacher_projector(projector, [], steps=3)


@pytest.mark.parametrize(
    ("strides", "stage"),
    [((4, 8, 8, 8), 4), ((4, 8, 16, 32), 2), ((16, 16, 16, 16), 4), ((4, 16, 16, 16), 1), ((2, 4, 8, 16), 3)],
)
def test_stride8_is_the_deepest_stage_that_fine_or_the_nearest(strides, stage):
    assert stride8_stage(strides) == stage - 1
