"""VGG-11 and VGG-16 with batch norm, average pooling and a neuron after every convolution."""

from __future__ import annotations

from torch import Tensor, nn

from train.data.spec import DataSpec
from train.errors import UserError
from train.layers import AvgPool2d, Normalise
from train.layers.stateless import initialise
from train.models.base import Classifier, pooled_head
from train.models.blocks import EVERYWHERE, unit
from train.models.parts import Parts

# channels of the convolutions between poolings: Simonyan and Zisserman 2015, configurations A and D
PLANS = {
    "vgg-11": ((64,), (128,), (256, 256), (512, 512), (512, 512)),
    "vgg-16": ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512)),
}


class VGG(Classifier):
    """Groups of 3x3 convolutions with 2x2 average pooling between them, then global average pool and linear.

    Raw pixels [T, B, C, H, W] to logits [T, B, K]. The five-pool, three-dense head of the original is one global pool
    and one linear layer, as in this literature's residual networks [U: this project's choice].

    Raises:
        UserError: images too small for the poolings.
    """

    def __init__(self, plan: tuple[tuple[int, ...], ...], parts: Parts, data: DataSpec) -> None:
        super().__init__()
        inputs, height, width = data.shape
        shrink = 2 ** (len(plan) - 1)
        if min(height, width) < shrink:
            raise UserError(f"images of {height} x {width}, need at least {shrink} x {shrink} for this --model")
        self.normalise = Normalise(data.mean, data.std)
        layers: list[nn.Module] = []
        for index, group in enumerate(plan):
            if index:
                layers.append(AvgPool2d(2))
            for count in group:
                outputs = parts.channels(count)
                layers.append(unit(parts, inputs, outputs, shift=EVERYWHERE if layers else ()))
                inputs = outputs
        self.features = nn.Sequential(*layers)
        self.head = pooled_head(inputs, (height // shrink, width // shrink), data.classes)
        self.apply(initialise)

    def logits(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.features(self.normalise(x)))
        return logits
