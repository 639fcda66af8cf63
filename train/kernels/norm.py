"""Batch norm and LIF as one operation on the CPU: its result is not written to memory, only the spikes are."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from train.kernels import cpu, layout, moments
from train.kernels.cpu import Neuron


class _NormLIF(torch.autograd.Function):
    """Batch norm is gain x + shift with gain = weight / sqrt(var + eps), shift = bias - mean gain, inside the LIF."""

    @staticmethod
    def forward(  # type: ignore[no-untyped-def]
        ctx,
        current: Tensor,
        weight: Tensor,
        bias: Tensor,
        neuron: Neuron,
        leak: float,
        eps: float,
        fixed: tuple[Tensor, Tensor] | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        form = layout.of(current, per_channel=True)
        flat = form.flat(current)
        mean, variance = fixed or moments.mean_and_variance(form, flat, len(weight))
        mean, inverse = mean.double(), (variance.double() + eps).rsqrt()
        gain = weight.double() * inverse
        given = cpu.parameters(form, cpu.state_dtype(flat), leak, gain, bias - mean * gain, mean)
        ctx.save_for_backward(flat, weight, bias, mean, inverse)
        ctx.neuron, ctx.form, ctx.given, ctx.fixed = neuron, form, given, fixed is not None
        ctx.mark_non_differentiable(mean, variance)
        return form.shaped(cpu.spikes(neuron, form, flat, given)), mean, variance

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[no-untyped-def]
        flat, weight, bias, mean, inverse = ctx.saved_tensors
        form = ctx.form
        out, sums = cpu.gradients(ctx.neuron, form, flat, form.flat(gradient), ctx.given, (False, True, True))
        weight_gradient = form.parameter_gradient(sums[1], mean) * inverse
        bias_gradient = form.parameter_gradient(sums[2], mean)
        if not ctx.fixed:
            count = flat.numel() / len(weight)
            gain = weight.double() * inverse
            slope = -gain * inverse * weight_gradient / count
            moments.add_affine_(form, out, flat, slope, -gain * bias_gradient / count - slope * mean)
        found = weight_gradient.to(weight.dtype), bias_gradient.to(bias.dtype)
        return form.shaped(out), *found, None, None, None, None


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


def norm_lif(current: Tensor, norm: nn.BatchNorm2d, leak: float, neuron: Neuron) -> Tensor:
    """Spikes of LIF(norm(current)), [T, B, C, H, W]; updates the running statistics in training as `norm` would."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    fixed = None if norm.training else (norm.running_mean, norm.running_var)
    spikes: Tensor
    spikes, mean, variance = _NormLIF.apply(  # type: ignore[no-untyped-call]
        current, norm.weight, norm.bias, neuron, leak, norm.eps, fixed
    )
    if norm.training:
        assert norm.momentum is not None
        assert norm.num_batches_tracked is not None
        count = current.numel() // len(norm.weight)
        with torch.no_grad():
            norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), norm.momentum)
            norm.running_var.lerp_((variance * count / max(1, count - 1)).to(norm.running_var.dtype), norm.momentum)
            norm.num_batches_tracked += 1
    return spikes
