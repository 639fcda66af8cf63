"""Loihi's neuron, its read-out and sums in the place of means, in integers forward; [T, B, ...] in and out."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from train.layers.stateless import fold_time, unfold_time
from train.quantise import limits
from train.quantise.straight_through import bias_values, clamp_bias, integer_lif, rows, straight_through
from train.surrogate import Surrogate


class IntegerLIF(nn.Module):
    """Loihi's LIF: a_in [T, B, C, ...] of whole numbers to spikes, float32; leak and threshold stay as they are.

    Args:
        bias: float64 (C, 1, 1) or (C, H, W), or (C,) where there are no maps: the sum of those of all layers before it.
        bias_limit: float64 (C,), units of a_in.
        dv: int64, 4096 (1 - leak) of the float neuron: one number (), or one a channel, with as many axes as `bias`.
        threshold, surrogate: those of the float neuron; vth = scale * threshold.
    """

    scale: Tensor
    vth: Tensor
    dv: Tensor
    bias_limit: Tensor

    def __init__(
        self,
        bias: Tensor,
        bias_limit: Tensor,
        scale: Tensor,
        dv: Tensor,
        threshold: float,
        surrogate: Surrogate,
    ) -> None:
        super().__init__()
        self.bias = nn.Parameter(bias.float())
        self.register_buffer("bias_limit", bias_limit.double())
        self.register_buffer("scale", scale.double())
        self.register_buffer("vth", torch.round(scale.double() * threshold).long())
        self.register_buffer("dv", dv.long())
        self.threshold, self.surrogate = threshold, surrogate

    @property
    def bias_values(self) -> Tensor:
        """Whole numbers in units of v, float64, the shape of `bias`."""
        return bias_values(self.bias, self.scale)

    def forward(self, current: Tensor) -> Tensor:
        unit, vth = rows(self.scale, self.bias), rows(self.vth, self.bias)
        return integer_lif(current, self.bias_in_v, vth, self.dv, unit, self.threshold, self.surrogate)

    @property
    def bias_in_v(self) -> Tensor:
        """`bias_values`, differentiable."""
        unit = rows(self.scale, self.bias) * (1 << limits.STATE_SHIFT)
        return straight_through(self.bias_values, self.bias, unit)

    @torch.no_grad()
    def constrain(self) -> None:
        """Keep the bias within the share of the current that the overflow bound leaves to it."""
        clamp_bias(self.bias, self.scale, self.bias_limit)


class IntegerReadout(nn.Module):
    """Logits of each step [T, B, K] to their mean [B, K], through the integers that the chip's read-out adds up."""

    scale: Tensor

    def __init__(self, scale: Tensor) -> None:
        super().__init__()
        self.register_buffer("scale", scale.double())

    def membrane(self, logits: Tensor) -> Tensor:
        """The read-out's membrane potential at every step: int64 [T, B, K]; it neither leaks, fires nor clips."""
        return torch.round(logits * self.scale * (1 << limits.STATE_SHIFT)).long().cumsum(0)

    def forward(self, logits: Tensor) -> Tensor:
        return self.membrane(logits)[-1] / (self.scale * (1 << limits.STATE_SHIFT) * len(logits))


class SumPool2d(nn.Module):
    """Sums over k x k windows of a map padded with zeros: whole numbers stay whole; [T, B, C, H, W]. Weights divide."""

    def __init__(self, kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int] = (0, 0)) -> None:
        super().__init__()
        self.kernel, self.stride, self.padding = kernel, stride, padding

    def forward(self, x: Tensor) -> Tensor:
        sums = functional.avg_pool2d(fold_time(x), self.kernel, self.stride, self.padding, divisor_override=1)
        return unfold_time(sums, len(x))
