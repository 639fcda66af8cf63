"""Layers in Loihi's integers: a trained model whose layers are swapped for these *is* the integer network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from train.kernels import fixed_point
from train.layers.stateless import fold_time, unfold_time
from train.layers.temporal_shift import Split, shift


class CodedInput(nn.Module):
    """Raw values [T, B, C, ...] as sent: less `offset`, and with low_bits k > 0 as x >> k and the k bits below.

    Channels are then in pairs, [T, B, 2 C, ...].
    """

    offset: Tensor
    low_bits: Tensor

    def __init__(self, offset: Tensor, low_bits: int) -> None:
        super().__init__()
        self.register_buffer("offset", offset)  # a checkpoint keeps both: they decide the shape of the weights behind
        self.register_buffer("low_bits", torch.tensor(low_bits))
        self.step = 1 << low_bits

    def forward(self, x: Tensor) -> Tensor:
        x = x - self.offset.view(-1, *(1,) * (x.ndim - 3)).to(x.dtype)
        if self.step == 1:
            return x
        low = torch.remainder(x, self.step)
        return torch.stack([(x - low) / self.step, low], 3).flatten(2, 3)


class FixedPointConv2d(nn.Module):
    """Integer convolution: spikes [T, B, C, H, W] to synaptic input a_in, float64 whole numbers of the same layout."""

    weight: Tensor

    def __init__(
        self,
        weight: Tensor,
        stride: tuple[int, int],
        padding: tuple[int, int],
        dilation: tuple[int, int],
        groups: int,
        crop: tuple[tuple[int, int], tuple[int, int]] = ((0, 0), (0, 0)),
    ) -> None:
        super().__init__()
        self.register_buffer("weight", weight.double())
        self.stride, self.padding, self.dilation, self.groups, self.crop = stride, padding, dilation, groups, crop

    def forward(self, x: Tensor) -> Tensor:
        images = fold_time(x).double()
        (top, bottom), (left, right) = self.crop
        if self.crop != ((0, 0), (0, 0)):  # a negative padding cuts off, the same again as a positive one fills with 0
            images = functional.pad(functional.pad(images, (-left, -right, -top, -bottom)), (left, right, top, bottom))
        out = functional.conv2d(images, self.weight, None, self.stride, self.padding, self.dilation, self.groups)
        return unfold_time(out, len(x))


class FixedPointLinear(nn.Module):
    """Integer dense layer: spikes [T, B, ...], flattened in C order, to a_in [T, B, F], float64 whole numbers."""

    weight: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight.double())

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x.flatten(2).double(), self.weight)


class StackShifted(nn.Module):
    """Temporal shift before integer weights: [T, B, C, ...] to [T, B, 2 C, ...], the spikes and their neighbours."""

    def __init__(self, split: Split) -> None:
        super().__init__()
        self.split = split

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, shift(x, self.split)], dim=2)


@dataclass(frozen=True)
class Neighbours:
    """Two values of a layer that temporal shift joins: for the step itself, and for the step that is to be shifted."""

    present: Tensor
    neighbour: Tensor

    def __add__(self, other: Neighbours) -> Neighbours:
        return Neighbours(self.present + other.present, self.neighbour + other.neighbour)


class ShiftIntegers(nn.Module):
    """Temporal shift beside integer weights, which carry its alpha: of spikes, before them, or of currents, after.

    Args:
        edges: what is added to a shifted current, [T, 1, C, 1, 1]: a neighbour outside the window brings no bias.
    """

    edges: Tensor

    def __init__(self, split: Split, edges: Tensor) -> None:
        super().__init__()
        self.split = split
        self.register_buffer("edges", edges.double())

    def forward(self, x: Tensor | Neighbours) -> Tensor | Neighbours:
        if isinstance(x, Neighbours):
            return x.present + self._neighbour(x.neighbour) + self.edges
        return Neighbours(x, self._neighbour(x))

    def _neighbour(self, x: Tensor) -> Tensor:
        z = shift(x, self.split)
        z[:, :, self.split.past :] = 0  # the present, whose weights already count it
        return z


class JoinedSynapses(nn.Module):
    """A layer whose weights are several integer layers: sums for the step itself, and for the neighbouring one.

    Spikes that were shifted come as `Neighbours` and leave as one current; where there are weights for a neighbour
    but the input is not shifted, the current is to be, so both leave.
    """

    def __init__(self, present: Sequence[nn.Module], neighbour: Sequence[nn.Module]) -> None:
        super().__init__()
        self.present, self.neighbour = nn.ModuleList(present), nn.ModuleList(neighbour)

    def forward(self, x: Tensor | Neighbours) -> Tensor | Neighbours:
        now, other = (x.present, x.neighbour) if isinstance(x, Neighbours) else (x, x)
        current, shifted = (
            sum((part(value) for part in parts), torch.zeros((), dtype=torch.float64))
            for parts, value in ((self.present, now), (self.neighbour, other))
        )
        if isinstance(x, Neighbours):
            return current + shifted
        return Neighbours(current, shifted) if len(self.neighbour) else current


class FixedPointLIF(nn.Module):
    """Loihi's LIF over the window: a_in [T, B, *shape] to spikes, or to the membrane potential for a read-out.

    vth, bias, dv and du: int64, broadcasting to *shape.
    """

    vth: Tensor
    bias: Tensor
    dv: Tensor
    du: Tensor

    def __init__(self, vth: Tensor, bias: Tensor, dv: Tensor, du: Tensor, *, subtract: bool, readout: bool) -> None:
        super().__init__()
        for name, values in (("vth", vth), ("bias", bias), ("dv", dv), ("du", du)):
            self.register_buffer(name, values)
        self.subtract, self.readout = subtract, readout

    def forward(self, current: Tensor) -> Tensor:
        spikes, membrane = fixed_point.loihi_lif(
            current.long(), self.vth, self.bias, self.dv, self.du, subtract=self.subtract
        )
        return membrane if self.readout else spikes.double()


class FixedPointCode(nn.Module):
    """A position code in integers: a_in [T, B, C, H, W] plus code [T, 1, C, 1, 1]; float64 whole numbers."""

    code: Tensor

    def __init__(self, code: Tensor) -> None:
        super().__init__()
        self.register_buffer("code", code.double())

    def forward(self, current: Tensor) -> Tensor:
        return current + self.code


class FixedPointRecurrent(nn.Module):
    """Loihi's LIF with recurrent weights: at each step it gets the a_in of that step and R times its last spikes."""

    def __init__(self, weights: nn.Module, neurons: FixedPointLIF) -> None:
        super().__init__()
        self.weights, self.neurons = weights, neurons

    def forward(self, current: Tensor) -> Tensor:
        total = current.clone()
        for step in range(1, len(total)):
            total[step] += self.weights(self.neurons(total[:step])[-1:])[0]
        spikes: Tensor = self.neurons(total)
        return spikes
