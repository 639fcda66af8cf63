"""Convolutions of spikes as sums of looked-up rows: one row for each pattern of a few inputs that lie side by side.

A row of the kernel covers inputs that lie side by side in channels-last order. They are cut into groups of up to 8,
and all sums of the weights of a group are in a table, 256 rows at most. What an output position costs does not depend
on how many spikes there are, and is less than adding them one by one while the tables stay in the cache.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from export.network import Convolution, Ints
from train.kernels.loihi_compiled import FRONT, HALF, NARROW

LARGEST = 1 << 19  # bytes of tables: about what the cache of a core holds beside the neurons
GROUP = 8  # inputs at most
SHORT = np.iinfo(np.int16).max

Patterns = tuple[npt.NDArray[np.int32], npt.NDArray[np.int16]]


def patterns(synapses: Convolution, weight: Ints, source: tuple[int, ...], target: tuple[int, ...]) -> Patterns | None:
    """Segments [positions, groups, 3] and rows, as `loihi.Arriving` takes them; None where the tables are too large.

    Args:
        weight: (O, I, kH, kW), of all input channels.
    """
    outputs, _, *kernel = weight.shape
    run = kernel[1] if synapses.dilation[1] == 1 else 1  # kernel columns whose inputs lie side by side
    groups = _groups(run * source[0])
    width = HALF if outputs <= HALF else -(-outputs // NARROW) * NARROW
    rows = kernel[0] * (kernel[1] // run) * sum(1 << len(group) for group in groups)
    if 2 * rows * width > LARGEST or GROUP * int(np.abs(weight).max()) > SHORT:
        return None
    weights = weight.transpose(2, 3, 1, 0).reshape(kernel[0], kernel[1] // run, -1, outputs)
    table, segments, base = np.zeros((rows, width), dtype=np.int16), [], 0
    for row, column in np.ndindex(*weights.shape[:2]):
        for group in groups:
            segments.append(_segment(synapses, (row, column), group, base, source, target))
            table[base : base + (1 << len(group)), :outputs] = _numbers(len(group)) @ weights[row, column, group]
            base += 1 << len(group)
    return np.stack(segments, axis=1), table


def _groups(inputs: int) -> list[npt.NDArray[np.intp]]:
    """Indices of inputs side by side, in groups as equal as can be."""
    return np.array_split(np.arange(inputs), -(-inputs // GROUP))


def _numbers(bits: int) -> Ints:
    """The bits of all numbers, the lowest first, [2^bits, bits]."""
    return np.arange(1 << bits)[:, None] >> np.arange(bits) & 1


def _segment(
    synapses: Convolution,
    tap: tuple[int, int],
    group: npt.NDArray[np.intp],
    base: int,
    source: tuple[int, ...],
    target: tuple[int, ...],
) -> npt.NDArray[np.int32]:
    """(offset, mask, base) for every position; inputs outside the image or in its crop are not in the mask."""
    channels, height, width = source
    (top, bottom), (left, right) = synapses.crop
    at = np.indices(target[1:]).reshape(2, -1)
    y, x = (at[i] * synapses.stride[i] - synapses.padding[i] + tap[i] * synapses.dilation[i] for i in range(2))
    column = x[:, None] + group // channels
    inside = ((y >= top) & (y < height - bottom))[:, None] & (column >= left) & (column < width - right)
    mask = (inside << np.arange(len(group))).sum(axis=1)
    offset = FRONT + (y * width + x) * channels + group[0]
    return np.stack([np.where(mask, offset, 0), mask, np.full_like(mask, base)], axis=1).astype(np.int32)
