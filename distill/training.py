"""Training of one student: its state and its training step.

A student's result depends on its specification and on the batches only, not on other students in the process: it has
its own random state, which is active during its step, and its own gradients. Batches and teacher outputs, which several
students may share, are computed by the caller.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from distill.balance import Balance
from distill.device_errors import is_device_fault, release_frames
from distill.device_memory import free_memory
from distill.gradients import NEVER, GradientBuffer, LossRecord
from distill.methods import Method, build_method
from distill.methods.pixels import cross_entropy, valid_pixels
from distill.models import ModelInfo, Output, SegmentationModel, build_model
from distill.moving_average import MovingAverage
from distill.optimizers import allocate_state, build_optimizer
from distill.precision import Precision, autocast
from distill.random_state import RandomState
from distill.recipe import Recipe
from distill.relative_weights import split_balanced

Reduce = Callable[[Tensor], Callable[[], None]]
"""Starts to replace a tensor by its mean over all data-parallel workers; the returned function waits for the result."""

State = dict[str, Any]


@dataclass(frozen=True)
class Batch:
    """One worker's share of a batch.

    Attributes:
        images: normalised images, `B×3×H×W`.
        labels: int64, `B×H×W`, 255 is ignored.
        index: index of each picture in the data set, `B`.
        teacher: the teacher's output for these images; None if no method needs it.
        valid_mean: mean number of valid pixels per worker; None for a single worker with whole batches.
    """

    images: Tensor
    labels: Tensor
    index: Tensor
    teacher: Output | None
    valid_mean: Tensor | None = None

    @classmethod
    def shared(
        cls, images: Tensor, labels: Tensor, index: Tensor, teacher: Output | None, reduce: Reduce | None
    ) -> Batch:
        """Create a worker's share of a batch; `reduce` averages the number of valid pixels over the workers."""
        if reduce is None:
            return cls(images, labels, index, teacher)
        valid = valid_pixels(labels).sum(dtype=torch.float32)
        reduce(valid)()
        return cls(images, labels, index, teacher, valid)

    def split(self, parts: int) -> list[Batch]:
        """The batch as equal micro-batches, in order."""
        if parts == 1:
            return [self]
        size = self.images.shape[0] // parts
        valid = self.valid_mean
        if valid is None:
            valid = valid_pixels(self.labels).sum(dtype=torch.float32)
        return [
            Batch(
                self.images[i : i + size],
                self.labels[i : i + size],
                self.index[i : i + size],
                None if self.teacher is None else _rows(self.teacher, i, i + size),
                valid / parts,
            )
            for i in range(0, size * parts, size)
        ]

    def weight(self) -> Tensor | None:
        """Weight of this share's mean in the global mean over valid pixels; None if the share is the whole batch."""
        if self.valid_mean is None:
            return None
        return valid_pixels(self.labels).sum(dtype=torch.float32) / self.valid_mean.clamp(min=1)


@dataclass(frozen=True)
class StudentSpec:
    """Everything that decides a student's training except the batches."""

    model: str
    options: Mapping[str, Any]
    method: str
    method_config: Mapping[str, Any]
    recipe: Recipe
    seed: int
    num_classes: int


class NonFiniteLossError(RuntimeError):
    """A loss is nan or infinite; the message names the terms and the step."""

    def __init__(self, terms: list[str], step: int) -> None:
        self.step = step
        super().__init__(
            f"loss term {', '.join(terms)} is not finite at step {step}; lower the learning rate or its weight"
        )


class Student:
    """A model in training with its method, optimiser and random state."""

    def __init__(
        self,
        spec: StudentSpec,
        teacher: ModelInfo | None,
        *,
        device: torch.device,
        rank: int = 0,
        reduce: Reduce | None = None,
    ) -> None:
        self.spec = spec
        self.step = 0
        self.device = device
        self._reduce = reduce
        self._random = RandomState(spec.seed, device)
        with self._random:
            model = build_model(spec.model, spec.num_classes, norm=spec.recipe.norm, **spec.options)
            self.model: SegmentationModel = model.to(device)
            if spec.recipe.channels_last:
                self.model = self.model.to(memory_format=torch.channels_last)
            settings, balanced = split_balanced(spec.method_config)
            method = build_method(
                spec.method,
                student=model.info,
                teacher=teacher,
                num_classes=spec.num_classes,
                **settings,
            )
            self.method: Method = method.to(device)
        # Initial weights are the same on all workers; from here on each worker has its own random numbers (dropout).
        self._random.reseed(spec.seed, stream=rank + 1)
        self.optimizer = build_optimizer(spec.recipe, self.model, self.method)
        self.balance = Balance(balanced, device)
        self._gradients = GradientBuffer(self.model, self.method, device)
        self.average = (
            MovingAverage(self.model, spec.recipe.ema_decay) if spec.recipe.ema_decay is not None else None
        )
        # All of a student's memory that is kept between steps is allocated here: if it fits now, it fits later.
        allocate_state(self.optimizer)
        self.losses = LossRecord.empty(("task",), device)
        self._sent_names: tuple[str, ...] = ()
        self._finish_reduce: Callable[[], None] | None = None
        self._failure: Exception | None = None
        self.failed_at: int | None = None

    @property
    def scored_model(self) -> SegmentationModel:
        """The model that is evaluated and saved: the averaged one if the recipe has `ema_decay`."""
        return self.model if self.average is None else cast(SegmentationModel, self.average.module)

    def train_step(self, batch: Batch) -> None:
        """Do one optimiser step on one batch.

        An error of model or method is raised later by `check`, so that all workers still take part in the reduction.
        """
        self.begin_step(batch)
        self.end_step()

    def begin_step(self, batch: Batch | None) -> None:
        """First half of a step: compute gradients and start their reduction, which overlaps with other work.

        Args:
            batch: the batch; None for a student that has failed, which only takes part in the reduction.
        """
        recipe = self.spec.recipe
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak_lr"] * recipe.lr_factor(self.step)
        self.model.train()
        self.method.train()
        self._gradients.zero()
        terms: dict[str, Tensor] = {}
        squares = torch.zeros_like(self.balance.squares)
        if self._failure is None and batch is not None:
            try:
                with self._random:
                    terms = self._backward(batch, squares)
            except Exception as error:
                self.fail(error)
        self._send(terms, squares)

    def end_step(self) -> None:
        """Second half of a step: wait for the reduced gradients and update the weights."""
        self._receive()
        if self._failure is None:
            try:
                self._gradients.clip(self.spec.recipe.clip_norm)
                self.optimizer.step()
                if self.average is not None:
                    self.average.update()
            except Exception as error:
                self.fail(error)
        self.step += 1

    def fail(self, error: Exception) -> None:
        """Note that the student failed at this step: it computes nothing more, and `check` raises the error.

        Nothing of the failed step stays in memory. An error that ends the process for all students is raised at once.
        """
        if is_device_fault(error):
            raise error
        release_frames(error)
        if self._failure is None:
            self._failure, self.failed_at = error, self.step
        free_memory(self.device)

    def _backward(self, batch: Batch, squares: Tensor) -> dict[str, Tensor]:
        """Accumulate gradients over micro-batches; returns the raw terms' means and adds to `squares`."""
        parts = self.spec.recipe.accumulate
        terms: dict[str, Tensor] = {}
        for part in batch.split(parts):
            output, part_terms = self._forward(part)
            if self.balance.measures(self.step):
                squares += self.balance.measure(output, part_terms)
            (self._total(part_terms) / parts).backward()  # type: ignore[no-untyped-call]
            for name, term in part_terms.items():
                share = term.detach() / parts
                terms[name] = terms[name] + share if name in terms else share
        return terms

    def _forward(self, batch: Batch) -> tuple[Output, dict[str, Tensor]]:
        """The student's output and the unweighted terms: the task's cross-entropy and the method's terms."""
        with autocast(self.device, self.spec.recipe.precision):
            output = self.model(batch.images)
            terms = {"task": cross_entropy(output.logits, batch.labels)}
            # A method without an active term may have no teacher output. Formulas turn autocast off (`in_float32`).
            if any(weight > 0 for weight in self.method.weights.values()):
                terms.update(self.method(output, batch.teacher, batch.labels))
        share = batch.weight()
        if share is None:
            return output, terms
        return output, {n: t if n in self.method.picture_terms else t * share for n, t in terms.items()}

    def _weight(self, term: str) -> Tensor | float:
        return 1.0 if term == "task" else self.method.weights[term] * self.balance.factor(term)

    def _total(self, terms: Mapping[str, Tensor]) -> Tensor:
        """The weighted sum of the terms. Weights are applied nowhere else."""
        return torch.stack([self._weight(name) * term for name, term in terms.items()]).sum()

    def _send(self, terms: Mapping[str, Tensor], squares: Tensor) -> None:
        """Start the reduction of gradients, terms and failure flag in one tensor."""
        self._sent_names = tuple(terms) or self.losses.names
        self._gradients.attach([*terms.values(), *squares.flatten()], failed=self._failure is not None)
        if self._reduce is not None:
            self._finish_reduce = self._reduce(self._gradients.flat)

    def _receive(self) -> None:
        """Wait for the reduction and record the mean terms."""
        if self._finish_reduce is not None:
            self._finish_reduce()
            self._finish_reduce = None
        names = self._sent_names
        if self.losses.names != names:
            self.losses = LossRecord.empty(names, self.device)
        sizes = [len(names), self.balance.squares.numel()]
        values, measured = torch.split(self._gradients.attached(sum(sizes)), sizes)
        self.losses.add(self.step, values, self._gradients.failures())
        self.balance.add(measured)

    def check(self) -> None:
        """Synchronise with the device and raise if the student failed, on every worker alike.

        Raises:
            NonFiniteLossError: a term was nan or infinite.
            Exception: the error of model or method.
        """
        if self._failure is not None:
            raise self._failure
        if float(self.losses.failed) > 0:
            raise RuntimeError("the student failed on another worker, whose log has the error")
        bad_step = int(self.losses.bad_step)
        if bad_step != NEVER:
            flags = self.losses.bad_terms.tolist()
            bad = [name for name, is_bad in zip(self.losses.names, flags, strict=True) if is_bad]
            raise NonFiniteLossError(bad, bad_step)

    def kept_bytes(self) -> int:
        """Bytes that the student keeps on its device between steps: weights, gradients, the optimiser's state, averages."""
        modules = [module for module in (self.model, self.method, self.average) if module is not None]
        kept = tree_leaves(
            ([m.state_dict() for m in modules], [*self.optimizer.state.values()], self._gradients.flat)
        )
        sizes = {
            each.untyped_storage()._cdata: each.untyped_storage().nbytes()
            for each in kept
            if isinstance(each, Tensor) and each.device.type == self.device.type
        }
        return sum(sizes.values())

    def read_losses(self) -> tuple[dict[str, float], dict[str, float]]:
        """Mean raw and weighted terms since the last call; resets the record.

        Relative weights have their current value.
        """
        record = self.losses
        raw = {n: t / max(1, record.steps) for n, t in zip(record.names, record.total.tolist(), strict=True)}
        self.losses = LossRecord.empty(record.names, self.device)
        return raw, {name: float(self._weight(name)) * value for name, value in raw.items()}

    def average_buffers(self) -> None:
        """Average the running statistics over the workers, before a model is evaluated or saved."""
        if self._reduce is None:
            return
        modules = (self.model, *([self.average] if self.average is not None else []))
        buffers = [buffer for module in modules for buffer in module.buffers()]
        for wait in [self._reduce(buffer) for buffer in buffers if buffer.is_floating_point()]:
            wait()

    def state_dict(self) -> State:
        """Everything that the next step depends on, as tensors and plain values."""
        return {
            "step": self.step,
            "model": self.model.state_dict(),
            "method": self.method.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "random": self._random.state_dict(),
            "losses": dict(vars(self.losses)),
            "balance": self.balance.squares,
        }

    def load_state_dict(self, state: State) -> None:
        """Restore a state of `state_dict` from any device; the next losses are the same to the bit."""
        self.step = int(state["step"])
        self.model.load_state_dict(state["model"])
        self.method.load_state_dict(state["method"])
        self.optimizer.state.clear()  # otherwise there are two of it for a moment
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self._random.load_state_dict(state["random"])
        self.balance.squares.copy_(state["balance"])
        losses: dict[str, Any] = {
            name: value.to(self.device) if isinstance(value, Tensor) else value
            for name, value in state["losses"].items()
        }
        self.losses = LossRecord(**{**losses, "names": tuple(losses["names"])})


def cast_weights(teacher: nn.Module, precision: str) -> None:
    """Store a frozen model's weights as autocast would cast them in every pass; its output stays the same to the bit.

    Only those of convolutions and linear layers: other layers compute in float32.
    """
    if precision == "bf16":
        for module in teacher.modules():
            if type(module) in (nn.Conv2d, nn.Linear):
                module.to(torch.bfloat16)


def teacher_output(teacher: nn.Module, images: Tensor, precision: Precision) -> Output:
    """The frozen teacher's output for a batch, without autograd."""
    with torch.no_grad(), autocast(images.device, precision):
        return cast(Output, teacher(images))


def _rows(output: Output, start: int, end: int) -> Output:
    a, b, c, d = (stage[start:end] for stage in output.stages)
    return Output(stages=(a, b, c, d), fused=output.fused[start:end], logits=output.logits[start:end])
