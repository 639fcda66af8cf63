"""A split: labels in memory, frames on demand, so that a data set larger than memory looks like a small one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Generator, Tensor

from train.data.spec import DataSpec
from train.errors import UserError


class Split(Protocol):
    """N labelled samples."""

    @property
    def labels(self) -> Tensor:
        """Class of every sample, int64 [N]."""

    def __len__(self) -> int: ...

    def read(self, indices: Tensor, generator: Generator | None = None) -> Tensor:
        """The samples at `indices` (int64 [B]): uint8 [B, C, H, W], or [B, T, C, H, W] where the data has time.

        Args:
            indices: which samples, in this order.
            generator: draws what is random in reading (the crop of a photograph); None for the evaluation view.

        Raises:
            UserError: a file is missing or damaged.
        """


@dataclass(frozen=True, eq=False)
class MemorySplit:
    """A split held in memory: frames uint8 [N, C, H, W] or [N, T, C, H, W], labels int64 [N]."""

    frames: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, indices: Tensor, generator: Generator | None = None) -> Tensor:
        return self.frames[indices]


@dataclass(frozen=True, eq=False)
class Dataset:
    """Training and test split of one data set."""

    spec: DataSpec
    train: Split
    test: Split


def spread(samples: int, wanted: int) -> Tensor:
    """`wanted` indices of `samples`, evenly spread (all, where there are fewer): int64, rising.

    Where a data set is stored class by class, its first samples are of one class only.
    """
    count = min(samples, wanted)
    return torch.arange(count) * samples // max(count, 1)


def check_labels(labels: Tensor, classes: int, where: str) -> Tensor:
    """`labels` as int64 [N].

    Raises:
        UserError: a label outside [0, classes), or no label at all.
    """
    if not len(labels):
        raise UserError("no samples in it", where=where)
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        raise UserError(f"labels {low}..{high}, allowed 0..{classes - 1}", where=where)
    return labels.long()


@dataclass(frozen=True, eq=False)
class Subset:
    """Some samples of a split, at `indices` int64 [M] of it; read as they are asked for."""

    split: Split
    indices: Tensor

    @property
    def labels(self) -> Tensor:
        """Class of every sample, int64 [M]."""
        return self.split.labels[self.indices]

    def __len__(self) -> int:
        return len(self.indices)

    def read(self, indices: Tensor, generator: Generator | None = None) -> Tensor:
        """The samples at `indices` of this subset; see `Split.read`."""
        return self.split.read(self.indices[indices], generator)
