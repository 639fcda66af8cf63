"""A small convolutional SNN for small images, for tests and for the first run."""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn

from train.data.spec import DataSpec
from train.layers import LIF, AvgPool2d, BatchNorm2d, Conv2d, Flatten, Linear, MeanOverTime, Normalise, TemporalShift
from train.layers.stateless import initialise


class SmallConv(nn.Module):
    """conv 16 - [shift] conv 32, stride 2 - [shift] conv 32 - average pool 2 - linear; batch norm and LIF after convs.

    Raw pixels [T, B, C, H, W] to logits [B, K], the mean over T.
    """

    def __init__(self, data: DataSpec, temporal_shift: bool) -> None:
        super().__init__()
        channels, height, width = data.shape
        self.normalise = Normalise(data.mean, data.std)
        self.block1 = _block(channels, 16, 1, False)
        self.block2 = _block(16, 32, 2, temporal_shift)
        self.block3 = _block(32, 32, 1, temporal_shift)
        self.pool = AvgPool2d(2)
        self.flatten = Flatten()
        self.head = Linear(32 * (-(-height // 2) // 2) * (-(-width // 2) // 2), data.classes)
        self.readout = MeanOverTime()
        self.apply(initialise)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block3(self.block2(self.block1(self.normalise(x))))
        x = self.head(self.flatten(self.pool(x)))
        logits: Tensor = self.readout(x)
        return logits


def _block(inputs: int, outputs: int, stride: int, shifted: bool) -> nn.Sequential:
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    if shifted:
        layers["shift"] = TemporalShift(inputs)
    layers["conv"] = Conv2d(inputs, outputs, 3, stride, 1, bias=False)
    layers["norm"] = BatchNorm2d(outputs)
    layers["lif"] = LIF()
    return nn.Sequential(layers)
