"""Mixup and CutMix: two samples and their labels in one; for images and for clips."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from torch import Generator, Tensor
from torch.nn.functional import one_hot


@dataclass(frozen=True, eq=False)
class Mixed:
    """Frames of the batch's shape and the probability of each class, float [B, K]."""

    frames: Tensor
    targets: Tensor


Mixing: TypeAlias = Callable[[Tensor, Tensor, int, Generator], Mixed]


def mixing(mixup_alpha: float, cutmix_alpha: float, probability: float = 1.0) -> Mixing | None:
    """What to do with a batch: mixup, CutMix, one of the two by a fair coin; None where both are 0.

    A batch stays as it is, its labels as probabilities, unless a number in [0, 1) is below `probability`.
    """
    if not mixup_alpha and not cutmix_alpha:
        return None

    def mix(frames: Tensor, labels: Tensor, classes: int, generator: Generator) -> Mixed:
        if probability < 1 and torch.rand((), generator=generator) >= probability:
            return Mixed(frames, one_hot(labels, classes).float())
        heads = torch.rand((), generator=generator) < 0.5
        if not cutmix_alpha or (mixup_alpha and heads):
            return mixup(frames, labels, classes, mixup_alpha, generator)
        return cutmix(frames, labels, classes, cutmix_alpha, generator)

    return mix


def mixup(frames: Tensor, labels: Tensor, classes: int, alpha: float, generator: Generator) -> Mixed:
    """Mixup (Zhang et al. 2018): share x + (1 - share) x', share from Beta(alpha, alpha), one per batch; float frames.

    The frames are no longer whole numbers: for training only.
    """
    share, partner = _share(alpha, generator), _partner(len(frames), generator, frames.device)
    mixed = share * frames.float() + (1 - share) * frames[partner].float()
    return Mixed(mixed, _targets(labels, partner, classes, torch.full((len(frames),), share)))


def cutmix(frames: Tensor, labels: Tensor, classes: int, alpha: float, generator: Generator) -> Mixed:
    """CutMix (Yun et al. 2019): a box of the frame from another sample; its area is drawn from Beta(alpha, alpha).

    The box has the frame's aspect ratio and is cut at the border; the labels are mixed by the area that remains of it.
    """
    height, width = frames.shape[-2:]
    side = (1 - _share(alpha, generator)) ** 0.5
    partner = _partner(len(frames), generator, frames.device)
    down, across = torch.rand(2, generator=generator).tolist()
    (top, bottom), (left, right) = _cut(down, side, height), _cut(across, side, width)
    mixed = frames.clone()
    mixed[..., top:bottom, left:right] = frames[partner][..., top:bottom, left:right]
    share = 1 - (bottom - top) * (right - left) / (height * width)
    return Mixed(mixed, _targets(labels, partner, classes, torch.full((len(frames),), share)))


def _cut(centre: float, side: float, size: int) -> tuple[int, int]:
    length = int(size * side)
    begin = int(centre * size) - length // 2
    return max(begin, 0), min(begin + length, size)


def _share(alpha: float, generator: Generator) -> float:
    """A number from Beta(alpha, alpha); torch's own sampler takes no generator, numpy's is seeded from it."""
    seed = int(torch.randint(2**31, (), generator=generator))
    return float(np.random.default_rng(seed).beta(alpha, alpha))


def _partner(samples: int, generator: Generator, device: torch.device) -> Tensor:
    return torch.randperm(samples, generator=generator).to(device)


def _targets(labels: Tensor, partner: Tensor, classes: int, share: Tensor) -> Tensor:
    own = one_hot(labels, classes).float()
    part = share.to(labels.device).unsqueeze(1)
    return part * own + (1 - part) * own[partner]
