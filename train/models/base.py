"""What all models are: logits at every step, and their mean as the answer."""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn

from train.layers import AvgPool2d, Flatten, Linear, MeanOverTime


class Classifier(nn.Module):
    """Raw values [T, B, C, H, W] to logits at every step [T, B, K] (`logits`) and to their mean [B, K] (`forward`).

    Losses read `logits`; prediction and export read `forward`, whose last layer is `readout`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.readout = MeanOverTime()

    def logits(self, x: Tensor) -> Tensor:
        """Logits at every step [T, B, K] of raw values [T, B, C, H, W]."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        mean: Tensor = self.readout(self.logits(x))
        return mean


def pooled_head(channels: int, sides: tuple[int, int], classes: int) -> nn.Sequential:
    """Global average pool of maps of known sides, then linear; [T, B, C, H, W] to [T, B, K] [C for FSTA, I else]."""
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        pool=AvgPool2d(sides), flatten=Flatten(), linear=Linear(channels, classes)
    )
    return nn.Sequential(layers)
