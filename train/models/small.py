"""A small convolutional SNN for small images, for tests and for the first run."""

from __future__ import annotations

from torch import Tensor

from train.data.spec import DataSpec
from train.layers import AvgPool2d, Flatten, Linear, Normalise
from train.layers.stateless import initialise
from train.models.base import Classifier
from train.models.blocks import EVERYWHERE, unit
from train.models.parts import Parts


class SmallConv(Classifier):
    """conv 16 - [shift] conv 32, stride 2 - [shift] conv 32 - average pool 2 - linear; batch norm and LIF after convs.

    Raw pixels [T, B, C, H, W] to logits [T, B, K].
    """

    def __init__(self, parts: Parts, data: DataSpec) -> None:
        super().__init__()
        channels, height, width = data.shape
        small, large = parts.channels(16), parts.channels(32)
        self.normalise = Normalise(data.mean, data.std)
        self.block1 = unit(parts, channels, small)
        self.block2 = unit(parts, small, large, stride=2, shift=EVERYWHERE)
        self.block3 = unit(parts, large, large, shift=EVERYWHERE)
        self.pool = AvgPool2d(2)
        self.flatten = Flatten()
        self.head = Linear(large * (-(-height // 2) // 2) * (-(-width // 2) // 2), data.classes)
        self.apply(initialise)

    def logits(self, x: Tensor) -> Tensor:
        x = self.block3(self.block2(self.block1(self.normalise(x))))
        logits: Tensor = self.head(self.flatten(self.pool(x)))
        return logits
