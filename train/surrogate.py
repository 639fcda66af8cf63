"""Surrogate gradients: what takes the place of the spike's derivative in the backward pass."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from train.choices import AttentionName, SurrogateName


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


@dataclass(frozen=True)
class Rectangle:
    """dS/dV = 1 / a for |V - threshold| < a / 2, else 0: the straight-through window of width a; integral 1.

    Primitive: clip((V - threshold) / a + 1/2, 0, 1).
    Source: STAA-SNN, a = 1 [S]; at threshold 0.5 the `ste` option of `LIFAct` in the FSTA-SNN code is the same [C].
    """

    width: float = 1.0

    def derivative(self, membrane: Tensor, threshold: float) -> Tensor:
        """dS/dV at the membrane potential; same shape as `membrane`."""
        inside = torch.abs(membrane - threshold) < self.width / 2
        return inside.to(membrane.dtype) / self.width


@dataclass(frozen=True)
class Triangle:
    """dS/dV = max(0, 1 - |V - threshold| / a) / a; integral 1.

    Primitive: with u = (V - threshold) / a, (1 + u)^2 / 2 for -1 < u <= 0, 1 - (1 - u)^2 / 2 for 0 < u < 1.
    Source: the piecewise-linear pseudo-derivative of Bellec et al. 2018; width 1 is this project's choice [U].
    """

    width: float = 1.0

    def derivative(self, membrane: Tensor, threshold: float) -> Tensor:
        """dS/dV at the membrane potential; same shape as `membrane`."""
        return torch.relu(1 - torch.abs(membrane - threshold) / self.width) / self.width


@dataclass(frozen=True)
class Sigmoid:
    """dS/dV = alpha s (1 - s), s = sigmoid(alpha (V - threshold)), the primitive; integral 1.

    Source: alpha = 4 in the code of a sibling paper of TSER [C for the sibling, I for TSER].
    """

    alpha: float = 4.0

    def derivative(self, membrane: Tensor, threshold: float) -> Tensor:
        """dS/dV at the membrane potential; same shape as `membrane`."""
        s = torch.sigmoid(self.alpha * (membrane - threshold))
        return self.alpha * s * (1 - s)


@dataclass(frozen=True)
class ATan:
    """dS/dV = (alpha / 2) / (1 + (pi alpha (V - threshold) / 2)^2); integral 1.

    Primitive: atan(pi alpha (V - threshold) / 2) / pi + 1/2.
    Source: Fang et al. 2021 (PLIF), alpha = 2; none of the six papers is known to use it.
    """

    alpha: float = 2.0

    def derivative(self, membrane: Tensor, threshold: float) -> Tensor:
        """dS/dV at the membrane potential; same shape as `membrane`."""
        return self.alpha / 2 / (1 + (math.pi / 2 * self.alpha * (membrane - threshold)) ** 2)


def by_name(name: SurrogateName, attention: AttentionName) -> Surrogate:
    """A surrogate with its published width; `auto` is what the paper of the attention uses.

    auto: tanh k = 1 with FSTA [C], rectangle a = 1 with STAA [S], else tanh k = 3 [C for `LIFAct`, I for the papers].
    """
    if name == "auto":
        by_paper: dict[AttentionName, Surrogate] = {"fsta": TanhWindow(k=1.0), "staa": Rectangle()}
        return by_paper.get(attention, TanhWindow())
    surrogates: dict[SurrogateName, Surrogate] = {
        "tanh": TanhWindow(),
        "rectangle": Rectangle(),
        "sigmoid": Sigmoid(),
        "atan": ATan(),
        "triangle": Triangle(),
    }
    return surrogates[name]
