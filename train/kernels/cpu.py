"""The LIF fused over time on the CPU: one pass over memory forward and one backward, for any T and layout.

Only the input current is kept for the backward pass, which computes the membrane potential again, a tile at a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from train.kernels import buffers, channels, layout, threads, tiles, trace
from train.kernels.layout import Layout
from train.surrogate import Surrogate

Value: TypeAlias = float | Tensor
REAL = (torch.float32, torch.float64)


@dataclass(frozen=True)
class Neuron:
    """What does not change from call to call."""

    threshold: float
    surrogate: Surrogate
    detach_reset: bool


@dataclass(frozen=True)
class Parameters:
    """Leak, gain and bias as [K, width] arrays of the state's type, and what the sums for dL/dgain subtract from x."""

    leak: Any
    gain: Any
    bias: Any
    centre: Any


def state_dtype(current: Tensor) -> torch.dtype:
    """float64 for float64, else float32: half precision is for storage."""
    return torch.float64 if current.dtype == torch.float64 else torch.float32


def array(flat: Tensor) -> Any:
    """NumPy's view of a tensor; bfloat16 as its bits."""
    flat = flat.detach()
    return flat.view(torch.uint16).numpy() if flat.dtype == torch.bfloat16 else flat.numpy()


def kernels_for(neuron: Neuron, current: Tensor) -> tuple[tiles.Kernels, bool]:
    """Compiled kernels, and whether they compute dS/dV themselves."""
    real = np.float64 if current.dtype == torch.float64 else np.float32
    bfloat16 = current.dtype == torch.bfloat16
    surrogate: Any = neuron.surrogate  # hashable: `kernels.choose` has seen to it
    try:
        return tiles.build(surrogate, neuron.threshold, real, bfloat16, neuron.detach_reset), True
    except trace.UntraceableError:
        return tiles.build(None, neuron.threshold, real, bfloat16, neuron.detach_reset), False


def parameters(form: Layout, dtype: torch.dtype, leak: Value, gain: Value, bias: Value) -> Parameters:
    """The parameters for a layout."""
    rows = form.rooms(4, dtype)
    for row, value in zip(rows, (leak, gain, bias, 0.0), strict=True):
        channels.spread(row, numbers(value))
    return Parameters(*rows)


def numbers(parameter: Value) -> Any:
    """A parameter as an array (C,) or, of one value, (1,)."""
    if isinstance(parameter, Tensor):
        flat = parameter.detach().reshape(-1)
        return (flat if flat.dtype in REAL else flat.double()).numpy()
    return np.array((parameter,), np.float64)


def as_gradient(sums: Any, parameter: Value) -> Tensor | None:
    """Sums of every channel, or one for all, as the gradient of a (C,) or scalar parameter; none for a number."""
    if not isinstance(parameter, Tensor):
        return None
    return torch.from_numpy(sums if parameter.ndim else np.asarray(sums.sum())).to(parameter.dtype)


def spikes(neuron: Neuron, form: Layout, flat: Tensor, given: Parameters, steps: int) -> Tensor:
    """[T, M] current, or [1, M] that is the same at all T `steps`, to [T, M] spikes of the same dtype."""
    out = _empty(steps, flat)
    if flat.numel():
        kernels, _ = kernels_for(neuron, flat)
        arguments = (form.segment, array(flat), array(out), given.leak, given.gain, given.bias)
        threads.run(kernels.forward, threads.count(out.numel()), *arguments)
    return out


def _empty(steps: int, flat: Tensor) -> Tensor:
    return buffers.empty_strided((steps, flat.shape[1]), (flat.shape[1], 1), flat.dtype)


def gradients(
    neuron: Neuron, form: Layout, flat: Tensor, gradient: Tensor, given: Parameters, wanted: tuple[bool, bool, bool]
) -> tuple[Tensor, Any]:
    """dL/dcurrent of its shape, and the sums [3, P, K, width or 1] that make dL/dleak, dL/dgain and dL/dbias, float64.

    They are of dL/dV H, dL/dV (x - centre) and dL/dV.
    """
    parts = threads.count(gradient.numel())
    sums = form.sums(3, parts)
    out = _empty(len(flat), flat)
    if flat.numel():
        kernels, traced = kernels_for(neuron, flat)
        x, values = array(flat), (given.leak, given.gain, given.bias)
        unused = np.zeros((len(gradient), 0), given.leak.dtype)
        slopes = unused if traced else _slopes(neuron, form, flat, kernels, values, len(gradient))
        arguments = (
            form.segment,
            array(gradient),
            x,
            array(out),
            *values,
            given.centre,
            slopes,
            sums,
            np.array(wanted),
        )
        threads.run(kernels.backward, parts, *arguments)
    return out, sums


def _slopes(
    neuron: Neuron, form: Layout, flat: Tensor, kernels: tiles.Kernels, values: tuple[Any, ...], steps: int
) -> Any:
    """dS/dV by PyTorch, for a surrogate that does not translate."""
    potential = flat.new_empty((steps, flat.shape[1]), dtype=state_dtype(flat))
    threads.run(
        kernels.potentials, threads.count(potential.numel()), form.segment, array(flat), potential.numpy(), *values
    )
    return neuron.surrogate.derivative(potential, neuron.threshold).contiguous().numpy()


class _LIF(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[no-untyped-def]
        ctx, current: Tensor, neuron: Neuron, leak: float | Tensor, gain: float | Tensor, bias: float | Tensor
    ) -> Tensor:
        values = (leak, gain, bias)
        per_channel = any(isinstance(value, Tensor) and value.ndim == 1 for value in values)
        form = layout.of(current, per_channel)
        flat = form.flat(current)
        given = parameters(form, state_dtype(current), *values)
        ctx.save_for_backward(flat, *(value for value in values if isinstance(value, Tensor)))
        ctx.neuron, ctx.form, ctx.given = neuron, form, given
        ctx.channels = current.shape[2] if per_channel else 1
        ctx.is_tensor = [isinstance(value, Tensor) for value in values]
        return form.shaped(spikes(neuron, form, flat, given, len(flat)))

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[no-untyped-def]
        flat, *tensors = ctx.saved_tensors
        form = ctx.form
        wanted = ctx.needs_input_grad[2:]
        out, sums = gradients(ctx.neuron, form, flat, form.flat(gradient), ctx.given, wanted)
        totals, remaining = channels.collected(sums, ctx.channels), iter(tensors)
        values = [next(remaining) if tensor else 0.0 for tensor in ctx.is_tensor]
        found = [
            as_gradient(total, value) if want else None
            for total, value, want in zip(totals, values, wanted, strict=True)
        ]
        return form.shaped(out), None, *found


def lif(
    current: Tensor, leak: float | Tensor, neuron: Neuron, gain: float | Tensor = 1.0, bias: float | Tensor = 0.0
) -> Tensor:
    """Spikes [T, B, C, ...]; see `reference.lif`. float16 is computed as float32 throughout."""
    if current.dtype == torch.float16:
        return lif(current.float(), leak, neuron, gain, bias).half()
    out: Tensor = _LIF.apply(current, neuron, leak, gain, bias)  # type: ignore[no-untyped-call]
    return out
