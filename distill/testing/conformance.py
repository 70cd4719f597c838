"""Conformance tests for methods, also for those of other packages.

    from distill.testing import MethodConformance

    class TestMyMethod(MethodConformance):
        method = "my_method"

pytest then runs every check below for each of `configs` and each pair of networks.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import io
import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from distill.methods import Method, build_method, cross_entropy, method_class
from distill.methods.config import setting_names
from distill.models import Output, SegmentationModel, build_model
from distill.testing.short_training import short_student, train_short, two_workers
from distill.training import Reduce, Student

NUM_CLASSES = 5
IMAGE_SIZE = (64, 128)

CNN = "deeplabv3-test_efficientnet"
TRANSFORMER = "segformer-mit_b0"
PLAIN_TRANSFORMER = "segformer-test_vit"
PAIRS = {
    "transformer-teaches-cnn": (TRANSFORMER, CNN),
    "cnn-teaches-transformer": (CNN, PLAIN_TRANSFORMER),
    "same-network": (CNN, CNN),
}
Pair = tuple[str, str]


@functools.cache
def tiny_model(name: str) -> SegmentationModel:
    """A small real network with fixed random weights, in evaluation mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build_model(name, NUM_CLASSES, head_channels=32).eval()


@functools.cache
def _maps(name: str, batch: int, size: tuple[int, int], seed: int) -> Output:
    images = torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        output: Output = tiny_model(name)(images)
    return map_output(_spread, output)


def _spread(maps_bchw: Tensor) -> Tensor:
    """Standardise channels: outputs of random weights vary little over positions."""
    variance, mean = torch.var_mean(maps_bchw, (0, 2, 3), keepdim=True)
    return (maps_bchw - mean) / (variance.sqrt() + 1e-6)


def random_output(name: str, *, batch: int = 2, size: tuple[int, int] = IMAGE_SIZE, seed: int = 0) -> Output:
    """Standardised output of `tiny_model(name)` for images of noise, as leaves that require gradients."""
    return map_output(lambda maps: maps.clone().requires_grad_(), _maps(name, batch, size, seed))


def random_labels(*, batch: int = 2, size: tuple[int, int] = IMAGE_SIZE, seed: int = 0) -> Tensor:
    """Labels `B×H×W` int64 in blocks of 8×8 pixels of one class; the last class is absent."""
    generator = torch.Generator().manual_seed(seed)
    height, width = -(-size[0] // 8), -(-size[1] // 8)
    blocks = torch.randint(0, NUM_CLASSES - 1, (batch, height, width), generator=generator)
    return blocks.repeat_interleave(8, 1).repeat_interleave(8, 2)[:, : size[0], : size[1]].contiguous()


def map_output(change: Callable[[Tensor], Tensor], output: Output) -> Output:
    """Apply a function to every map of an output."""
    first, second, third, fourth = (change(stage) for stage in output.stages)
    return Output((first, second, third, fourth), change(output.fused), change(output.logits))


def maps_of(output: Output) -> list[Tensor]:
    """All maps of an output: four stages, fused, logits."""
    return [*output.stages, output.fused, output.logits]


def total_of(method: Method, terms: dict[str, Tensor]) -> Tensor:
    """Weighted sum of the terms."""
    return torch.stack([method.weights[name] * term for name, term in terms.items()]).sum()


def training_losses(
    method: Method, student: SegmentationModel, teacher: SegmentationModel, *, steps: int = 8
) -> list[float]:
    """Total loss of each of `steps` SGD steps on images whose brightness shows the class, for golden curves."""
    parameters = [p for p in (*student.parameters(), *method.parameters()) if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=0.01, momentum=0.9)
    losses = []
    for step in range(steps):
        labels = random_labels(seed=step)
        noise = torch.randn(2, 3, *IMAGE_SIZE, generator=torch.Generator().manual_seed(step))
        images = noise + labels[:, None] / NUM_CLASSES
        with torch.no_grad():
            teacher_output = teacher(images)
        output = student(images)
        terms = method(output, teacher_output, labels)
        weighted = [method.weights[name] * term for name, term in terms.items()]
        total = torch.stack([cross_entropy(output.logits, labels), *weighted]).sum()
        optimizer.zero_grad()
        total.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(float(total.detach()))
    return losses


def _bfloat16(output: Output) -> Output:
    return map_output(lambda maps: maps.detach().bfloat16().requires_grad_(), output)


def _spoil_last_quarter(output: Output, value: float, *, features: bool) -> Output:
    """A copy with `value` in the last quarter of the logits, and of the features if `features`."""

    def spoil(maps: Tensor) -> Tensor:
        spoiled = maps.detach().clone()
        spoiled[..., maps.shape[-1] * 3 // 4 :] = value
        return spoiled.requires_grad_()

    if features:
        return map_output(spoil, output)
    return dataclasses.replace(output, logits=spoil(output.logits))


class MethodConformance:
    """Base class of a method's tests: subclass it and set `method`; pytest runs the checks.

    Attributes:
        method: the registered name.
        configs: settings to run every check with.
        normalises_features: set True if a layer of the method, such as BatchNorm, mixes positions before they are
            masked; then features at ignored pixels may have an effect, but logits may not.
    """

    method: ClassVar[str]
    configs: ClassVar[Sequence[dict[str, Any]]] = ({},)
    normalises_features: ClassVar[bool] = False

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Parametrise tests over pairs of networks and the class's settings."""
        if "pair" in metafunc.fixturenames:
            metafunc.parametrize("pair", PAIRS.values(), ids=PAIRS.keys())
        if "config" in metafunc.fixturenames:
            configs = self.configs
            metafunc.parametrize("config", configs, ids=[str(c) if c else "defaults" for c in configs])

    def build(self, pair: Pair, config: dict[str, Any]) -> Method:
        """The method for a pair (teacher, student), from a fixed seed, in training mode."""
        torch.manual_seed(0)
        return build_method(
            self.method,
            student=tiny_model(pair[1]),
            teacher=tiny_model(pair[0]),
            num_classes=NUM_CLASSES,
            **config,
        ).train()

    def run(self, method: Method, student: Output, teacher: Output, labels: Tensor) -> dict[str, Tensor]:
        """One forward pass with a fixed random state."""
        torch.manual_seed(1)
        terms: dict[str, Tensor] = method(student, teacher, labels)
        return terms

    def test_terms_are_finite_float32_scalars_that_have_a_weight(
        self, pair: Pair, config: dict[str, Any]
    ) -> None:
        """For networks of any strides and for sizes that no stride divides."""
        method = self.build(pair, config)
        for size in (IMAGE_SIZE, (65, 99)):
            terms = self.run(
                method,
                random_output(pair[1], size=size, seed=1),
                random_output(pair[0], size=size, seed=2),
                random_labels(size=size),
            )
            assert set(terms) == {name for name, weight in method.weights.items() if weight > 0}
            for name, term in terms.items():
                assert term.shape == (), f"{name} has shape {tuple(term.shape)}, must be a scalar"
                assert term.dtype == torch.float32, f"{name} is {term.dtype}, must be float32"
                assert term.isfinite(), f"{name} is {term.item()}"

    def test_gradient_reaches_the_student_and_never_the_teacher(
        self, pair: Pair, config: dict[str, Any]
    ) -> None:
        """Every trainable parameter of the method gets a gradient too, as DDP requires."""
        method = self.build(pair, config)
        student, teacher = random_output(pair[1], seed=1), random_output(pair[0], seed=2)
        terms = self.run(method, student, teacher, random_labels())
        if terms:
            total_of(method, terms).backward()  # type: ignore[no-untyped-call]
            assert any(maps.grad is not None and maps.grad.any() for maps in maps_of(student))
        assert all(maps.grad is None for maps in maps_of(teacher)), "a gradient reached the teacher"
        without = [n for n, p in method.named_parameters() if p.requires_grad and p.grad is None]
        assert not without, f"no gradient for {without}"

    def test_of_the_teacher_exactly_the_maps_in_needs_are_read(
        self, pair: Pair, config: dict[str, Any]
    ) -> None:
        """Other maps may be empty, because only the needed ones are cached and broadcast. Each needed one counts."""
        student, teacher = random_output(pair[1], seed=1), random_output(pair[0], seed=2)

        def losses(taught: Output) -> dict[str, float]:
            terms = self.run(self.build(pair, config), student, taught, random_labels())
            return {name: term.item() for name, term in terms.items()}

        whole, needs = losses(teacher), self.build(pair, config).needs
        if not needs:
            assert not whole
            return
        assert losses(Output.from_maps(teacher.maps(needs))) == whole
        other = random_output(pair[0], seed=3).maps(needs)
        for name in needs:
            changed = {**teacher.maps(needs), name: other[name]}
            assert losses(Output.from_maps(changed)) != whole, f"{name} is asked for, but has no effect"

    def test_losses_stay_finite_under_bfloat16_autocast(self, pair: Pair, config: dict[str, Any]) -> None:
        """Terms are float32 and gradients are finite, also for large logits."""
        method = self.build(pair, config)
        student = map_output(lambda maps: maps * 30, random_output(pair[1], seed=1))
        student, teacher = _bfloat16(student), _bfloat16(random_output(pair[0], seed=2))
        with torch.autocast("cpu", torch.bfloat16):
            terms = self.run(method, student, teacher, random_labels())
        assert all(term.dtype == torch.float32 and term.isfinite() for term in terms.values())
        if terms:
            total_of(method, terms).backward()  # type: ignore[no-untyped-call]
        gradients = [maps.grad for maps in maps_of(student) if maps.grad is not None]
        assert all(gradient.isfinite().all() for gradient in gradients)

    def test_a_bfloat16_teacher_is_accepted_without_autocast(
        self, pair: Pair, config: dict[str, Any]
    ) -> None:
        """A shared teacher output may be bfloat16."""
        method = self.build(pair, config)
        teacher = _bfloat16(random_output(pair[0], seed=2))
        terms = self.run(method, random_output(pair[1], seed=1), teacher, random_labels())
        assert all(term.isfinite() for term in terms.values())

    def test_all_weights_zero_is_the_student_alone_to_the_bit(
        self, pair: Pair, config: dict[str, Any]
    ) -> None:
        """No parameter, no term, no random number: the weights after training steps are the same."""
        settings = setting_names(method_class(self.method).Config)
        zero = {**config, **dict.fromkeys([name for name in settings if name.endswith("_weight")], 0)}
        student_alone = functools.partial(
            build_method, "student", student=tiny_model(pair[1]), teacher=None, num_classes=NUM_CLASSES
        )
        trained = []
        for build in (functools.partial(self.build, pair, zero), student_alone):
            torch.manual_seed(0)
            method = build()
            student = copy.deepcopy(tiny_model(pair[1])).train()
            training_losses(method, student, tiny_model(pair[0]), steps=2)
            assert not list(method.parameters())
            trained.append([*student.parameters(), torch.get_rng_state()])
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(*trained, strict=True))

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e4])
    def test_what_stands_at_ignored_pixels_changes_neither_loss_nor_gradient(
        self, pair: Pair, config: dict[str, Any], value: float
    ) -> None:
        """The right half is ignored and the last quarter changed, so resizing does not mix it into valid pixels."""
        labels = random_labels()
        labels[..., labels.shape[-1] // 2 :] = 255
        clean = random_output(pair[1], seed=1), random_output(pair[0], seed=2)
        features = not self.normalises_features
        spoiled = tuple(_spoil_last_quarter(output, value, features=features) for output in clean)
        results = []
        for student, teacher in (clean, spoiled):
            method = self.build(pair, config)
            terms = self.run(method, student, teacher, labels)
            if terms:
                total_of(method, terms).backward()  # type: ignore[no-untyped-call]
            gradients = [maps.grad for maps in maps_of(student)] + [p.grad for p in method.parameters()]
            results.append((terms, gradients))
        assert results[0][0] == results[1][0]
        for before, after in zip(results[0][1], results[1][1], strict=True):
            assert (before is None) == (after is None)
            if before is not None and after is not None:
                torch.testing.assert_close(after, before)

    def test_a_batch_without_valid_pixels_gives_zero_and_zero_gradients(
        self, pair: Pair, config: dict[str, Any]
    ) -> None:
        """It is never nan, which would end a run because of one empty crop."""
        method = self.build(pair, config)
        student = random_output(pair[1], seed=1)
        labels = torch.full_like(random_labels(), 255)
        terms = self.run(method, student, random_output(pair[0], seed=2), labels)
        assert all(term == 0 for term in terms.values()), f"{terms}"
        if terms:
            total_of(method, terms).backward()  # type: ignore[no-untyped-call]
        for gradient in (maps.grad for maps in [*maps_of(student), *method.parameters()]):
            assert gradient is None or not gradient.any()

    def student_for(self, pair: Pair, config: dict[str, Any], **worker: Any) -> Student:
        """A student of the pair in training with the method."""
        options = {"head_channels": 32}
        return short_student(
            pair[1], options, self.method, config, tiny_model(pair[0]), num_classes=NUM_CLASSES, **worker
        )

    def test_a_checkpoint_gives_the_same_next_losses(self, pair: Pair, config: dict[str, Any]) -> None:
        """The losses are the same to the bit, since projectors, queues and random states are restored."""
        teacher = tiny_model(pair[0])
        student = self.student_for(pair, config)
        train_short(student, teacher, range(3))
        file = io.BytesIO()
        torch.save(student.state_dict(), file)
        file.seek(0)
        again = self.student_for(pair, config)
        again.load_state_dict(torch.load(file, weights_only=True))
        assert train_short(again, teacher, range(3, 9)) == train_short(student, teacher, range(3, 9))

    def test_two_workers_stay_one_student(self, pair: Pair, config: dict[str, Any]) -> None:
        """Each has its own images; after every step both have the same losses, weights and projectors."""
        teacher = tiny_model(pair[0])

        def work(rank: int, reduce: Reduce) -> tuple[list[float], Student]:
            student = self.student_for(pair, config, rank=rank, reduce=reduce)
            return train_short(student, teacher, range(5), rank, reduce), student

        (losses, one), (other_losses, other) = two_workers(work)
        assert losses == other_losses
        assert all(math.isfinite(loss) for loss in losses)
        for mine, its in zip(
            [*one.model.parameters(), *one.method.parameters()],
            [*other.model.parameters(), *other.method.parameters()],
            strict=True,
        ):
            assert torch.equal(mine, its)

    def test_settings_survive_being_written_down(self, pair: Pair, config: dict[str, Any]) -> None:
        """The settings in a ledger row are enough to rebuild the method."""
        method = self.build(pair, config)
        assert type(method.config).model_validate_json(method.config.model_dump_json()) == method.config

    def test_a_training_step_lowers_the_loss_of_the_batch(self, pair: Pair, config: dict[str, Any]) -> None:
        """A small step of the student's outputs along the negative gradient lowers the total."""
        method = self.build(pair, config)
        student, teacher, labels = (
            random_output(pair[1], seed=1),
            random_output(pair[0], seed=2),
            random_labels(),
        )
        if not method.weights:
            return
        fresh = copy.deepcopy(method)
        before = total_of(method, self.run(method, student, teacher, labels))
        before.backward()  # type: ignore[no-untyped-call]
        squared = sum(float(maps.grad.square().sum()) for maps in maps_of(student) if maps.grad is not None)
        step = 1e-3 * float(before.detach()) / squared

        def moved(maps: Tensor) -> Tensor:
            return maps.detach() - step * (0 if maps.grad is None else maps.grad)

        after = total_of(fresh, self.run(fresh, map_output(moved, student), teacher, labels))
        assert after < before

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
    def test_nothing_waits_for_the_gpu(self, pair: Pair, config: dict[str, Any]) -> None:
        """A synchronisation in a loss would stall the queue of kernels at every step."""
        method = self.build(pair, config).cuda()
        student = map_output(lambda maps: maps.detach().cuda().requires_grad_(), random_output(pair[1]))
        teacher = map_output(lambda maps: maps.detach().cuda(), random_output(pair[0]))
        labels = random_labels().cuda()
        method(student, teacher, labels)
        torch.cuda.set_sync_debug_mode("error")
        try:
            terms = method(student, teacher, labels)
            if terms:
                total_of(method, terms).backward()  # type: ignore[no-untyped-call]
        finally:
            torch.cuda.set_sync_debug_mode("default")
