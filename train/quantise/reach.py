"""How far a weighted sum can go."""

from __future__ import annotations

import torch
from torch import Tensor


def reach(weight: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """(O,) the largest size that the weighted sum of values within [low, high], (I,), can have; weight [O, I, ...]."""
    if weight.ndim > 1:
        low, high = (side.view(-1, *(1,) * (weight.ndim - 2)) for side in (low, high))
    up, down = weight.clamp(min=0), weight.clamp(max=0)
    return torch.maximum(
        *(part.reshape(len(weight), -1).sum(1) for part in (up * high + down * low, -up * low - down * high))
    )
