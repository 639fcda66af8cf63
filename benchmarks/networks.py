"""What `train_step.py` and `train_step_gpu.py` time, as this project builds it, and its limit: ReLU for neurons."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

from torch import Tensor, nn

from train import kernels, layers, models
from train.config import ModelConfig
from train.data import DataSpec
from train.layers.chain import Chain
from train.surrogate import ATan

WIDTHS = ((3, 32), (32, 32), (32, 64), (64, 64))
POOLED = (1, 3)
CLASSES, FEATURES = 10, 64 * 8 * 8
LEAK, THRESHOLD = 0.5, 1.0


def spiking(fused: bool = True) -> nn.Module:
    """[T, B, 3, 32, 32] to logits [B, 10]."""
    parts: list[nn.Module] = []
    for index, (inputs, outputs) in enumerate(WIDTHS):
        norm = layers.BatchNorm2d(outputs)
        lif = layers.LIF(leak=LEAK, threshold=THRESHOLD, surrogate=ATan(), detach_reset=True)
        conv = layers.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        parts.extend([Chain(conv, norm, lif)] if fused else [conv, norm, lif])
        if index in POOLED:
            parts.append(layers.AvgPool2d(2))
    return nn.Sequential(*parts, layers.Flatten(), layers.Linear(FEATURES, CLASSES), layers.MeanOverTime())


class Relu(nn.Module):
    """The same layers with ReLU on T * B images: what any neuron costs at least."""

    def __init__(self) -> None:
        super().__init__()
        parts: list[nn.Module] = []
        for index, (inputs, outputs) in enumerate(WIDTHS):
            parts += [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
            if index in POOLED:
                parts.append(nn.AvgPool2d(2))
        self.layers = nn.Sequential(*parts, nn.Flatten(), nn.Linear(FEATURES, CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.layers(x.flatten(0, 1))
        return logits.view(len(x), -1, CLASSES).mean(0)


def resnet19(neuron: Literal["lif", "relu"], channels: int, side: int, steps: int) -> nn.Module:
    """ResNet-19 as `python -m train --model resnet-19` builds it, for images of 3 x side x side.

    `relu` is the same network for a teacher: it, too, takes T * B images. `channels` of the first stage: 128.
    """
    data = DataSpec("random", (3, side, side), CLASSES, 255, (127.5,) * 3, (64.0,) * 3)
    config = ModelConfig(model="resnet-19", neuron=neuron, width=channels / 128, time_steps=steps)
    return models.build(config, data)


def neuron(current: Tensor, backend: kernels.Backend = "auto") -> Tensor:
    """The network's LIF alone; [T, B, C, H, W]."""
    return kernels.lif(current, LEAK, THRESHOLD, ATan(), detach_reset=True, backend=backend)


ROWS: dict[str, Callable[[], nn.Module]] = {
    "relu": Relu,
    "spikeproof": spiking,
    "spikeproof-unfused": lambda: spiking(fused=False),
}
NEURONS: dict[str, Callable[[Tensor], Tensor]] = {
    "spikeproof": neuron,
    "reference": partial(neuron, backend="reference"),
}
