"""RandAugment (Cubuk et al. 2020, arXiv 1909.13719) as timm's "rand-m5-mstd0.5-inc1" has it: FSTA-SNN on ImageNet [C].

Two operations an image, each drawn from all 15 and applied with probability 1/2, at a magnitude of 0 to 10 drawn from
N(5, 0.5); every operation gets stronger with it. Pixels are interpolated bilinearly (timm: bilinear or bicubic by
chance), what geometry uncovers is grey (timm: the data set's mean).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Generator, Tensor

from train.data.augment.pillow import OPERATIONS, affine, per_image

if TYPE_CHECKING:
    from PIL.Image import Image

LAYERS, PROBABILITY, MAGNITUDE, SPREAD, LARGEST = 2, 0.5, 5.0, 0.5, 10.0


def randaugment(frames: Tensor, generator: Generator) -> Tensor:
    """uint8 [B, 3 or 1, H, W] -> the same."""
    names = list(STRENGTHENING)
    chosen = torch.randint(len(names), (len(frames), LAYERS), generator=generator).tolist()
    draws = torch.rand(len(frames), LAYERS, 2, generator=generator).tolist()
    drawn = MAGNITUDE + SPREAD * torch.randn(len(frames), LAYERS, generator=generator)
    sizes = (drawn.clamp(0, LARGEST) / LARGEST).tolist()

    def change(index: int, image: Image) -> Image:
        for which, (chance, side), size in zip(chosen[index], draws[index], sizes[index], strict=True):
            if chance < PROBABILITY:
                image = STRENGTHENING[names[which]](image, size, 1 if side < 0.5 else -1)
        return image

    return per_image(frames, change)


def _posterize(image: Image, size: float, side: int) -> Image:
    """4 bits down to 0, but at least 1, which Pillow needs."""
    from PIL import ImageOps

    return ImageOps.posterize(image, max(1, 4 - int(4 * size)))


def _solarize_add(image: Image, size: float, side: int) -> Image:
    """Up to 110 is added to values below 128."""
    more = int(110 * size)
    table = [min(255, value + more) if value < 128 else value for value in range(256)]
    return image.point(table * len(image.getbands()))


def _translate_x(image: Image, size: float, side: int) -> Image:
    return affine(image, (1, 0, 0.45 * size * image.width * side, 0, 1, 0))


def _translate_y(image: Image, size: float, side: int) -> Image:
    return affine(image, (1, 0, 0, 0, 1, 0.45 * size * image.height * side))


STRENGTHENING: dict[str, Callable[[Image, float, int], Image]] = {
    **OPERATIONS,
    "Posterize": _posterize,
    "SolarizeAdd": _solarize_add,
    "TranslateX": _translate_x,
    "TranslateY": _translate_y,
}
