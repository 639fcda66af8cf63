"""TS-SNN's temporal shift: part of the channels see the next step, part the step before."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from train.choices import ShiftSplit


@dataclass(frozen=True)
class Split:
    """Channels [0, future) see t + 1, channels [future, past) see t - 1, channels [past, C) see t."""

    future: int
    past: int


def shift(x: Tensor, split: Split) -> Tensor:
    """Z of TS-SNN: [T, B, C, ...] with missing neighbours zero [S: three independent implementations]."""
    z = x.clone()
    z[:-1, :, : split.future] = x[1:, :, : split.future]
    z[-1, :, : split.future] = 0
    z[1:, :, split.future : split.past] = x[:-1, :, split.future : split.past]
    z[0, :, split.future : split.past] = 0
    return z


class TemporalShift(nn.Module):
    """X' = X + alpha Z, one learnable scalar alpha a module; [T, B, C, ...] to the same shape.

    Equation 7 of TS-SNN (arXiv 2505.04165) [C]. The C channels are folded into `folds` segments and two split points
    0 < g1 < g2 < folds choose the groups [C]; alpha starts at 0.5 and folds at 32, at most C [S]. With split "random"
    the split is drawn anew in every training forward pass: this project's reading of a point that the paper leaves
    open [I]. With "fixed", and always at evaluation, it is at a third and two thirds, the mean of the random one [I].
    Where folds do not divide C, the boundaries are rounded down to whole channels [U].
    """

    def __init__(self, channels: int, folds: int = 32, alpha: float = 0.5, split: ShiftSplit = "random") -> None:
        super().__init__()
        if channels < 3 or folds < 3:
            raise ValueError(f"temporal shift needs at least 3 channels and 3 folds, got {channels} and {folds}")
        self.channels = channels
        self.folds = min(folds, channels)
        self.split = split
        self.alpha = nn.Parameter(torch.tensor(alpha))

    @property
    def fixed_split(self) -> Split:
        """The split used at evaluation, and so on the chip."""
        return self._split(round(self.folds / 3), round(2 * self.folds / 3))

    def _split(self, g1: int, g2: int) -> Split:
        return Split(g1 * self.channels // self.folds, g2 * self.channels // self.folds)

    def _random_split(self) -> Split:
        g1, g2 = sorted((torch.randperm(self.folds - 1)[:2] + 1).tolist())
        return self._split(g1, g2)

    def forward(self, x: Tensor) -> Tensor:
        split = self._random_split() if self.training and self.split == "random" else self.fixed_split
        return x + self.alpha * shift(x, split)

    def extra_repr(self) -> str:
        return f"channels={self.channels}, folds={self.folds}, split={self.split}"
