"""Data sets by name, as raw integer frames."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from train.data.digits import SPEC as DIGITS
from train.data.digits import load_digits_split
from train.data.spec import DataSpec as DataSpec
from train.errors import UserError


@dataclass(frozen=True, eq=False)
class Split:
    """Raw frames uint8 [N, C, H, W] and labels int64 [N]."""

    frames: Tensor
    labels: Tensor


@dataclass(frozen=True, eq=False)
class Dataset:
    """Training and test split of one data set."""

    spec: DataSpec
    train: Split
    test: Split


def spec(name: str) -> DataSpec:
    """The specification of a data set, without loading it.

    Raises:
        UserError: no such data set.
    """
    if name == DIGITS.name:
        return DIGITS
    raise UserError(f"unknown data set {name!r}", hint="known data sets: digits")


def load(name: str) -> Dataset:
    """Load a data set by name.

    Raises:
        UserError: no such data set.
    """
    found = spec(name)
    train, test = load_digits_split()
    return Dataset(found, Split(*train), Split(*test))


def repeat_over_time(frames: Tensor, steps: int) -> Tensor:
    """Direct coding: raw frames [B, C, H, W] to float [T, B, C, H, W], the same image at every step [C]."""
    return frames.float().unsqueeze(0).expand(steps, *frames.shape)
