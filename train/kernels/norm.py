"""Batch norm and neuron as one operation on the CPU: its result is not written to memory, only the spikes are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from train.kernels import cpu, layout, moments
from train.kernels.cpu import Neuron
from train.kernels.layout import Floats, Layout


@dataclass(frozen=True)
class Statistics:
    """Of every channel, (C,): a few numbers, in NumPy, whose calls cost less than PyTorch's.

    Attributes:
        inverse: 1 / sqrt(variance + eps).
        fixed: whether they are the running ones, through which no gradient goes.
    """

    mean: Floats
    inverse: Floats
    fixed: bool


class _NormLIF(torch.autograd.Function):
    """Batch norm y = scale x + shift, scale = weight / sqrt(var + eps), inside the neuron that takes gain y."""

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
        seen: Statistics,
        neuron: Neuron,
        steps: int,
    ) -> Tensor:
        scale = _numbers(weight) * seen.inverse
        shift, own = _numbers(bias) - seen.mean * scale, _numbers(gain)
        ctx.given = cpu.parameters(form, cpu.state_dtype(flat), leak, own * scale, own * shift, seen.mean)
        ctx.save_for_backward(flat, weight, bias, *(x for x in (leak, gain) if isinstance(x, Tensor)))
        ctx.leak, ctx.gain = (None if isinstance(x, Tensor) else x for x in (leak, gain))
        ctx.neuron, ctx.form, ctx.seen = neuron, form, seen
        return form.over(steps).shaped(cpu.spikes(neuron, form, flat, ctx.given, steps))

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[no-untyped-def]
        flat, weight, bias, *others = ctx.saved_tensors
        leak, gain = (others.pop(0) if x is None else x for x in (ctx.leak, ctx.gain))
        form, seen = ctx.form, ctx.seen
        behind = form.over(len(gradient)).flat(gradient)
        out, sums = cpu.gradients(ctx.neuron, form, flat, behind, ctx.given, (ctx.needs_input_grad[3], True, True))
        leak_sums, centred, plain = form.channel_sums(sums)  # of dL/dV H, dL/dV (x - mean), dL/dV
        own, scale = _numbers(gain), _numbers(weight) * seen.inverse
        by_weight, by_bias = own * seen.inverse * centred, own * plain
        if not seen.fixed:
            count = flat.numel() / len(weight)  # of a current that is the same at every step: sums of T slopes each
            slope = -scale * seen.inverse * by_weight / count
            moments.add_affine_(form, out, flat, slope, -scale * by_bias / count - slope * seen.mean)
        by_gain = scale * centred + _numbers(bias) * plain
        found = ((by_weight, weight), (by_bias, bias), (leak_sums, leak), (by_gain, gain))
        return form.shaped(out), *(_shaped(sums, to) for sums, to in found), None, None, None, None, None


def _numbers(parameter: float | Tensor) -> Floats:
    return np.asarray(parameter.detach().double() if isinstance(parameter, Tensor) else parameter, dtype=np.float64)


def _shaped(sums: Floats, parameter: float | Tensor) -> Tensor | None:
    """Sums of every channel as the gradient of a (C,) or scalar parameter; none for a number."""
    if not isinstance(parameter, Tensor):
        return None
    return torch.from_numpy(sums if parameter.ndim else np.asarray(sums.sum())).to(parameter.dtype)


def fits(current: Tensor, norm: nn.BatchNorm2d) -> bool:
    """Whether `norm_lif` takes this input and batch norm: on the CPU, affine, with running statistics."""
    return (
        current.device.type == "cpu"
        and current.dtype != torch.float16
        and current.numel() > 0
        and norm.affine
        and norm.track_running_stats
        and norm.momentum is not None
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
    assert norm.running_mean is not None
    assert norm.running_var is not None
    form = layout.of(current, per_channel=True)
    with torch.no_grad():
        flat = form.flat(current)
        if norm.training:
            mean, variance = moments.mean_and_variance(form, flat, len(norm.weight))
            _keep(norm, mean, variance, steps * current[0].numel() // len(norm.weight))
        else:
            mean, variance = _numbers(norm.running_mean), _numbers(norm.running_var)
    seen = Statistics(mean, 1 / np.sqrt(variance + norm.eps), not norm.training)
    spikes: Tensor = _NormLIF.apply(  # type: ignore[no-untyped-call]
        current, norm.weight, norm.bias, leak, gain, flat, form, seen, neuron, steps
    )
    return spikes


def _keep(norm: nn.BatchNorm2d, mean: Floats, variance: Floats, count: int) -> None:
    """Running statistics, as `norm` itself would."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert norm.momentum is not None
    assert norm.num_batches_tracked is not None
    for running, value in ((norm.running_mean, mean), (norm.running_var, variance * count / max(1, count - 1))):
        running.lerp_(torch.from_numpy(value).to(running.dtype), norm.momentum)
    norm.num_batches_tracked += 1
