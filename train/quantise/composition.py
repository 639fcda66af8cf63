"""A convolution behind a sum over windows is one convolution, or several where borders matter.

With windows of K rows, stride S, padding P, and a convolution of kernel k, stride s, padding p, dilation d behind them:
kernel S d (k - 1) + K, stride s S, padding p S + P; its tap (a, m) reads row m of the window that tap a reads. Where
the convolution reads its own padding, or beyond the last window, such a tap could still meet a row of the map, so the
taps that would are a convolution of their own which crops those rows. NumPy alone: no torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Crop = tuple[tuple[int, int], tuple[int, int]]  # rows (top, bottom) and columns (left, right)
NO_CROP: Crop = ((0, 0), (0, 0))


@dataclass(frozen=True)
class Axis:
    """Of a convolution or a window, along rows or columns; `crop`: first and last ones that are read as zeros."""

    kernel: int
    stride: int
    padding: int
    dilation: int = 1
    crop: tuple[int, int] = (0, 0)

    def outputs(self, side: int) -> int:
        """For a map of `side` rows."""
        return (side + 2 * self.padding - self.dilation * (self.kernel - 1) - 1) // self.stride + 1


@dataclass(frozen=True)
class _Tap:
    """One row (or column) of the composed kernel: that of the convolution's kernel, its place, and what it crops."""

    row: int
    place: int
    crop: tuple[int, int]


@dataclass(frozen=True, eq=False)
class Composition:
    """Convolution n crops `crops[n]` and has kernel rows[n] W columns[n]^T: rows (N, P, k), columns (N, Q, k)."""

    crops: tuple[Crop, ...]
    rows: Floats
    columns: Floats
    stride: tuple[int, int]
    padding: tuple[int, int]


def compose(windows: tuple[Axis, Axis], taps: tuple[Axis, Axis], sides: tuple[int, int]) -> Composition:
    """A convolution `taps` behind sums over `windows` of a map with `sides`; the first one crops nothing."""
    vertical, horizontal = (tuple(_taps(w, t, side)) for w, t, side in zip(windows, taps, sides, strict=True))
    crops = tuple(sorted({(row.crop, column.crop) for row in vertical for column in horizontal}))
    return Composition(
        crops,
        np.stack([_matrix(vertical, crop[0], taps[0].kernel) for crop in crops]),
        np.stack([_matrix(horizontal, crop[1], taps[1].kernel) for crop in crops]),
        (taps[0].stride * windows[0].stride, taps[1].stride * windows[1].stride),
        (
            taps[0].padding * windows[0].stride + windows[0].padding,
            taps[1].padding * windows[1].stride + windows[1].padding,
        ),
    )


def _matrix(taps: tuple[_Tap, ...], crop: tuple[int, int], kernel: int) -> Floats:
    """(P, k): how often each place reads each row of the kernel."""
    counts = np.zeros((1 + max(tap.place for tap in taps), kernel))
    for tap in taps:
        if tap.crop == crop:
            counts[tap.place, tap.row] += 1
    return counts


def _taps(window: Axis, taps: Axis, side: int) -> Iterator[_Tap]:
    """The taps of the composed kernel along one axis, for a map of `side` rows before the windows."""
    pooled = window.outputs(side)
    first, last = taps.crop[0], pooled - taps.crop[1] - 1  # the pooled rows that it reads
    for row in range(taps.kernel):
        for member in range(window.kernel):
            top = bottom = 0
            for position in range(taps.outputs(pooled)):
                read = position * taps.stride - taps.padding + row * taps.dilation
                source = read * window.stride - window.padding + member
                if 0 <= source < side and read < first:
                    top = max(top, source + 1)
                if 0 <= source < side and read > last:
                    bottom = max(bottom, side - source)
            yield _Tap(row, row * taps.dilation * window.stride + member, (top, bottom))
