"""Batch norm and LIF as one operation on the CPU: its result is not written to memory, only the spikes are."""

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
    """Batch norm is gain x + shift with gain = weight / sqrt(var + eps), shift = bias - mean gain, inside the LIF."""

    @staticmethod
    def forward(  # type: ignore[no-untyped-def]
        ctx,
        current: Tensor,
        weight: Tensor,
        bias: Tensor,
        flat: Tensor,
        form: Layout,
        seen: Statistics,
        neuron: Neuron,
        leak: float,
        steps: int,
    ) -> Tensor:
        gain = _numbers(weight) * seen.inverse
        shift = _numbers(bias) - seen.mean * gain
        ctx.given = cpu.parameters(form, cpu.state_dtype(flat), leak, gain, shift, seen.mean)
        ctx.save_for_backward(flat, weight, bias)
        ctx.neuron, ctx.form, ctx.seen = neuron, form, seen
        return form.over(steps).shaped(cpu.spikes(neuron, form, flat, ctx.given, steps))

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[no-untyped-def]
        flat, weight, bias = ctx.saved_tensors
        form, seen = ctx.form, ctx.seen
        steps = len(gradient)
        behind = form.over(steps).flat(gradient)
        out, sums = cpu.gradients(ctx.neuron, form, flat, behind, ctx.given, (False, True, True))
        _, weight_gradient, bias_gradient = form.channel_sums(sums)
        weight_gradient = weight_gradient * seen.inverse
        if not seen.fixed:
            count = flat.numel() / len(weight)  # of a current that is the same at every step: sums of T slopes each
            gain = _numbers(weight) * seen.inverse
            slope = -gain * seen.inverse * weight_gradient / count
            moments.add_affine_(form, out, flat, slope, -gain * bias_gradient / count - slope * seen.mean)
        found = (torch.from_numpy(x).to(to.dtype) for x, to in ((weight_gradient, weight), (bias_gradient, bias)))
        return form.shaped(out), *found, None, None, None, None, None, None


def _numbers(parameter: Tensor) -> Floats:
    return parameter.detach().double().numpy()


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


def norm_lif(current: Tensor, norm: nn.BatchNorm2d, leak: float, neuron: Neuron, steps: int) -> Tensor:
    """Spikes of LIF(norm(current)), [T, B, C, H, W]; updates the running statistics in training as `norm` would.

    `current` has T steps, or one that is the same at all T.
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
        current, norm.weight, norm.bias, flat, form, seen, neuron, leak, steps
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
