"""AutoAugment's policy for CIFAR-10: 25 pairs of operations (Cubuk et al. 2019, "AutoAugment", CVPR, table 7).

Operations are Pillow's, which the policy was searched with. Magnitude m of 0 to 9 is m / 9 of the range in the paper's
table 6; geometry and the four enhancements go to a random side of "no change"; what geometry uncovers is grey.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Generator, Tensor

if TYPE_CHECKING:
    from PIL.Image import Image

GREY = 128
Operation = tuple[str, float, int]  # name, probability, magnitude

POLICY: tuple[tuple[Operation, Operation], ...] = (
    (("Invert", 0.1, 7), ("Contrast", 0.2, 6)),
    (("Rotate", 0.7, 2), ("TranslateX", 0.3, 9)),
    (("Sharpness", 0.8, 1), ("Sharpness", 0.9, 3)),
    (("ShearY", 0.5, 8), ("TranslateY", 0.7, 9)),
    (("AutoContrast", 0.5, 8), ("Equalize", 0.9, 2)),
    (("ShearY", 0.2, 7), ("Posterize", 0.3, 7)),
    (("Color", 0.4, 3), ("Brightness", 0.6, 7)),
    (("Sharpness", 0.3, 9), ("Brightness", 0.7, 9)),
    (("Equalize", 0.6, 5), ("Equalize", 0.5, 1)),
    (("Contrast", 0.6, 7), ("Sharpness", 0.6, 5)),
    (("Color", 0.7, 7), ("TranslateX", 0.5, 8)),
    (("Equalize", 0.3, 7), ("AutoContrast", 0.4, 8)),
    (("TranslateY", 0.4, 3), ("Sharpness", 0.2, 6)),
    (("Brightness", 0.9, 6), ("Color", 0.2, 8)),
    (("Solarize", 0.5, 2), ("Invert", 0.0, 3)),
    (("Equalize", 0.2, 0), ("AutoContrast", 0.6, 0)),
    (("Equalize", 0.2, 8), ("Equalize", 0.6, 4)),
    (("Color", 0.9, 9), ("Equalize", 0.6, 6)),
    (("AutoContrast", 0.8, 4), ("Solarize", 0.2, 8)),
    (("Brightness", 0.1, 3), ("Color", 0.7, 0)),
    (("Solarize", 0.4, 5), ("AutoContrast", 0.9, 3)),
    (("TranslateY", 0.9, 9), ("TranslateY", 0.7, 9)),
    (("AutoContrast", 0.9, 2), ("Solarize", 0.8, 3)),
    (("Equalize", 0.8, 8), ("Invert", 0.1, 3)),
    (("TranslateY", 0.7, 9), ("AutoContrast", 0.9, 1)),
)


def autoaugment(frames: Tensor, generator: Generator) -> Tensor:
    """One pair of the policy per image: uint8 [B, 3 or 1, H, W] -> the same."""
    from PIL import Image

    pairs = torch.randint(len(POLICY), (len(frames),), generator=generator).tolist()
    draws = torch.rand(len(frames), 2, 2, generator=generator).tolist()
    grey = frames.shape[1] == 1
    pixels = frames[:, 0].cpu().numpy() if grey else frames.permute(0, 2, 3, 1).contiguous().cpu().numpy()
    result = np.empty_like(pixels)
    for index, (pair, draw) in enumerate(zip(pairs, draws, strict=True)):
        image = Image.fromarray(pixels[index])
        for (name, probability, magnitude), (chance, side) in zip(POLICY[pair], draw, strict=True):
            if chance < probability:
                image = OPERATIONS[name](image, magnitude / 9, 1 if side < 0.5 else -1)
        result[index] = np.asarray(image)
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
