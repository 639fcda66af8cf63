"""The blocks that backbones are made of: [shift] - convolution - batch norm - [neuron], and the residual block."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn

from train.choices import ShiftPosition
from train.layers import AvgPool2d, BatchNorm2d, Chain, Conv2d
from train.models.parts import Parts

EVERYWHERE: tuple[ShiftPosition, ...] = ("conv-input", "block-input", "current")


def unit(
    parts: Parts,
    inputs: int,
    outputs: int,
    *,
    kernel: int = 3,
    stride: int = 1,
    shift: Sequence[ShiftPosition] = (),
    spiking: bool = True,
) -> nn.Sequential:
    """[shift] - conv - batch norm - [shift on the current] - [attention + neuron]; [T, B, C, H, W].

    `shift` names the places of this unit where a network with temporal shift may have it: the paper leaves the place
    open, `conv-input` is the likeliest [I]. The neuron is left out where the current goes into a sum.
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for place in shift:
        if place != "current":
            layers.update(parts.shifted(place, inputs))
    layers["conv"] = Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    layers["norm"] = BatchNorm2d(outputs)
    if "current" in shift:
        layers.update(parts.shifted("current", outputs))
    if spiking:
        layers["lif"] = parts.spiking(outputs)
    return Chain(layers)


class BasicBlock(nn.Module):
    """LIF2(BN(conv(LIF1(BN(conv(x))))) + shortcut(x)); spikes [T, B, C, H, W] in and out.

    The sum is taken before LIF2, so every convolution reads spikes [C for FSTA, I else]. The shortcut is the block's
    input, or where the shape changes a 1x1 convolution and batch norm: strided, or after average pooling (`pooled`).
    Temporal shift acts on the main branch, the shortcut stays as it is [I]; on currents it acts after the sum.
    """

    def __init__(self, parts: Parts, inputs: int, outputs: int, stride: int, pooled: bool) -> None:
        super().__init__()
        self.first = unit(parts, inputs, outputs, stride=stride, shift=EVERYWHERE)
        self.second = unit(parts, outputs, outputs, shift=("conv-input",), spiking=False)
        self.shortcut = None if inputs == outputs and stride == 1 else _shortcut(inputs, outputs, stride, pooled)
        join = OrderedDict(parts.shifted("current", outputs))
        join["lif"] = parts.spiking(outputs)
        self.join = nn.Sequential(join)

    def forward(self, x: Tensor) -> Tensor:
        branch = self.second(self.first(x))
        spikes: Tensor = self.join(branch + (x if self.shortcut is None else self.shortcut(x)))
        return spikes


def _shortcut(inputs: int, outputs: int, stride: int, pooled: bool) -> nn.Sequential:
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    if pooled and stride > 1:
        layers["pool"] = AvgPool2d(stride)
    layers["conv"] = Conv2d(inputs, outputs, 1, 1 if pooled else stride, 0, bias=False)
    layers["norm"] = BatchNorm2d(outputs)
    return nn.Sequential(layers)
