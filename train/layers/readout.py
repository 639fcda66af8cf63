"""From logits at every step to one answer."""

from __future__ import annotations

from torch import Tensor, nn


class MeanOverTime(nn.Module):
    """Logits [T, B, K] to their mean over the window [B, K] [C for FSTA, I else]."""

    def forward(self, logits: Tensor) -> Tensor:
        return logits.mean(0)
