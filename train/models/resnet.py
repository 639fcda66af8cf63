"""Residual networks: ResNet-18, -19, -20 and -34 as spiking networks, or with ReLU as teachers."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Literal, TypeAlias

from torch import Tensor, nn

from train.data.spec import DataSpec
from train.errors import UserError
from train.layers import AvgPool2d, Normalise
from train.layers.stateless import initialise
from train.models.base import Classifier, pooled_head
from train.models.blocks import BasicBlock, unit
from train.models.parts import Parts

Stem: TypeAlias = Literal["one", "three", "imagenet"]


@dataclass(frozen=True)
class Plan:
    """Stem, stages and shortcuts of a residual network.

    Stem `one`: 3x3 convolution; `three`: three of them and 2x2 average pooling; `imagenet`: 7x7 convolution, stride 2,
    and 3x3 average pooling, stride 2, padding 1. Each convolution has batch norm and a neuron after it.
    A stage is (channels, blocks, stride of its first block). `pooled`: shortcuts pool before their 1x1 convolution.
    """

    stem: Stem
    stages: tuple[tuple[int, int, int], ...]
    pooled: bool = False


def _four_stages(*blocks: int) -> tuple[tuple[int, int, int], ...]:
    return tuple((64 << i, count, 1 if i == 0 else 2) for i, count in enumerate(blocks))


PLANS = {
    # the modified ResNet-20 and ResNet-19 of the official FSTA-SNN code [C for FSTA, I for the other papers]
    "resnet-20": Plan("three", _four_stages(2, 2, 2, 2), pooled=True),
    "resnet-19": Plan("one", ((128, 3, 1), (256, 3, 2), (512, 2, 2))),
    # 7x7 stem, ImageNet [C for FSTA, I for the other papers]
    "resnet-18-imagenet": Plan("imagenet", _four_stages(2, 2, 2, 2)),
    "resnet-34-imagenet": Plan("imagenet", _four_stages(3, 4, 6, 3)),
    # 3x3 stem without pooling for small images: TSER's student and teacher [C for its sibling, I for TSER]
    "resnet-18": Plan("one", _four_stages(2, 2, 2, 2)),
    "resnet-34": Plan("one", _four_stages(3, 4, 6, 3)),
}


class ResNet(Classifier):
    """Stem - stages of basic blocks - global average pool - linear; raw pixels [T, B, C, H, W] to logits [T, B, K].

    Raises:
        UserError: pooled shortcuts need maps whose sides halve exactly, and the images do not give them.
    """

    def __init__(self, plan: Plan, parts: Parts, data: DataSpec) -> None:
        super().__init__()
        stride = {"one": 1, "three": 2, "imagenet": 4}[plan.stem]
        for _, _, step in plan.stages:
            stride *= step
        _, height, width = data.shape
        if plan.pooled and (height % stride or width % stride):
            raise UserError(f"images of {height} x {width}, their sides must be multiples of {stride} for this --model")
        channels = parts.channels(plan.stages[0][0])
        self.normalise = Normalise(data.mean, data.std)
        self.stem = _stem(plan.stem, parts, data.shape[0], channels)
        stages: list[nn.Module] = []
        for count, blocks, step in plan.stages:
            outputs = parts.channels(count)
            sizes = [(channels, step)] + [(outputs, 1)] * (blocks - 1)
            stages.append(nn.Sequential(*(BasicBlock(parts, i, outputs, s, plan.pooled) for i, s in sizes)))
            channels = outputs
        self.stages = nn.Sequential(*stages)
        self.head = pooled_head(channels, (-(-height // stride), -(-width // stride)), data.classes)
        self.apply(initialise)

    def logits(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.stages(self.stem(self.normalise(x))))
        return logits


def _stem(kind: Stem, parts: Parts, inputs: int, outputs: int) -> nn.Sequential:
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    if kind == "imagenet":
        layers["conv1"] = unit(parts, inputs, outputs, kernel=7, stride=2)
        layers["pool"] = AvgPool2d(3, 2, 1)
        return nn.Sequential(layers)
    layers["conv1"] = unit(parts, inputs, outputs)
    if kind == "three":
        layers["conv2"] = unit(parts, outputs, outputs)
        layers["conv3"] = unit(parts, outputs, outputs)
        layers["pool"] = AvgPool2d(2)
    return nn.Sequential(layers)
