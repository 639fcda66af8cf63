"""Crop, flip and Cutout on whole batches: one draw per sample, the same for all frames of a clip."""

from __future__ import annotations

import torch
from torch import Generator, Tensor
from torch.nn.functional import pad


def random_crop(frames: Tensor, padding: int, generator: Generator) -> Tensor:
    """Pad each side with `padding` black pixels and cut the original size out anywhere: [B, ..., H, W] -> the same."""
    height, width = frames.shape[-2:]
    down, right = torch.randint(2 * padding + 1, (2, len(frames)), generator=generator).to(frames.device)
    padded = pad(frames.flatten(1, -3), (padding,) * 4)
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)  # a view: [B, C, offsets, offsets, H, W]
    sample = torch.arange(len(frames), device=frames.device)
    return windows[sample, :, down, right].reshape(frames.shape)


def horizontal_flip(frames: Tensor, generator: Generator) -> Tensor:
    """Mirror left and right with probability 1/2: [B, ..., H, W] -> the same."""
    mirrored = torch.rand(len(frames), generator=generator).to(frames.device) < 0.5
    return torch.where(mirrored.view(-1, *[1] * (frames.ndim - 1)), frames.flip(-1), frames)


def cutout(frames: Tensor, length: int, fill: tuple[int, ...], generator: Generator) -> Tensor:
    """Cutout (DeVries and Taylor 2017): a square of `length` pixels around any pixel, cut at the border, gets `fill`.

    [B, ..., C, H, W] -> the same; `fill` has one value per channel.
    """
    height, width = frames.shape[-2:]
    y = torch.randint(height, (len(frames), 1), generator=generator).to(frames.device)
    x = torch.randint(width, (len(frames), 1), generator=generator).to(frames.device)
    rows = _span(y, height, length)
    columns = _span(x, width, length)
    hole = (rows.unsqueeze(2) & columns.unsqueeze(1)).view(-1, *[1] * (frames.ndim - 3), height, width)
    value = torch.tensor(fill, dtype=frames.dtype, device=frames.device).view(-1, 1, 1)
    return torch.where(hole, value, frames)


def _span(centre: Tensor, size: int, length: int) -> Tensor:
    """Which of `size` positions lie in [centre - length // 2, centre - length // 2 + length): bool [B, size]."""
    place = torch.arange(size, device=centre.device) - (centre - length // 2)
    return (place >= 0) & (place < length)
