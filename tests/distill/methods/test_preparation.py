"""What is trained on the frozen teacher beforehand serves every student of that teacher."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from distill.methods import build_method
from distill.models import Output, SegmentationModel, build_model
from distill.random_state import RandomState
from distill.training import teacher_output

CPU = torch.device("cpu")


def test_a_prepared_projector_is_frozen_shared_and_gives_the_teachers_features_a_meaning() -> None:
    with RandomState(3, CPU):
        teacher = build_model("deeplabv3-test_resnet", 4, head_channels=8).eval().requires_grad_(False)
        student = build_model("segformer-test_vit", 4, head_channels=8)
        images, labels = torch.randn(4, 3, 32, 32), torch.zeros(4, 32, 32, dtype=torch.int64)
    labels[:, :, 16:] = 1
    images[:, :, :, 16:] += 3.0

    def batches(model: SegmentationModel) -> Iterator[tuple[Output, torch.Tensor]]:
        for _ in range(120):
            yield teacher_output(model, images, "fp32"), labels

    first, second = (
        build_method(
            "heteroakd",
            student=student,
            teacher=teacher,
            num_classes=4,
            teacher_projector="pretrained",
            tap="stage1",
        )
        for _ in range(2)
    )
    assert first.preparation == second.preparation is not None
    with RandomState(0, CPU):
        state = first.prepare(batches(teacher))
    for method in (first, second):
        method.use_prepared(state)
        method.train()
        terms = method(student(images), teacher_output(teacher, images, "fp32"), labels)
        terms["hakd"].backward()
        assert all(p.grad is None for p in method.teacher_projector.parameters())  # type: ignore[attr-defined]
    features = teacher_output(teacher, images, "fp32").stages[0]
    predicted = second.teacher_projector(features).argmax(1)  # type: ignore[attr-defined,operator]
    truth = labels[:, ::4, ::4]
    assert (predicted == truth).float().mean() > 0.9


def test_methods_that_prepare_nothing_say_so() -> None:
    student = build_model("deeplabv3-test_resnet", 4, head_channels=8)
    for name in ("student", "kd", "heteroakd"):
        assert build_method(name, student=student, teacher=student, num_classes=4).preparation is None
