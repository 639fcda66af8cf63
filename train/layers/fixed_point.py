"""Layers in Loihi's integers: a trained model whose layers are swapped for these *is* the integer network."""

from __future__ import annotations

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
        self, weight: Tensor, stride: tuple[int, int], padding: tuple[int, int], dilation: tuple[int, int], groups: int
    ) -> None:
        super().__init__()
        self.register_buffer("weight", weight.double())
        self.stride, self.padding, self.dilation, self.groups = stride, padding, dilation, groups

    def forward(self, x: Tensor) -> Tensor:
        images = fold_time(x).double()
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
