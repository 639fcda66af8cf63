"""Operations on one image, Pillow's, which AutoAugment and RandAugment choose from.

An operation takes a size in [0, 1] of its range and a side, 1 or -1: geometry and the four enhancements go to that side
of "no change". What geometry uncovers is grey. Ranges: Cubuk et al. 2019, "AutoAugment", CVPR, table 6.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from PIL.Image import Image

GREY = 128


def per_image(frames: Tensor, change: Callable[[int, Image], Image]) -> Tensor:
    """change(index, image) of every image: uint8 [B, 3 or 1, H, W] -> the same."""
    from PIL import Image

    grey = frames.shape[1] == 1
    pixels = frames[:, 0].cpu().numpy() if grey else frames.permute(0, 2, 3, 1).contiguous().cpu().numpy()
    result = np.empty_like(pixels)
    for index in range(len(pixels)):
        result[index] = np.asarray(change(index, Image.fromarray(pixels[index])))
    changed = torch.from_numpy(result).to(frames.device)
    return changed.unsqueeze(1) if grey else changed.permute(0, 3, 1, 2).contiguous()


def affine(image: Image, coefficients: tuple[float, float, float, float, float, float]) -> Image:
    """Pixel (x, y) from (a x + b y + c, d x + e y + f), bilinear; grey where that is outside."""
    from PIL.Image import Resampling, Transform

    fill = (GREY,) * len(image.getbands())
    return image.transform(image.size, Transform.AFFINE, coefficients, Resampling.BILINEAR, fillcolor=fill)


def _shear_x(image: Image, size: float, side: int) -> Image:
    return affine(image, (1, 0.3 * size * side, 0, 0, 1, 0))


def _shear_y(image: Image, size: float, side: int) -> Image:
    return affine(image, (1, 0, 0, 0.3 * size * side, 1, 0))


def _translate_x(image: Image, size: float, side: int) -> Image:
    return affine(image, (1, 0, _pixels(size, image.width) * side, 0, 1, 0))


def _translate_y(image: Image, size: float, side: int) -> Image:
    return affine(image, (1, 0, 0, 0, 1, _pixels(size, image.height) * side))


def _pixels(size: float, extent: int) -> int:
    """The paper's 150 pixels are of images of 331."""
    return round(150 / 331 * extent * size)


def _rotate(image: Image, size: float, side: int) -> Image:
    """Up to 30 degrees about the centre."""
    angle = math.radians(30 * size * side)
    cos, sin = math.cos(angle), math.sin(angle)
    x, y = image.width / 2, image.height / 2
    return affine(image, (cos, -sin, x - cos * x + sin * y, sin, cos, y - sin * x - cos * y))


def _enhance(kind: str) -> Callable[[Image, float, int], Image]:
    def operation(image: Image, size: float, side: int) -> Image:
        from PIL import ImageEnhance

        result: Image = getattr(ImageEnhance, kind)(image).enhance(1 + 0.9 * size * side)
        return result

    return operation


def _histogram(kind: str) -> Callable[[Image, float, int], Image]:
    def operation(image: Image, size: float, side: int) -> Image:
        from PIL import ImageOps

        result: Image = getattr(ImageOps, kind)(image)
        return result

    return operation


def _posterize(image: Image, size: float, side: int) -> Image:
    """8 bits down to 4."""
    from PIL import ImageOps

    return ImageOps.posterize(image, round(8 - 4 * size))


def _solarize(image: Image, size: float, side: int) -> Image:
    """Invert values from the threshold on: 256 (none) down to 0 (all)."""
    from PIL import ImageOps

    return ImageOps.solarize(image, round(256 * (1 - size)))


OPERATIONS: dict[str, Callable[[Image, float, int], Image]] = {
    "ShearX": _shear_x,
    "ShearY": _shear_y,
    "TranslateX": _translate_x,
    "TranslateY": _translate_y,
    "Rotate": _rotate,
    "Posterize": _posterize,
    "Solarize": _solarize,
    **{kind: _enhance(kind) for kind in ("Color", "Contrast", "Brightness", "Sharpness")},
    "AutoContrast": _histogram("autocontrast"),
    "Equalize": _histogram("equalize"),
    "Invert": _histogram("invert"),
}
