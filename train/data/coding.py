"""Input coding: raw frames of a batch to the float input [T, B, C, H, W] of a network, values still whole numbers."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from train.errors import UserError


def repeat_over_time(frames: Tensor, steps: int) -> Tensor:
    """Direct coding: raw frames [B, C, H, W] to float [T, B, C, H, W], the same image at every step [C]."""
    return frames.float().unsqueeze(0).expand(steps, *frames.shape)


def poisson(frames: Tensor, steps: int, levels: int, generator: Generator) -> Tensor:
    """Rate coding: at each step a pixel of value v spikes with probability v / levels; float 0 or 1, [T, B, C, H, W].

    Raises:
        ValueError: a value above `levels`, which is no probability.
    """
    if frames.numel() and int(frames.max()) > levels:
        raise ValueError(f"value {int(frames.max())} above levels {levels}")
    draws = torch.randint(levels, (steps, *frames.shape), generator=generator, device=frames.device)
    return (draws < frames).float()  # exact: v of the `levels` equally likely draws are below v


def time_first(frames: Tensor) -> Tensor:
    """Event frames [B, T, C, H, W] to float [T, B, C, H, W]."""
    return frames.transpose(0, 1).float()


def over_time(frames: Tensor, steps: int) -> Tensor:
    """Images are repeated, event frames are used as they are: float [T, B, C, H, W].

    Raises:
        UserError: event frames of another number of steps than the network's window.
    """
    if frames.ndim == 4:
        return repeat_over_time(frames, steps)
    if frames.shape[1] != steps:
        raise UserError(f"clips of {frames.shape[1]} frames, the network's window has {steps} steps")
    return time_first(frames)
