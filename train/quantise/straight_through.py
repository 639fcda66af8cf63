"""Integers forward, straight-through gradients backward; the twins in torch of `train.quantise.integers`.

Everything is computed in float64, elementwise, so that every device and the exporter get the same integers.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from train.kernels import fixed_point
from train.quantise import limits
from train.quantise.grid import Signed
from train.surrogate import Surrogate


def rows(values: Tensor, like: Tensor) -> Tensor:
    """One value for each output channel, (C,), shaped to multiply a tensor whose first axis is C."""
    return values.view(-1, *(1,) * (like.ndim - 1))


def weight_values(weight: Tensor, factor: Tensor, unit: Tensor, grid: Signed) -> Tensor:
    """round(factor w / unit) on the grid, ties to even, clipped; float64 whole numbers in [-256, grid.largest].

    Args:
        weight: [O, ...]; factor: float64, broadcasts to it: units of a_in for a weight of 1.
        unit: float64, broadcasts to `weight`: 2^exponent of the connection that each weight belongs to.
    """
    exact = weight.detach().double() * factor / unit
    rounded = torch.round(exact / grid.step) * grid.step
    return rounded.clamp(limits.WEIGHT_RANGE[0], grid.largest)


def bias_values(bias: Tensor, scale: Tensor) -> Tensor:
    """mantissa << exponent of a bias in units of v, the finest exponent that holds it; float64 whole numbers.

    A bias beyond the range is clipped at its end, which `constrain` keeps from happening.
    """
    exact = bias.detach().double() * rows(scale, bias) * (1 << limits.STATE_SHIFT)
    low, high = limits.BIAS_MANT_RANGE
    # branchless over the eight exponents, so that a GPU need not wait for the answer
    units = 2.0 ** torch.arange(limits.BIAS_EXP_RANGE[1] + 1, dtype=torch.float64, device=bias.device)
    mantissas = torch.round(exact / units.view(-1, *(1,) * bias.ndim))
    fits = ((mantissas >= low) & (mantissas <= high)).flatten(1).all(1)
    first = torch.where(fits.any(), fits.int().argmax(), len(units) - 1)
    return mantissas[first].clamp(low, high) * units[first]


@torch.no_grad()
def clamp_bias(bias: Tensor, scale: Tensor, limit: Tensor) -> None:
    """Keep a latent bias within `limit` (O,), in units of a_in."""
    bound = rows(limit / scale, bias)
    bias.copy_(torch.clamp(bias.double(), -bound, bound))


def straight_through(values: Tensor, latent: Tensor, factor: Tensor) -> Tensor:
    """`values` forward; backward as if they were factor * latent. float64."""
    result: Tensor = _StraightThrough.apply(latent, values, factor)  # type: ignore[no-untyped-call]
    return result


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, latent: Tensor, values: Tensor, factor: Tensor) -> Tensor:
        ctx.save_for_backward(factor)
        ctx.dtype = latent.dtype
        return values

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (factor,) = ctx.saved_tensors
        return (gradient * factor).to(ctx.dtype), None, None


def integer_lif(
    current: Tensor, bias: Tensor, vth: Tensor, dv: Tensor, scale: Tensor, threshold: float, surrogate: Surrogate
) -> Tensor:
    """Spikes (0 or 1, float32) of Loihi's LIF for a_in [T, B, *shape] of whole numbers; forward `loihi_lif` itself.

    a_in is rounded first: an algorithm for float64 may leave a sum 1e-9 beside the whole number it stands for.

    Backward, with V = v / (64 scale) the membrane potential in float units and leak = 1 - dv / 4096, as in
    `kernels.reference`: straight through the rounding, `surrogate` for the spike, gradients through the reset.
    Wrapping and clipping pass the gradient too.

    Args:
        bias: units of v, broadcasts to *shape; vth and dv int64 likewise; scale float64, broadcasts.
    """
    result: Tensor = _IntegerLIF.apply(current, bias, vth, dv, scale, threshold, surrogate)  # type: ignore[no-untyped-call]
    return result


class _IntegerLIF(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        current: Tensor,
        bias: Tensor,
        vth: Tensor,
        dv: Tensor,
        scale: Tensor,
        threshold: float,
        surrogate: Surrogate,
    ) -> Tensor:
        spikes, membrane = fixed_point.loihi_lif(torch.round(current).long(), vth, bias.long(), dv)
        unit = scale * (1 << limits.STATE_SHIFT)
        ctx.save_for_backward(spikes, (membrane / unit).float(), unit)
        ctx.leak, ctx.threshold, ctx.surrogate = (1 - dv / limits.DECAY_UNITY).float(), threshold, surrogate
        ctx.bias_shape, ctx.dtype = bias.shape, current.dtype
        return spikes.float()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        spikes, potential, unit = ctx.saved_tensors
        slope = ctx.surrogate.derivative(potential, ctx.threshold)
        result = torch.empty_like(potential)
        left = torch.zeros_like(potential[0])  # gradient of what the step leaves behind, H_t = V_t (1 - S_t)
        for t in reversed(range(len(potential))):
            fired = spikes[t].to(potential.dtype)
            result[t] = left * (1 - fired) + (gradient[t] - left * potential[t]) * slope[t]
            left = ctx.leak * result[t]
        per_unit = (result / unit).sum((0, 1))
        bias = per_unit.sum_to_size(ctx.bias_shape)
        current = (result / (unit / (1 << limits.STATE_SHIFT))).to(ctx.dtype)
        return current, bias, None, None, None, None, None
