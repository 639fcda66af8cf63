"""Surrogate gradients: what takes the place of the spike's derivative in the backward pass."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class Surrogate(Protocol):
    """dS/dV as a function of the membrane potential before firing."""

    def derivative(self, membrane: Tensor, threshold: float) -> Tensor:
        """dS/dV; same shape as `membrane`."""
        ...


@dataclass(frozen=True)
class TanhWindow:
    """dS/du = k (1 - tanh^2(k (u - 0.5))) / (2 tanh(k / 2)) for 0 < u < 1, else 0; u = V / (2 threshold).

    The window is as wide as twice the threshold and centred on it; its integral over u is 1.
    Source: `LIFAct` of the official FSTA-SNN code, k = 3; k = 1 in the FSTA neuron [C for FSTA, I else].
    """

    k: float = 3.0

    def derivative(self, membrane: Tensor, threshold: float) -> Tensor:
        """dS/dV at the membrane potential; same shape as `membrane`."""
        u = membrane / (2 * threshold)
        inside = (u > 0) & (u < 1)
        slope = self.k * (1 - torch.tanh(self.k * (u - 0.5)) ** 2) / (2 * math.tanh(self.k / 2))
        return slope * inside / (2 * threshold)
