"""The network that every row of `train_step.py` trains, as this project builds it, and its limit: ReLU for neurons."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from train import layers
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
        parts.append(layers.Conv2d(inputs, outputs, 3, padding=1, bias=False))
        parts.extend([Chain(norm, lif)] if fused else [norm, lif])
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


ROWS: dict[str, Callable[[], nn.Module]] = {
    "relu": Relu,
    "spikeproof": spiking,
    "spikeproof-unfused": lambda: spiking(fused=False),
}
