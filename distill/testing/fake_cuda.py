"""A CUDA device that does not exist: shows on a machine without a GPU what a training step does on one.

    with fake_cuda() as watch:
        student = Student(spec, teacher, device=CUDA)
        student.train_step(batch)
        seen = watch.mark()

Tensors are `FakeTensor`s on `cuda:0`: they have shape, type, strides and device, but no bytes. An operator that mixes
devices raises, as on a GPU. Not seen are work spaces of cuDNN and cuBLAS, the allocator's rounding, times and numbers.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import torch.utils.checkpoint  # imports what cannot be imported under a FakeTensorMode
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.nn import functional as F
from torch.utils._python_dispatch import _disable_current_modes

import distill.training
from distill.models import SegmentationModel, build_model
from distill.testing.autograd_walk import AutogradWalk
from distill.testing.device_watch import FakeWatch

CUDA = torch.device("cuda", 0)


@contextmanager
def fake_cuda() -> Iterator[FakeWatch]:
    """All tensors made inside are fake; those on `cuda` behave as on a GPU. Models must be built by `build_model`."""
    walk = AutogradWalk()
    watch = FakeWatch(lambda: walk.node)
    numpy_of = Tensor.numpy

    def numpy(tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
        if isinstance(tensor, FakeTensor):
            kind = str(tensor.dtype).removeprefix("torch.")
            return np.zeros(tuple(tensor.shape), kind)
        return numpy_of(tensor, *args, **kwargs)

    mode = FakeTensorMode(allow_non_fake_inputs=True)

    def pinned(tensor: Tensor, *_: Any) -> Tensor:
        # A thread that collates pictures is outside of the mode, so its tensors are real.
        return tensor if isinstance(tensor, FakeTensor) else mode.from_tensor(tensor)

    replaced: list[tuple[Any, str, Any]] = [
        (distill.training, "build_model", build_on_device),
        (distill.training, "RandomState", _NoRandomState),
        (nn.Module, "_apply", _apply),
        (Tensor, "backward", lambda loss, *args, **kwargs: walk.backward(loss, *args, **kwargs)),
        (torch.autograd, "grad", walk.grad),
        (Tensor, "pin_memory", pinned),
        (Tensor, "numpy", numpy),
        (torch.random, "fork_rng", lambda *args, **kwargs: nullcontext()),
        (torch.cuda.amp.common, "amp_definitely_not_available", lambda: False),
        (torch.cuda, "is_bf16_supported", lambda *args, **kwargs: True),
        (torch._C, "_current_graph_task_id", lambda: 1),
        (F, "scaled_dot_product_attention", _attention),
    ]
    with ExitStack() as stack:
        for owner, name, value in replaced:
            stack.enter_context(patch.object(owner, name, value))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        stack.enter_context(mode)
        stack.enter_context(watch)
        yield watch


def build_on_device(*args: Any, **kwargs: Any) -> SegmentationModel:
    """`build_model` on `cuda:0`; on a fake one by way of the meta device, without numbers."""
    if not isinstance(torch.empty(0), FakeTensor):
        return build_model(*args, **kwargs).to(CUDA)

    def on_device(tensor: Tensor) -> Tensor:
        return torch.empty_strided(tensor.size(), tensor.stride(), dtype=tensor.dtype, device=CUDA)

    with _disable_current_modes(), torch.device("meta"):
        model = build_model(*args, **{**kwargs, "pretrained": False})
    _apply(model, on_device)
    return model


def _apply(module: nn.Module, change: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
    """`Module._apply` without swapping the tensors of a parameter, which fake ones do not allow."""
    for child in module.children():
        _apply(child, change)
    for key, parameter in module._parameters.items():
        if parameter is not None:
            changed = change(parameter.detach()).detach()
            module._parameters[key] = nn.Parameter(changed, parameter.requires_grad)
    for key, buffer in module._buffers.items():
        if buffer is not None:
            module._buffers[key] = change(buffer)
    return module


class _NoRandomState:
    """`RandomState` without numbers."""

    def __init__(self, *args: object) -> None: ...

    def reseed(self, *args: object, **kwargs: object) -> None: ...

    def __enter__(self) -> None: ...

    def __exit__(self, *exception: object) -> None: ...


_attention_of_torch = F.scaled_dot_product_attention


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    **unused: Any,
) -> Tensor:
    """The kernel that torch chooses on CUDA: flash attention for half precision, the memory-efficient one for float32."""
    if torch.is_autocast_enabled("cuda"):
        query, key, value = (part.to(torch.get_autocast_dtype("cuda")) for part in (query, key, value))
    if attn_mask is not None:
        return _attention_of_torch(query, key, value, attn_mask, dropout_p, is_causal, scale=scale)
    if query.dtype in (torch.float16, torch.bfloat16):
        flash: Any = torch.ops.aten._scaled_dot_product_flash_attention
        found: Tensor = flash(query, key, value, dropout_p, is_causal, scale=scale)[0]
        return found
    efficient: Any = torch.ops.aten._scaled_dot_product_efficient_attention
    gradients = query.requires_grad or key.requires_grad
    answer: Tensor = efficient(query, key, value, None, gradients, dropout_p, is_causal, scale=scale)[0]
    return answer
