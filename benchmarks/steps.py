"""What the training benchmarks time: one step of SGD on one batch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional


def training(model: nn.Module, frames: Tensor, labels: Tensor, bf16: bool) -> Callable[[], Tensor]:
    """Forward, cross-entropy, backward and SGD on frames [T, B, C, H, W] and labels [B]; returns the loss, detached.

    The loss stays on its device: reading it would wait for the device.
    """
    optimiser = torch.optim.SGD(model.parameters(), 0.01)

    def step() -> Tensor:
        with torch.autocast(frames.device.type, torch.bfloat16, enabled=bf16):
            loss = functional.cross_entropy(model(frames).float(), labels)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        return loss.detach()

    return step
