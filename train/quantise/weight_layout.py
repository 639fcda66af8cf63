"""How the latent weights of a layer become those that meet what arrives, [O, I, ...]: channels of it at axis 1."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from train.quantise.composition import Composition

Layout: TypeAlias = Callable[[Tensor], Tensor]


def as_they_are(weight: Tensor) -> Tensor:
    """[O, I, kH, kW] of a convolution, or (C,)."""
    return weight


@dataclass(frozen=True)
class ByChannel:
    """(O, I H W) of a dense layer behind maps of I channels to (O, I, H W)."""

    channels: int

    def __call__(self, weight: Tensor) -> Tensor:
        return weight.reshape(len(weight), self.channels, -1)


@dataclass(frozen=True, eq=False)
class Composed:
    """[O, I, kH, kW] of a convolution behind sums over windows to (O, I, N, P, Q): N convolutions of what is summed.

    In float64, where adding the few float32 weights that meet in one place is exact on every device.
    """

    composition: Composition

    def __call__(self, weight: Tensor) -> Tensor:
        rows, columns = (
            torch.as_tensor(m).to(weight.device) for m in (self.composition.rows, self.composition.columns)
        )
        return torch.einsum("oihw,nph,nqw->oinpq", weight.double(), rows, columns)
