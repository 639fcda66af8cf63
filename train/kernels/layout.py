"""How a [T, B, C, ...] tensor lies in memory, reduced to the one form that the fused kernels read: [T, M]."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

LINE = 64  # bytes of a cache line
_NUMPY = {torch.float32: np.float32, torch.float64: np.float64}
TILE = 2048  # elements that a kernel takes through all steps at a time: its rows stay in the nearest caches


@dataclass(frozen=True)
class Layout:
    """A frame of M elements is a row of segments; each is cut into tiles of `width`, the last one shorter.

    Parameters come as [K, width]: tile t of segment s takes row s mod K. Channels last: one segment, K = 1, and width a
    multiple of C, so that parameters repeat along the tile. Contiguous: one segment a plane, K = C, each row constant.
    """

    shape: torch.Size
    channels_last: bool
    segment: int
    width: int
    rows: int

    def over(self, steps: int) -> Layout:
        """The same for so many steps: frames lie alike."""
        return self if steps == self.shape[0] else replace(self, shape=torch.Size((steps, *self.shape[1:])))

    def flat(self, x: Tensor) -> Tensor:
        """[T, B, C, ...] to [T, M] in memory order; a view where `x` has this layout, else a copy."""
        ordered = x.movedim(2, -1) if self.channels_last else x
        return ordered.contiguous().view(len(x), -1)

    def shaped(self, flat: Tensor) -> Tensor:
        """[T, M] back to [T, B, C, ...], always a view."""
        if not self.channels_last:
            return flat.view(self.shape)
        steps, batch, channels, *space = self.shape
        return flat.view(steps, batch, *space, channels).movedim(-1, 2)

    def first(self, flat: Tensor) -> Tensor:
        """The first element of every channel, (C,), of a [T, M] tensor; a view."""
        channels = self.shape[2]
        return flat[0, :channels] if self.channels_last else flat[0, :: self.segment][:channels]

    def rooms(self, count: int, dtype: torch.dtype) -> tuple[Any, ...]:
        """Memory for `count` parameters as NumPy arrays [K, width], each from a cache line on."""
        kind = _NUMPY[dtype]
        size = self.rows * self.width
        apart = -(-size * dtype.itemsize // LINE) * LINE // dtype.itemsize
        room = _aligned(count * apart, kind)
        return tuple(room[i : i + size].reshape(self.rows, self.width) for i in range(0, count * apart, apart))

    def sums(self, count: int, parts: int) -> Any:
        """Zeros for the sums of tiles by `parts` threads: [count, P, K, width], or 1 where a tile is of one channel."""
        return np.zeros((count, parts, self.rows, self.width if self.rows == 1 else 1))


def _aligned(size: int, dtype: type) -> Any:
    """Memory from a cache line on, as `loops.row`."""
    room: Any = np.empty(size + LINE, dtype)
    first = -room.__array_interface__["data"][0] % LINE // room.itemsize
    return room[first : first + size]


def of(x: Tensor, per_channel: bool) -> Layout:
    """The layout that reads `x`, [T, B, C, ...], without a copy where there is one."""
    return _of(x.shape, x.ndim == 3 or x.movedim(2, -1).is_contiguous(), per_channel)


@lru_cache
def _of(shape: torch.Size, channels_last: bool, per_channel: bool) -> Layout:
    frame = shape[1:].numel()
    if not per_channel:
        return Layout(shape, channels_last, frame, max(1, min(frame, TILE)), 1)
    channels = shape[2]
    if channels_last:
        return Layout(shape, True, frame, channels * max(1, TILE // channels), 1)
    plane = frame // max(1, shape[1] * channels)
    return Layout(shape, False, plane, max(1, min(plane, TILE)), channels)
