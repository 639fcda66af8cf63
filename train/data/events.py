"""Events of a camera and their frames: every event falls into exactly one of T bins, none is dropped."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from train.errors import UserError

Integers = np.ndarray[Any, np.dtype[np.int64]]
SplitBy = Literal["number", "time"]


@dataclass(frozen=True, eq=False)
class Events:
    """Coordinates, time in microseconds and polarity (0 or 1) of n events, int64 [n] each, in the file's order."""

    x: Integers
    y: Integers
    t: Integers
    p: Integers

    def __len__(self) -> int:
        return len(self.t)

    def between(self, start: int, end: int) -> Events:
        """The events with start <= t < end."""
        inside = (self.t >= start) & (self.t < end)
        return Events(self.x[inside], self.y[inside], self.t[inside], self.p[inside])


@dataclass(frozen=True)
class Binning:
    """How events become frames.

    `split_by` "number": n events, bin k holds events [k d, (k + 1) d) with d = n // T, the last bin also the rest
    (SpikingJelly's rule, that of the published results). "time": bin floor((t - t0) T / (t1 - t0 + 1)) between the
    earliest and the latest event: equal spans of time, to within a microsecond.

    `factor` adds up factor x factor pixels. A count above `levels` is clipped to it.
    """

    steps: int
    shape: tuple[int, int, int]
    levels: int
    split_by: SplitBy = "number"
    factor: int = 1

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise UserError(f"{self.steps} frames per clip, must be at least 1")
        if self.split_by not in get_args(SplitBy):
            raise UserError(f"events split by {self.split_by!r}", hint="known: number, time")
        if not 1 <= self.levels <= 255:
            raise ValueError(f"levels {self.levels}, frames are bytes")


def bin_numbers(events: Events, binning: Binning) -> Integers:
    """The bin of every event, int64 [n] in [0, T)."""
    n, steps = len(events), binning.steps
    if binning.split_by == "number":
        return np.minimum(np.arange(n) // max(n // steps, 1), steps - 1)
    begin, end = int(events.t.min()), int(events.t.max())
    return (events.t - begin) * steps // (end - begin + 1)


def to_frames(events: Events, binning: Binning) -> tuple[Tensor, int]:
    """Event counts per bin, polarity and pixel, uint8 [T, 2, H, W], and how many events the clip at `levels` lost.

    Raises:
        UserError: no events, an event outside the sensor, or a polarity other than 0 and 1.
    """
    channels, height, width = binning.shape
    if not len(events):
        raise UserError("no events in it")
    x, y = events.x // binning.factor, events.y // binning.factor
    for name, values, limit in (("x", x, width), ("y", y, height), ("polarity", events.p, channels)):
        if values.min() < 0 or values.max() >= limit:
            raise UserError(f"an event with {name} outside the sensor's {limit * _scale(name, binning)} values")
    cell = ((bin_numbers(events, binning) * channels + events.p) * height + y) * width + x
    counts = np.bincount(cell, minlength=binning.steps * channels * height * width)
    clipped = np.minimum(counts, binning.levels)
    frames = torch.from_numpy(clipped.astype(np.uint8)).reshape(binning.steps, *binning.shape)
    return frames, int((counts - clipped).sum())


def _scale(name: str, binning: Binning) -> int:
    return 1 if name == "polarity" else binning.factor
