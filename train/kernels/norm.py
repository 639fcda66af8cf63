"""Batch norm and neuron as one operation on the CPU: its result is not written to memory, only the spikes are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from train.kernels import channels, cpu, layout, moments
from train.kernels.cpu import Neuron, Parameters
from train.kernels.layout import Layout


@dataclass(frozen=True)
class Statistics:
    """What batch norm subtracts and divides by.

    Attributes:
        seen: mean and biased variance of every channel, [2, C] in float64.
        eps: s = sqrt(variance + eps).
        count: values of a channel that they are of; 0 for the running ones, through which no gradient goes.
    """

    seen: Any
    eps: float
    count: int


class _NormLIF(torch.autograd.Function):
    """Batch norm y = weight (x - mean) / s + bias inside the neuron that takes gain y."""

    @staticmethod
    def forward(  # type: ignore[no-untyped-def]
        ctx,
        current: Tensor,
        weight: Tensor,
        bias: Tensor,
        leak: float | Tensor,
        gain: float | Tensor,
        flat: Tensor,
        form: Layout,
        statistics: Statistics,
        neuron: Neuron,
        steps: int,
    ) -> Tensor:
        rows = form.rooms(4, cpu.state_dtype(flat))
        ctx.numbers = tuple(cpu.numbers(value) for value in (weight, bias, leak, gain))
        channels.prepare(statistics.seen, statistics.eps, *ctx.numbers, rows)
        ctx.given = Parameters(*rows)
        ctx.save_for_backward(flat, weight, bias, *(x for x in (leak, gain) if isinstance(x, Tensor)))
        ctx.leak, ctx.gain = (None if isinstance(x, Tensor) else x for x in (leak, gain))
        ctx.neuron, ctx.form, ctx.statistics = neuron, form, statistics
        return form.over(steps).shaped(cpu.spikes(neuron, form, flat, ctx.given, steps))

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[no-untyped-def]
        flat, weight, bias, *others = ctx.saved_tensors
        leak, gain = (others.pop(0) if x is None else x for x in (ctx.leak, ctx.gain))
        form, statistics, (weights, biases, _, gains) = ctx.form, ctx.statistics, ctx.numbers
        wanted = (ctx.needs_input_grad[3], True, True)
        out, sums = cpu.gradients(ctx.neuron, form, flat, form.flat(gradient), ctx.given, wanted)
        rows = form.rooms(2, cpu.state_dtype(flat))
        found = np.empty((4, len(weights)), weights.dtype)
        given = (statistics.seen, statistics.eps, weights, biases, gains, statistics.count)
        channels.settle(sums, *given, found, rows)
        if statistics.count:
            moments.add_affine_(form, out, flat, *rows)
        gradients = map(cpu.as_gradient, found, (weight, bias, leak, gain))
        return form.shaped(out), *gradients, None, None, None, None, None


def fits(current: Tensor, norm: nn.BatchNorm2d) -> bool:
    """Whether `norm_lif` takes this input and batch norm: on the CPU, affine, with running statistics."""
    return (
        current.device.type == "cpu"
        and current.dtype != torch.float16
        and current.numel() > 0
        and norm.affine
        and norm.track_running_stats
        and norm.momentum is not None
        and norm.weight.dtype in cpu.REAL
    )


def norm_lif(
    current: Tensor,
    norm: nn.BatchNorm2d,
    leak: float | Tensor,
    neuron: Neuron,
    gain: float | Tensor,
    steps: int,
) -> Tensor:
    """Spikes of lif(norm(current)), [T, B, C, H, W]; updates the running statistics in training as `norm` would.

    `current` has T steps, or one that is the same at all T. Leak and gain: a number, a scalar tensor or (C,).
    """
    form = layout.of(current, per_channel=True)
    with torch.no_grad():
        flat = form.flat(current)
        statistics = _of_batch(norm, form, flat, steps) if norm.training else _running(norm)
    spikes: Tensor = _NormLIF.apply(  # type: ignore[no-untyped-call]
        current, norm.weight, norm.bias, leak, gain, flat, form, statistics, neuron, steps
    )
    return spikes


def _of_batch(norm: nn.BatchNorm2d, form: Layout, flat: Tensor, steps: int) -> Statistics:
    """Those of this batch, which the running ones move towards, as `norm` itself would have it."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert norm.num_batches_tracked is not None
    first = form.first(flat.detach())
    pivot = np.ascontiguousarray(first.to(cpu.state_dtype(flat)).numpy())
    seen = np.empty((2, len(pivot)))
    count = flat.numel() // len(pivot)
    running = (norm.running_mean.numpy(), norm.running_var.numpy(), norm.num_batches_tracked.numpy())
    channels.observe(moments.about(form, flat, pivot), pivot, count, norm.momentum, steps / len(flat), *running, seen)
    return Statistics(seen, norm.eps, count)


def _running(norm: nn.BatchNorm2d) -> Statistics:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    seen = np.stack([norm.running_mean.numpy(), norm.running_var.numpy()]).astype(np.float64)
    return Statistics(seen, norm.eps, 0)
