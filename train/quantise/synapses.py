"""Layers of weights: Loihi's integers forward, gradients for float weights backward; [T, B, ...] in and out.

Weights are latent: floats in units of the float model, rounded at every pass. `scale` (O,) is units of a_in per unit
of the float membrane potential, one for each output channel, fixed when the float model is prepared.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from train.layers.stateless import fold_time, unfold_time
from train.quantise import limits
from train.quantise.grid import Signed
from train.quantise.reach import reach
from train.quantise.straight_through import bias_values, clamp_bias, rows, straight_through, weight_values

SHRINK = 0.995  # a row that could overflow is scaled to this much of what it may have, and again until it fits
ROUNDS = 2000


@dataclass(frozen=True, eq=False)
class Numbers:
    """What is fixed for the synapses of one layer when the float model is prepared; float64.

    scale: (O,), see above. unit: (I,), 2^exponent for each input channel: after temporal shift, the shifted half has
    an exponent of its own. factor: (I,), what a latent weight is times before it meets what really arrives: 1 / std
    behind a normalisation, 1 / k^2 behind a sum over k x k, 0 where there is no synapse. limit: (O,), how far the sums
    of weights times what arrives may go to either side. low, high: (I,), what can arrive: 0 and 1 for spikes.
    For one weight a channel, `unit` and `factor` are (), `low` and `high` (C,).
    """

    scale: Tensor
    unit: Tensor
    factor: Tensor
    limit: Tensor
    low: Tensor
    high: Tensor


@dataclass(frozen=True)
class Geometry:
    """Of a convolution."""

    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int


class IntegerSynapses(nn.Module):
    """Latent weights of one layer, their integers, and the bound that keeps a_in from overflowing.

    Args:
        weight: float64 [O, I, ...].
        numbers: what was chosen for it.
        grid: the integers that a weight may take.
    """

    scale: Tensor
    unit: Tensor
    limit: Tensor
    factor: Tensor
    low: Tensor
    high: Tensor

    def __init__(self, weight: Tensor, numbers: Numbers, grid: Signed) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.float())
        for name in ("scale", "unit", "limit", "factor"):
            self.register_buffer(name, getattr(numbers, name).double())
        for name in ("low", "high"):  # they follow from the input's coding and the layers in between
            self.register_buffer(name, getattr(numbers, name).double(), persistent=False)
        self.grid = grid

    def _columns(self, values: Tensor) -> Tensor:
        """(I,) to meet `weight` at its second axis."""
        return values.view(-1, *(1,) * (self.weight.ndim - 2)) if self.weight.ndim > 1 else values

    def _factor(self) -> Tensor:
        """Units of a_in for a latent weight of 1; broadcasts to `weight`."""
        return rows(self.scale, self.weight) * self._columns(self.factor)

    @property
    def values(self) -> Tensor:
        """Integer weights on the grid, before the exponent: float64, the shape of `weight`."""
        return weight_values(self.weight, self._factor(), self._columns(self.unit), self.grid)

    def effective(self) -> Tensor:
        """values << exponent, differentiable. float64 on CUDA, whose float32 algorithms are not exact, else float32.

        float32 is exact: `limit` keeps every partial sum below 2^24.
        """
        whole = straight_through(self.values * self._columns(self.unit), self.weight, self._factor())
        return whole if whole.is_cuda else whole.float()

    @torch.no_grad()
    def constrain(self) -> None:
        """Bring latent weights back to what the grid holds, and rows whose sums could overflow back to their limit."""
        one = torch.where(self._factor() == 0, 1.0, self._columns(self.unit) / self._factor())
        ends = torch.stack([limits.WEIGHT_RANGE[0] * one, self.grid.largest * one])
        self.weight.copy_(torch.clamp(self.weight.double(), ends.amin(0), ends.amax(0)))
        for _ in range(ROUNDS):
            excess = reach(self.values * self._columns(self.unit), self.low, self.high) / self.limit
            if not bool((excess > 1).any()):
                return
            shrunk = torch.where(excess > 1, SHRINK / excess, 1.0)
            self.weight.mul_(rows(shrunk, self.weight).to(self.weight.dtype))


class IntegerConv2d(IntegerSynapses):
    """Spikes [T, B, I, H, W] to a_in [T, B, O, H', W'], whole numbers."""

    def __init__(self, weight: Tensor, numbers: Numbers, grid: Signed, geometry: Geometry) -> None:
        super().__init__(weight, numbers, grid)
        self.geometry = geometry

    def forward(self, x: Tensor) -> Tensor:
        g = self.geometry
        with torch.autocast(x.device.type, enabled=False):
            weight = self.effective()
            images = fold_time(x).to(weight.dtype)
            out = functional.conv2d(images, weight, None, g.stride, g.padding, g.dilation, g.groups)
        return unfold_time(out, len(x))


class IntegerScale(IntegerSynapses):
    """One weight a channel, (C,): what a shortcut adds to a current; spikes [T, B, C, H, W] to a_in of that shape."""

    def forward(self, x: Tensor) -> Tensor:
        weight = self.effective()
        return x.to(weight.dtype) * weight.view(-1, 1, 1)


class IntegerHead(IntegerSynapses):
    """Linear layer before the read-out: spikes [T, B, F] to the logits of each step [T, B, K], float64.

    A logit is (64 a_in + bias) / (64 scale) with one scale for all classes, so `IntegerReadout` can undo the division.
    """

    bias_limit: Tensor

    def __init__(self, weight: Tensor, numbers: Numbers, grid: Signed, bias: Tensor, bias_limit: Tensor) -> None:
        super().__init__(weight, numbers, grid)
        self.bias = nn.Parameter(bias.float())
        self.register_buffer("bias_limit", bias_limit.double())

    @property
    def bias_values(self) -> Tensor:
        """Whole numbers in units of v, float64 (K,)."""
        return bias_values(self.bias, self.scale)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            weight = self.effective()
            a_in = functional.linear(x.to(weight.dtype), weight).double()
        unit = self.scale * (1 << limits.STATE_SHIFT)
        bias = straight_through(self.bias_values, self.bias, unit)
        return (a_in * (1 << limits.STATE_SHIFT) + bias) / unit

    @torch.no_grad()
    def constrain(self) -> None:
        """The bias too."""
        super().constrain()
        clamp_bias(self.bias, self.scale, self.bias_limit)
