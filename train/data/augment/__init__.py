"""Augmentation by name: (uint8 batch, generator) -> uint8 batch, images [B, C, H, W] or clips [B, T, C, H, W].

Order and sizes are those of the published recipes: random crop with padding 4, horizontal flip, AutoAugment, Cutout
with one hole of 16 pixels.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Generator, Tensor

from train.data.augment.clips import roll, snn_augment_wide
from train.data.augment.mix import Mixed as Mixed
from train.data.augment.mix import cutmix as cutmix
from train.data.augment.mix import mixup as mixup
from train.data.augment.planes import cutout, horizontal_flip, random_crop
from train.data.augment.policy import autoaugment
from train.data.loader import Augmentation
from train.data.spec import DataSpec
from train.errors import UserError

PADDING, HOLE, ROLL = 4, 16, 5
RECIPES = ("none", "flip", "crop-flip", "crop-flip-cutout", "autoaugment", "roll", "snn-augment-wide")


def recipe(name: str, spec: DataSpec) -> Augmentation:
    """The augmentation `name` for data of `spec`.

    `none`; `flip` (ImageNet, after the crop that reading makes); `crop-flip`; `crop-flip-cutout`; `autoaugment`: crop,
    flip, CIFAR-10's AutoAugment policy, Cutout (CIFAR-10 and CIFAR-100); `roll`: translate clips by up to 5 pixels;
    `snn-augment-wide`: flip, then one operation per clip (CIFAR10-DVS).

    Raises:
        UserError: no such recipe, or one for images on clips (or the other way round).
    """
    if name not in RECIPES:
        raise UserError(f"unknown augmentation {name!r}", hint=f"known augmentations: {', '.join(RECIPES)}")
    if name == "autoaugment" and (spec.has_time or spec.levels != 255):
        raise UserError(f"augmentation {name!r} is for 8-bit images, data set {spec.name!r} has none")
    if name in ("roll", "snn-augment-wide") and not spec.has_time:
        raise UserError(f"augmentation {name!r} is for event clips, data set {spec.name!r} has images")
    fill = tuple(round(value) for value in spec.mean)  # black holes would shift the mean that batch norm sees

    def crop(frames: Tensor, generator: Generator) -> Tensor:
        return random_crop(frames, PADDING, generator)

    def holes(frames: Tensor, generator: Generator) -> Tensor:
        return cutout(frames, HOLE, fill, generator)

    def rolled(frames: Tensor, generator: Generator) -> Tensor:
        return roll(frames, ROLL, generator)

    chains: dict[str, tuple[Callable[[Tensor, Generator], Tensor], ...]] = {
        "none": (),
        "flip": (horizontal_flip,),
        "crop-flip": (crop, horizontal_flip),
        "crop-flip-cutout": (crop, horizontal_flip, holes),
        "autoaugment": (crop, horizontal_flip, autoaugment, holes),
        "roll": (rolled,),
        "snn-augment-wide": (horizontal_flip, snn_augment_wide),
    }

    def augmentation(frames: Tensor, generator: Generator) -> Tensor:
        for step in chains[name]:
            frames = step(frames, generator)
        return frames

    return augmentation
