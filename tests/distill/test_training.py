"""A student's training: the same to the bit alone, in company and after a restart; failures stay its own."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.data import AugmentationConfig, ScenesConfig, build_dataset
from distill.data.stream import stream
from distill.models import SegmentationModel, build_model
from distill.normalisation import normalise
from distill.random_state import RandomState
from distill.recipe import Recipe
from distill.testing import maps_of
from distill.training import (
    Batch,
    NonFiniteLossError,
    Reduce,
    Student,
    StudentSpec,
    cast_weights,
    teacher_output,
)

CPU = torch.device("cpu")
SCENES = ScenesConfig(size=(32, 32), classes=4, train=12, teacher_train=12, tune=4, test=4)
STEPS = 6
PADDED = AugmentationConfig(crop=(32, 32))
FULL = AugmentationConfig(crop=(32, 32), scale=(1.0, 2.0))


def recipe(**changes: Any) -> Recipe:
    values = {"steps": STEPS, "batch_size": 4, "augmentation": AugmentationConfig(crop=(32, 32)), "lr": 0.01}
    return Recipe.model_validate({**values, **changes})


def spec(
    method: str = "student", seed: int = 0, model: str = "deeplabv3-test_resnet", **changes: Any
) -> StudentSpec:
    config = changes.pop("method_config", {})
    return StudentSpec(
        model, {"head_channels": 8, "dropout": 0.2}, method, config, recipe(**changes), seed, 4
    )


@pytest.fixture(scope="module")
def teacher() -> SegmentationModel:
    with RandomState(99, CPU):
        model = build_model("segformer-test_vit", 4, head_channels=8)
    return model.eval().requires_grad_(False)


def batches(
    teacher: SegmentationModel | None,
    start: int = 0,
    stop: int = STEPS,
    *,
    view: AugmentationConfig = PADDED,
    reduce: Reduce | None = None,
    **share: int,
) -> list[Batch]:
    source = stream(build_dataset(SCENES, "train"), view, batch_size=4, seed=5, start_step=start, **share)
    found = []
    for _, host in zip(range(start, stop), source, strict=False):
        images = normalise(host.images_b3hw)
        output = None if teacher is None else teacher_output(teacher, images, "fp32")
        found.append(Batch.shared(images, host.labels_bhw.long(), host.index, output, reduce))
    return found


def trajectory(student: Student, given_batches: list[Batch]) -> list[float]:
    losses = []
    for batch in given_batches:
        student.train_step(batch)
        student.check()
        raw, _ = student.read_losses()
        losses.append(math.fsum(raw.values()))
    return losses


def weights(student: Student) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in student.model.state_dict().items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("method", ["student", "kd", "cwd", "heteroakd"])
def test_a_students_losses_are_the_same_to_the_bit_alone_and_in_company(
    teacher: SegmentationModel, method: str
) -> None:
    alone = Student(spec(method), teacher.info, device=CPU)
    expected = trajectory(alone, batches(teacher))
    torch.manual_seed(1234)  # whatever the process did before
    company = [Student(spec(other, seed=7), teacher.info, device=CPU) for other in ("kd", "heteroakd")]
    student = Student(spec(method), teacher.info, device=CPU)
    losses = []
    for batch in batches(teacher):
        company[0].train_step(batch)
        student.train_step(batch)
        company[1].train_step(batch)
        raw, _ = student.read_losses()
        losses.append(math.fsum(raw.values()))
    assert losses == expected
    assert same(weights(student), weights(alone))


def test_gradients_may_travel_while_the_next_student_computes(teacher: SegmentationModel) -> None:
    """A mean that is only there once it is waited for, as between workers."""

    def late(tensor: torch.Tensor) -> Callable[[], None]:
        def arrive() -> None:
            tensor.mul_(0.5)

        return arrive

    def trained(*, overlapped: bool) -> list[tuple[dict[str, float], dict[str, torch.Tensor]]]:
        one, other = (
            Student(spec(method, clip_norm=1.0), teacher.info, device=CPU, reduce=late)
            for method in ("kd", "heteroakd")
        )
        for batch in batches(teacher, reduce=late):
            if overlapped:
                one.begin_step(batch)
                other.begin_step(batch)
                one.end_step()
                other.end_step()
            else:
                one.train_step(batch)
                other.train_step(batch)
        return [(student.read_losses()[0], weights(student)) for student in (one, other)]

    for (losses, end), (others, other_end) in zip(
        trained(overlapped=True), trained(overlapped=False), strict=True
    ):
        assert losses == others
        assert same(end, other_end)


@pytest.mark.parametrize(
    ("method", "changes"),
    [("student", {}), ("heteroakd", {"precision": "bf16", "channels_last": True}), ("cwd", {"optimizer": "adamw", "ema_decay": 0.9}), ("kd", {"accumulate": 2, "clip_norm": 0.1}), ("heteroakd", {"method_config": {"balanced.hakd_weight": 2.0}})],
)  # fmt: skip
def test_a_student_goes_on_from_its_state_as_if_nothing_had_happened(
    teacher: SegmentationModel, method: str, changes: dict[str, Any]
) -> None:
    whole = Student(spec(method, **changes), teacher.info, device=CPU)
    expected = trajectory(whole, batches(teacher))
    first = Student(spec(method, **changes), teacher.info, device=CPU)
    losses = trajectory(first, batches(teacher, 0, 3))
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second = Student(spec(method, **changes), teacher.info, device=CPU)
    second.load_state_dict(torch.load(file, weights_only=True))
    losses += trajectory(second, batches(teacher, 3))
    assert losses == expected
    assert same(second.scored_model.state_dict(), whole.scored_model.state_dict())


def test_training_draws_nothing_from_the_process_random_state(teacher: SegmentationModel) -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    trajectory(Student(spec("heteroakd"), teacher.info, device=CPU), batches(teacher, 0, 2))
    assert torch.equal(torch.get_rng_state(), before)


def test_all_methods_of_one_seed_start_from_the_same_weights(teacher: SegmentationModel) -> None:
    students = [Student(spec(m, seed=4), teacher.info, device=CPU) for m in ("student", "cwd", "heteroakd")]
    assert same(weights(students[0]), weights(students[1]))
    assert same(weights(students[0]), weights(students[2]))
    assert not same(weights(students[0]), weights(Student(spec(seed=5), teacher.info, device=CPU)))


def test_distillation_of_weight_zero_is_the_student_alone_to_the_bit(teacher: SegmentationModel) -> None:
    alone = Student(spec(clip_norm=0.5), teacher.info, device=CPU)
    zero = Student(spec("kd", clip_norm=0.5, method_config={"kd_weight": 0.0}), teacher.info, device=CPU)
    assert trajectory(alone, batches(teacher)) == trajectory(zero, batches(teacher))
    assert same(weights(alone), weights(zero))


def test_a_loss_that_is_not_finite_is_told_with_term_and_step(teacher: SegmentationModel) -> None:
    student = Student(spec(lr=1e30), teacher.info, device=CPU)
    for batch in batches(teacher):
        student.train_step(batch)
    with pytest.raises(NonFiniteLossError, match=r"loss term task is not finite at step \d"):
        student.check()


def test_an_error_of_a_method_is_kept_for_the_check_and_harms_no_neighbour(
    teacher: SegmentationModel,
) -> None:
    alone = trajectory(Student(spec("kd"), teacher.info, device=CPU), batches(teacher))
    broken, student = (Student(spec("kd"), teacher.info, device=CPU) for _ in range(2))
    losses = []
    for step, batch in enumerate(batches(teacher)):
        broken.train_step(batch if step < 2 else Batch(batch.images, batch.labels, batch.index, None))
        losses += trajectory(student, [batch])
    assert losses == alone
    with pytest.raises(ValueError, match="teacher"):
        broken.check()


def test_the_logged_total_is_the_sum_of_weighted_terms(teacher: SegmentationModel) -> None:
    student = Student(
        spec("heteroakd", method_config={"kd_weight": 0.5, "hakd_weight": 3.0}), teacher.info, device=CPU
    )
    student.train_step(batches(teacher, 0, 1)[0])
    raw, weighted = student.read_losses()
    assert weighted["task"] == raw["task"]
    assert weighted["kd"] == pytest.approx(0.5 * raw["kd"])
    assert weighted["hakd"] == pytest.approx(3.0 * raw["hakd"])


@pytest.mark.parametrize(("method", "view"), [("student", PADDED), ("kd", FULL), ("cwd", FULL)])
def test_micro_batches_add_up_to_the_batch_where_no_layer_looks_across_pictures(
    teacher: SegmentationModel, method: str, view: AugmentationConfig
) -> None:
    whole, parts = (
        Student(StudentSpec("deeplabv3-test_resnet", {"head_channels": 8, "dropout": 0.0}, method, {},
                            recipe(accumulate=n, norm="group"), 0, 4), teacher.info, device=CPU)
        for n in (1, 2)
    )  # fmt: skip
    expected = trajectory(whole, batches(teacher, view=view))
    assert trajectory(parts, batches(teacher, view=view)) == pytest.approx(expected, abs=1e-4)


def test_clipping_bounds_the_step(teacher: SegmentationModel) -> None:
    student = Student(
        spec(optimizer="sgd", momentum=0.0, weight_decay=0.0, lr=1.0, clip_norm=1e-3), None, device=CPU
    )
    before = weights(student)
    student.train_step(batches(teacher, 0, 1)[0])
    names = [name for name, _ in student.model.named_parameters()]
    moved = torch.sqrt(sum(((weights(student)[n] - before[n]) ** 2).sum() for n in names))  # type: ignore[arg-type]
    assert float(moved) == pytest.approx(1e-3, rel=1e-3)


def test_the_averaged_model_follows_the_recursion(teacher: SegmentationModel) -> None:
    student = Student(spec(ema_decay=0.5), None, device=CPU)
    name = next(n for n, _ in student.model.named_parameters())
    given_batches = batches(teacher, 0, 3)
    student.train_step(given_batches[0])
    expected = weights(student)[name]
    for batch in given_batches[1:]:
        student.train_step(batch)
        expected = 0.5 * expected + 0.5 * weights(student)[name]
    torch.testing.assert_close(student.scored_model.state_dict()[name], expected)


@given(
    schedule=st.sampled_from(["poly", "cosine", "one_cycle"]),
    steps=st.integers(1, 500),
    warmup=st.integers(0, 100),
)
@settings(max_examples=100, deadline=None)
def test_every_schedule_stays_within_its_peak_and_ends_low(schedule: str, steps: int, warmup: int) -> None:
    found = recipe(schedule=schedule, steps=steps, warmup_steps=min(warmup, steps // 2))
    factors = [found.lr_factor(step) for step in range(steps)]
    assert all(0 < factor <= 1 for factor in factors)
    if steps > 20 and schedule != "one_cycle":
        assert factors[-1] < 0.2


def test_poly_is_the_fields_formula() -> None:
    assert recipe(steps=40_000).lr_factor(10_000) == pytest.approx((1 - 10_000 / 40_000) ** 0.9)


def test_heads_and_projectors_learn_at_the_heads_rate_and_adamw_spares_norms() -> None:
    student = Student(
        spec(optimizer="adamw", head_lr_factor=10.0, weight_decay=0.1, lr=1e-3), None, device=CPU
    )
    head = {id(p) for p in student.model.head_parameters()}
    for group in student.optimizer.param_groups:
        for parameter in group["params"]:
            assert group["peak_lr"] == pytest.approx(1e-2 if id(parameter) in head else 1e-3)
            assert group["weight_decay"] == (0.1 if parameter.ndim > 1 else 0.0)


def _half(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)

    def mean(tensor: torch.Tensor) -> Callable[[], None]:
        dist.all_reduce(tensor)
        tensor /= 2
        return lambda: None

    teacher = _plain_teacher()
    for number, (method, config, view) in enumerate(SHARED):
        student = Student(
            _no_batch_statistics(method, config), teacher.info, device=CPU, rank=rank, reduce=mean
        )
        losses = trajectory(student, batches(teacher, 0, 20, view=view, reduce=mean, rank=rank, world_size=2))
        torch.save(losses, f"{folder}/losses{number}-{rank}")
    dist.destroy_process_group()


def _plain_teacher() -> SegmentationModel:
    with RandomState(99, CPU):
        return build_model("segformer-test_vit", 4, head_channels=8).eval().requires_grad_(False)


def _no_batch_statistics(method: str, config: dict[str, Any]) -> StudentSpec:
    return StudentSpec("deeplabv3-test_resnet", {"head_channels": 8, "dropout": 0.0}, method, config,
                       recipe(norm="group", steps=20), 0, 4)  # fmt: skip


SHARED: list[tuple[str, dict[str, Any], AugmentationConfig]] = [
    ("student", {}, PADDED), ("kd", {}, FULL), ("kd", {"balanced.kd_weight": 2.0}, FULL),
]  # fmt: skip


@pytest.fixture(scope="module")
def halves(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Losses of both workers, for each of `SHARED`."""
    folder = tmp_path_factory.mktemp("halves")
    run: Callable[..., Any] = mp.spawn  # type: ignore[attr-defined]
    run(_half, (str(folder),), nprocs=2)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(SHARED)))
def test_two_workers_with_half_the_batch_each_give_the_losses_of_one(halves: Path, number: int) -> None:
    """Over 20 steps, to 1e-4; also where padding gives the halves different numbers of valid pixels."""
    method, config, view = SHARED[number]
    teacher = _plain_teacher()
    alone = Student(_no_batch_statistics(method, config), teacher.info, device=CPU)
    expected = trajectory(alone, batches(teacher, 0, 20, view=view))
    for rank in range(2):
        assert torch.load(halves / f"losses{number}-{rank}") == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("name", ["segformer-test_vit", "deeplabv3-test_resnet"])
def test_a_teacher_with_cast_weights_gives_the_same_output_to_the_bit(name: str) -> None:
    model = build_model(name, 5, head_channels=8).eval().requires_grad_(False)
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    before = teacher_output(model, images, "bf16")
    cast_weights(model, "bf16")
    assert any(parameter.dtype == torch.bfloat16 for parameter in model.parameters())
    after = teacher_output(model, images, "bf16")
    assert all(
        torch.equal(ours, theirs) for ours, theirs in zip(maps_of(after), maps_of(before), strict=True)
    )
