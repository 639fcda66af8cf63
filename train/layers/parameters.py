"""Parameters that `initialise` leaves alone: those of attention, which keep PyTorch's own initial values."""

from __future__ import annotations

import torch
from torch import nn


def uniform(*shape: int, fan_in: int) -> nn.Parameter:
    """U(-1 / sqrt(fan_in), 1 / sqrt(fan_in)), PyTorch's default for linear and convolution weights and biases."""
    bound = fan_in**-0.5
    return nn.Parameter(torch.empty(shape).uniform_(-bound, bound))
