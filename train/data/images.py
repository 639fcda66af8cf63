"""A split of image files, decoded when they are asked for: only the paths and labels are in memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Generator, Tensor

from train.data.files import published_at
from train.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_PIXELS = 1 << 26  # of a file's own claim, before it is decoded
RESIZE_FACTOR = 256 / 224  # of the short side before the centre crop
Box = tuple[float, float, float, float]


@dataclass(frozen=True, eq=False)
class ImageSplit:
    """Image files as uint8 [B, 3, size, size].

    With a generator: RandomResizedCrop, a box of `crop` of the area and an aspect ratio of 3/4 to 4/3 (Szegedy et al.
    2015), where `crop` is set. Without: the short side is resized to size * 256 / 224 and the centre is taken. An image
    that already has the size is taken as it is when `crop` is None. `page` publishes the files, for messages.
    """

    paths: Sequence[Path]
    labels: Tensor
    size: int
    crop: tuple[float, float] | None = None
    page: str = ""

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, indices: Tensor, generator: Generator | None = None) -> Tensor:
        with published_at(self.page):
            return torch.stack([self._one(self.paths[i], generator) for i in indices.tolist()])

    def _one(self, path: Path, generator: Generator | None) -> Tensor:
        image = decode(path)
        if self.crop is None:
            if image.size != (self.size, self.size):
                width, height = image.size
                raise UserError(f"{width} x {height} pixels, expected {self.size} x {self.size}", where=str(path))
        elif generator is None:
            image = centre_crop(image, self.size)
        else:
            image = resized_crop(image, random_box(image.size, self.crop, generator), self.size)
        return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def decode(path: Path) -> Image:
    """An image file as RGB.

    Raises:
        UserError: missing, cut off, too large, or not an image.
    """
    from PIL import Image

    try:
        with Image.open(path) as image:
            if image.width * image.height > MAX_PIXELS:
                raise UserError(f"{image.width} x {image.height} pixels, limit {MAX_PIXELS} in all", where=str(path))
            return image.convert("RGB")
    except UserError:
        raise
    except Exception as error:  # Pillow's decoders raise errors of many kinds on damaged files
        raise UserError(f"cannot be read as an image: {error}", where=str(path)) from error


def random_box(size: tuple[int, int], scale: tuple[float, float], generator: Generator) -> Box:
    """(left, top, right, bottom) of a random crop: area and aspect ratio drawn until a box fits, else the centre."""
    width, height = size
    for _ in range(10):
        area, shape, across, down = torch.rand(4, generator=generator, dtype=torch.float64).tolist()
        target = width * height * (scale[0] + (scale[1] - scale[0]) * area)
        ratio = math.exp(math.log(3 / 4) + (math.log(4 / 3) - math.log(3 / 4)) * shape)
        w, h = round(math.sqrt(target * ratio)), round(math.sqrt(target / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(across * (width - w + 1)), int(down * (height - h + 1))
            return left, top, left + w, top + h
    w, h = min(width, round(height * 4 / 3)), min(height, round(width * 4 / 3))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def resized_crop(image: Image, box: Box, size: int) -> Image:
    """The box of an image, resized to `size` x `size` with Pillow's antialiased bilinear filter."""
    from PIL.Image import Resampling

    return image.resize((size, size), Resampling.BILINEAR, box=box)


def centre_crop(image: Image, size: int) -> Image:
    """The centre of an image whose short side is brought to size * 256 / 224; one resampling for both."""
    width, height = image.size
    side = min(width, height) / RESIZE_FACTOR
    left, top = (width - side) / 2, (height - side) / 2
    return resized_crop(image, (left, top, left + side, top + side), size)
