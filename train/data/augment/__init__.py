"""Augmentation by name: (uint8 batch, generator) -> uint8 batch, images [B, C, H, W] or clips [B, T, C, H, W].

Order and sizes are those of the published recipes: random crop with padding 4, horizontal flip, AutoAugment, Cutout
with one hole of 16 pixels.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Generator, Tensor
from torch.nn.functional import pad

from train.data.augment.clips import roll, snn_augment_wide, time_crop
from train.data.augment.mix import Mixed as Mixed
from train.data.augment.mix import Mixing as Mixing
from train.data.augment.mix import cutmix as cutmix
from train.data.augment.mix import mixing as mixing
from train.data.augment.mix import mixup as mixup
from train.data.augment.planes import cutout, horizontal_flip, random_crop
from train.data.augment.policy import autoaugment
from train.data.augment.randaug import randaugment
from train.data.loader import Augmentation
from train.data.spec import DataSpec
from train.errors import UserError

PADDING, HOLE, ROLL = 4, 16, 5
RECIPES = (
    "none",
    "flip",
    "crop-flip",
    "crop-flip-cutout",
    "autoaugment",
    "randaugment",
    "roll",
    "events",
    "snn-augment-wide",
)


def recipe(name: str, spec: DataSpec) -> Augmentation:
    """The augmentation `name` for data of `spec`.

    `none`; `flip` (ImageNet, after the crop that reading makes); `crop-flip`; `crop-flip-cutout`; `autoaugment`: crop,
    flip, CIFAR-10's AutoAugment policy, Cutout (CIFAR-10 and CIFAR-100); `randaugment`: flip and RandAugment (ImageNet,
    after the crop that reading makes); `roll`: translate clips by up to 5 pixels;
    `events`: roll, Cutout, and a crop in time of the clip with empty frames around it, an eighth of its length at
    either end; `snn-augment-wide`: flip, then one operation per clip (CIFAR10-DVS).

    Raises:
        UserError: no such recipe, or one for images on clips (or the other way round).
    """
    if name not in RECIPES:
        raise UserError(f"unknown augmentation {name!r}", hint=f"known augmentations: {', '.join(RECIPES)}")
    if name in ("autoaugment", "randaugment") and (spec.has_time or spec.levels != 255):
        raise UserError(f"augmentation {name!r} is for 8-bit images, data set {spec.name!r} has none")
    if name in ("roll", "events", "snn-augment-wide") and not spec.has_time:
        raise UserError(f"augmentation {name!r} is for event clips, data set {spec.name!r} has images")
    fill = tuple(round(value) for value in spec.mean)  # black holes would shift the mean that batch norm sees

    def crop(frames: Tensor, generator: Generator) -> Tensor:
        return random_crop(frames, PADDING, generator)

    def holes(frames: Tensor, generator: Generator) -> Tensor:
        return cutout(frames, HOLE, fill, generator)

    def rolled(frames: Tensor, generator: Generator) -> Tensor:
        return roll(frames, ROLL, generator)

    def crop_in_time(frames: Tensor, generator: Generator) -> Tensor:
        steps = frames.shape[1]
        ends = (*(0, 0) * (frames.ndim - 2), *(-(-steps // 8),) * 2)
        return time_crop(pad(frames, ends), steps, generator)

    chains: dict[str, tuple[Callable[[Tensor, Generator], Tensor], ...]] = {
        "none": (),
        "flip": (horizontal_flip,),
        "crop-flip": (crop, horizontal_flip),
        "crop-flip-cutout": (crop, horizontal_flip, holes),
        "autoaugment": (crop, horizontal_flip, autoaugment, holes),
        "randaugment": (horizontal_flip, randaugment),
        "roll": (rolled,),
        "events": (rolled, holes, crop_in_time),
        "snn-augment-wide": (horizontal_flip, snn_augment_wide),
    }

    def augmentation(frames: Tensor, generator: Generator) -> Tensor:
        for step in chains[name]:
            frames = step(frames, generator)
        return frames

    return augmentation
