"""Augmentation of event clips [B, T, C, H, W]: counts stay whole numbers, so pixels move to the nearest pixel."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

SHEAR, TRANSLATE, ROTATE = 0.3, 5, math.radians(30)
ERASE_AREA, ERASE_RATIO = (0.001, 0.11), (0.3, 3.3)
IDENTITY, SHEAR_X, TRANSLATE_X, TRANSLATE_Y, ROTATION, CUTOUT = range(6)


def roll(clips: Tensor, limit: int, generator: Generator) -> Tensor:
    """Translate each clip by up to `limit` pixels in x and y; what leaves on one side enters on the other."""
    height, width = clips.shape[-2:]
    dy, dx = torch.randint(-limit, limit + 1, (2, len(clips), 1), generator=generator).to(clips.device)
    y = (torch.arange(height, device=clips.device) - dy) % height
    x = (torch.arange(width, device=clips.device) - dx) % width
    return _pick(clips, (y.unsqueeze(2) * width + x.unsqueeze(1)).flatten(1))


def time_crop(clips: Tensor, steps: int, generator: Generator) -> Tensor:
    """`steps` successive frames from a random place in each clip: [B, T, C, H, W] -> [B, steps, C, H, W].

    Raises:
        ValueError: a clip has fewer frames.
    """
    if not 1 <= steps <= clips.shape[1]:
        raise ValueError(f"{steps} of {clips.shape[1]} frames")
    start = torch.randint(clips.shape[1] - steps + 1, (len(clips), 1), generator=generator).to(clips.device)
    sample = torch.arange(len(clips), device=clips.device).unsqueeze(1)
    return clips[sample, start + torch.arange(steps, device=clips.device)]


def snn_augment_wide(clips: Tensor, generator: Generator) -> Tensor:
    """One operation per clip, the same for all its frames: SNNAugmentWide as FSTA-SNN uses it for CIFAR10-DVS.

    Each with probability 1/6: identity; shear in x by up to 0.3; translation in x or in y by up to 5 pixels; rotation
    by up to 30 degrees; a hole of 0.1 to 11 % of the area. Sizes are uniform, to both sides; geometry is about the
    centre, to the nearest pixel, empty where nothing was.
    """
    operation = torch.randint(6, (len(clips),), generator=generator).to(clips.device)
    size = (2 * torch.rand(len(clips), generator=generator) - 1).to(clips.device)
    pixels = torch.randint(-TRANSLATE, TRANSLATE + 1, (len(clips),), generator=generator).to(clips.device)
    holes = erased(len(clips), clips.shape[-2], clips.shape[-1], generator).to(clips.device)
    moved = warp(clips, *_motion(operation, size, pixels))
    hole = holes & (operation == CUTOUT).view(-1, 1, 1)
    return moved.masked_fill(hole.view(-1, 1, 1, *hole.shape[1:]), 0)


def _motion(operation: Tensor, size: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Matrix [B, 2, 2] and offset [B, 2], both for (y, x), from a pixel of the result to its source."""
    angle = torch.where(operation == ROTATION, size * ROTATE, 0.0)
    shear = torch.where(operation == SHEAR_X, size * SHEAR, 0.0)
    cos, sin = angle.cos(), angle.sin()
    matrix = torch.stack([torch.stack([cos, -sin], 1), torch.stack([sin + shear, cos], 1)], 1)
    down = torch.where(operation == TRANSLATE_Y, pixels, 0)
    right = torch.where(operation == TRANSLATE_X, pixels, 0)
    return matrix, -torch.stack([down, right], 1).float()


def warp(clips: Tensor, matrix: Tensor, offset: Tensor) -> Tensor:
    """Each pixel p from the pixel nearest to matrix (p - centre) + centre + offset, 0 where that is outside.

    clips [B, T, C, H, W], matrix [B, 2, 2] and offset [B, 2] for (y, x).
    """
    height, width = clips.shape[-2:]
    y, x = torch.meshgrid(
        torch.arange(height, device=clips.device) - (height - 1) / 2,
        torch.arange(width, device=clips.device) - (width - 1) / 2,
        indexing="ij",
    )
    source = matrix @ torch.stack([y.flatten(), x.flatten()]) + offset.unsqueeze(2)
    row = (source[:, 0] + height / 2).floor().long()  # half a pixel more than the centre: rounds
    column = (source[:, 1] + width / 2).floor().long()
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    picked = _pick(clips, torch.where(inside, row * width + column, 0))
    return picked.masked_fill(~inside.view(-1, 1, 1, height, width), 0)


def _pick(clips: Tensor, source: Tensor) -> Tensor:
    """Pixel i of every frame of clip b from pixel source[b, i]; source int64 [B, H W]."""
    planes = clips.flatten(1, -3).flatten(2)
    return planes.gather(2, source.unsqueeze(1).expand_as(planes)).view(clips.shape)


def erased(samples: int, height: int, width: int, generator: Generator) -> Tensor:
    """Random Erasing's rectangles (Zhong et al. 2020): bool [B, H, W]; area and aspect ratio drawn."""
    area, shape, down, across = torch.rand(4, samples, 1, generator=generator, dtype=torch.float64)
    target = height * width * (ERASE_AREA[0] + (ERASE_AREA[1] - ERASE_AREA[0]) * area)
    low, high = math.log(ERASE_RATIO[0]), math.log(ERASE_RATIO[1])
    ratio = (low + (high - low) * shape).exp()
    h = (target * ratio).sqrt().round().clamp(1, height)
    w = (target / ratio).sqrt().round().clamp(1, width)
    top, left = (down * (height - h + 1)).floor(), (across * (width - w + 1)).floor()
    y, x = torch.arange(height), torch.arange(width)
    rows: Tensor = (y >= top) & (y < top + h)
    columns: Tensor = (x >= left) & (x < left + w)
    return rows.unsqueeze(2) & columns.unsqueeze(1)
