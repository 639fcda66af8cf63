"""Layers of weights: Loihi's integers forward, gradients for float weights backward; [T, B, ...] in and out.

Weights are latent: floats in units of the float model, rounded at every pass. `scale` (O,) is units of a_in per unit
of the float membrane potential, one for each output channel, fixed when the float model is prepared.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from train.layers.fixed_point import Neighbours
from train.layers.stateless import fold_time, unfold_time
from train.layers.temporal_shift import Split, shift
from train.quantise import limits
from train.quantise.composition import NO_CROP, Crop
from train.quantise.grid import Signed
from train.quantise.neurons import SumPool2d
from train.quantise.reach import reach
from train.quantise.straight_through import bias_values, clamp_bias, rows, straight_through, weight_values
from train.quantise.weight_layout import Layout

SHRINK = 0.995  # a row that could overflow is scaled to this much of what it may have, and again until it fits
ROUNDS = 2000


@dataclass(frozen=True, eq=False)
class Numbers:
    """What is fixed for the synapses of one layer when the float model is prepared; float64.

    scale: (O,), see above. unit: (I,), 2^exponent for each input channel: after temporal shift, the shifted half has
    an exponent of its own. factor: (I,), what a latent weight is times before it meets what really arrives: 1 / std
    behind a normalisation, 1 / k^2 behind a sum over k x k, 0 where there is no synapse. limit: (O,), how far the sums
    of weights times what arrives may go to either side. low, high: (I,), what can arrive: 0 and 1 for spikes.
    For one weight a channel, I is C and `unit` is ().
    """

    scale: Tensor
    unit: Tensor
    factor: Tensor
    limit: Tensor
    low: Tensor
    high: Tensor


@dataclass(frozen=True)
class Geometry:
    """Of a convolution, or of several that differ in the rows and columns which they read as zeros, `crops`."""

    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    crops: tuple[Crop, ...] = (NO_CROP,)


class IntegerSynapses(nn.Module):
    """Latent weights of one layer, their integers, and the bound that keeps a_in from overflowing.

    Args:
        weight: float64 (O, ...), as `layout` takes it.
        numbers: what was chosen for it.
        grid: the integers that a weight may take.
        layout: what arrives at each weight.
    """

    scale: Tensor
    unit: Tensor
    limit: Tensor
    factor: Tensor
    low: Tensor
    high: Tensor

    def __init__(self, weight: Tensor, numbers: Numbers, grid: Signed, layout: Layout) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.float())
        for name in ("scale", "unit", "limit", "factor"):
            self.register_buffer(name, getattr(numbers, name).double())
        for name in ("low", "high"):  # they follow from the input's coding and the layers in between
            self.register_buffer(name, getattr(numbers, name).double(), persistent=False)
        self.grid, self.layout = grid, layout
        self._axes = layout(weight).ndim

    def _columns(self, values: Tensor) -> Tensor:
        """(I,) to meet the weights at their second axis."""
        return values.view(-1, *(1,) * (self._axes - 2)) if self._axes > 1 else values

    def _factor(self) -> Tensor:
        """Units of a_in for a latent weight of 1; broadcasts to the weights."""
        return self.scale.view(-1, *(1,) * (self._axes - 1)) * self._columns(self.factor)

    @property
    def values(self) -> Tensor:
        """Integer weights on the grid, before the exponent: float64 [O, I, ...] by `layout`."""
        return weight_values(self.layout(self.weight), self._factor(), self._columns(self.unit), self.grid)

    def effective(self) -> Tensor:
        """values << exponent, differentiable. float64 on CUDA, whose float32 algorithms are not exact, else float32.

        float32 is exact: `limit` keeps every partial sum below 2^24.
        """
        whole = straight_through(self.values * self._columns(self.unit), self.layout(self.weight), self._factor())
        return whole if whole.is_cuda else whole.float()

    @torch.no_grad()
    def constrain(self) -> None:
        """Bring latent weights back to what the grid holds, and rows whose sums could overflow back to their limit."""
        laid = self.layout(self.weight).double()
        if laid.numel() == self.weight.numel():  # where several weights add up, their sum is clipped as it is rounded
            one = torch.where(self._factor() == 0, 1.0, self._columns(self.unit) / self._factor())
            ends = torch.stack([limits.WEIGHT_RANGE[0] * one, self.grid.largest * one])
            self.weight.copy_(torch.clamp(laid, ends.amin(0), ends.amax(0)).view_as(self.weight))
        for _ in range(ROUNDS):
            excess = reach(self.values * self._columns(self.unit), self.low, self.high) / self.limit
            if not bool((excess > 1).any()):
                return
            shrunk = torch.where(excess > 1, SHRINK / excess, 1.0)
            self.weight.mul_(rows(shrunk, self.weight).to(self.weight.dtype))


class IntegerConv2d(IntegerSynapses):
    """Spikes [T, B, I, H, W] to a_in [T, B, O, H', W'], whole numbers; the sum of several where it is composed."""

    def __init__(self, weight: Tensor, numbers: Numbers, grid: Signed, layout: Layout, geometry: Geometry) -> None:
        super().__init__(weight, numbers, grid, layout)
        self.geometry = geometry

    def forward(self, x: Tensor) -> Tensor:
        g = self.geometry
        with torch.autocast(x.device.type, enabled=False):
            weight = self.effective()
            kernels = [weight] if weight.ndim == 4 else weight.unbind(2)
            images = fold_time(x).to(weight.dtype)
            parts = [
                functional.conv2d(_cropped(images, crop), kernel, None, g.stride, g.padding, g.dilation, g.groups)
                for kernel, crop in zip(kernels, g.crops, strict=True)
            ]
        return unfold_time(parts[0] if len(parts) == 1 else torch.stack(parts).sum(0), len(x))


def _cropped(images: Tensor, crop: Crop) -> Tensor:
    (top, bottom), (left, right) = crop
    if crop == NO_CROP:
        return images
    inside = images[:, :, top : images.shape[2] - bottom, left : images.shape[3] - right]
    return functional.pad(inside, (left, right, top, bottom))


class IntegerScale(IntegerSynapses):
    """One weight a channel, (C,): what a shortcut adds to a current; spikes to a_in [T, B, C, H, W].

    Spikes may have more channels, which are left out. `pool`: sums over windows that come first, None for none.
    """

    def __init__(
        self, weight: Tensor, numbers: Numbers, grid: Signed, layout: Layout, pool: SumPool2d | None = None
    ) -> None:
        super().__init__(weight, numbers, grid, layout)
        self.pool = pool

    def forward(self, x: Tensor) -> Tensor:
        weight = self.effective()
        own = x[:, :, : len(weight)]
        sums = own if self.pool is None else self.pool(own)
        return sums.to(weight.dtype) * weight.view(-1, 1, 1)


class IntegerLinear(IntegerSynapses):
    """Spikes [T, B, F] to a_in [T, B, O], whole numbers."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            weight = self.effective().flatten(1)
            return functional.linear(x.to(weight.dtype), weight)


class IntegerEdges(IntegerSynapses):
    """Temporal shift of currents: the neighbour's a_in [T, B, C', ...] of the first C' channels joins its own.

    A neighbour outside the window brings no bias, so at the window's edges each of those channels has one weight,
    (C',), that takes its share of the bias away: channels [0, future) at the last step, the others at the first.
    """

    def __init__(self, weight: Tensor, numbers: Numbers, grid: Signed, layout: Layout, split: Split) -> None:
        super().__init__(weight, numbers, grid, layout)
        self.split = split

    def forward(self, x: Neighbours) -> Tensor:
        weight = self.effective()
        place = (-1, *(1,) * (x.neighbour.ndim - 3))
        z = shift(x.neighbour, self.split)
        missing = z.new_zeros(len(z), len(weight))
        missing[-1, : self.split.future] = missing[0, self.split.future :] = 1
        z = z + (missing * weight).view(len(z), 1, *place)
        rest = x.present[:, :, len(weight) :]
        return torch.cat([x.present[:, :, : len(weight)] + z, rest], 2)


class ForNeighbours(nn.Module):
    """A layer whose current is shifted in time behind it: weights for the step itself and for the neighbouring one."""

    def __init__(self, present: IntegerSynapses, neighbour: IntegerSynapses, split: Split) -> None:
        super().__init__()
        self.present, self.neighbour, self.split = present, neighbour, split

    def forward(self, x: Tensor) -> Neighbours:
        return Neighbours(self.present(x), self.neighbour(x))


class IntegerHead(IntegerSynapses):
    """Linear layer before the read-out: spikes [T, B, F] to the logits of each step [T, B, K], float64.

    A logit is (64 a_in + bias) / (64 scale) with one scale for all classes, so `IntegerReadout` can undo the division.
    """

    bias_limit: Tensor

    def __init__(
        self, weight: Tensor, numbers: Numbers, grid: Signed, layout: Layout, bias: Tensor, bias_limit: Tensor
    ) -> None:
        super().__init__(weight, numbers, grid, layout)
        self.bias = nn.Parameter(bias.float())
        self.register_buffer("bias_limit", bias_limit.double())

    @property
    def bias_values(self) -> Tensor:
        """Whole numbers in units of v, float64 (K,)."""
        return bias_values(self.bias, self.scale)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            weight = self.effective().flatten(1)
            a_in = functional.linear(x.to(weight.dtype), weight).double()
        unit = self.scale * (1 << limits.STATE_SHIFT)
        bias = straight_through(self.bias_values, self.bias, unit)
        return (a_in * (1 << limits.STATE_SHIFT) + bias) / unit

    @torch.no_grad()
    def constrain(self) -> None:
        """The bias too."""
        super().constrain()
        clamp_bias(self.bias, self.scale, self.bias_limit)
