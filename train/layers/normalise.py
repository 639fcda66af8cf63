"""Input normalisation inside the model, so that the network on the chip takes the raw integer pixels."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from train.layers import repeated


class Normalise(nn.Module):
    """(x - mean) / std per channel; [T, B, C, H, W] of raw pixel values to the same shape."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return repeated.at_every_step((repeated.once(x) - self.mean) / self.std, len(x))
