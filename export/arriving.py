"""Connections as the kernel of spikes takes them: which rows of weights they add, and to which neurons.

Everything is in channels-last order. A row of a convolution's kernel covers inputs that lie side by side, so each
output position adds up a few runs of them, its segments; a dense layer is one position with one segment. Small kernels
go by patterns (`export.patterns`), all others by events: a row for each spike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from export.connections import Crop, in_channels_last
from export.network import Connection, Dense, Ints, Network, Population, Synapses
from export.patterns import patterns
from train.kernels import loihi
from train.kernels.loihi_compiled import NARROW, WIDE

Pair: TypeAlias = tuple[int, int]
SHORT, LONG = np.iinfo(np.int16).max, np.iinfo(np.int32).max


@dataclass(frozen=True, eq=False)
class Table:
    """All of `loihi.Arriving` but the spikes."""

    unit: int
    segments: npt.NDArray[np.int32]
    outputs: int
    rows: npt.NDArray[np.int16]
    patterns: bool = False

    def arriving(self, spikes: npt.NDArray[np.uint8]) -> loihi.Arriving:
        """With spikes, uint8 [B, T, inputs]."""
        return loihi.Arriving(spikes, self.unit, self.segments, self.outputs, self.rows, self.patterns)


@dataclass(frozen=True, eq=False)
class Tables:
    """All connections of a population, for spikes only: a_in = (their sum) << exponent.

    Attributes:
        sums: the integer that holds every part of their sum, in any order.
    """

    tables: tuple[Table, ...]
    exponent: int
    sums: type

    @property
    def by_events(self) -> bool:
        """Whether the time depends on how many spikes there are."""
        return not all(table.patterns for table in self.tables)


def tables(connections: Sequence[Connection], network: Network, target: Population) -> Tables | None:
    """The tables of connections that bring a population spikes; None if the kernel has none.

    That is where a weight does not fit 16 bits or a sum does not fit 32. Groups become zeros in a kernel of all
    channels: they cost what the spikes cost there, which for an identity is one row each.
    """
    exponent = min(c.weight_exp for c in connections)
    weights = [c.synapses.weight << (c.weight_exp - exponent) for c in connections]
    reach = max(_reach(weights), _reach([-w for w in weights]))
    if max(int(np.abs(w).max()) for w in weights) > SHORT or reach > LONG:
        return None
    pairs = zip(connections, weights, strict=True)
    found = tuple(_table(c.synapses, w, network.population(c.source).shape, target.shape) for c, w in pairs)
    return Tables(found, exponent, np.int16 if reach <= SHORT else np.int32)


def _reach(weights: Sequence[Ints]) -> int:
    """No sum of the weights of any of the inputs of a neuron is larger."""
    return sum(int(np.maximum(w, 0).reshape(len(w), -1).sum(1).max()) for w in weights)


def _table(synapses: Synapses, weight: Ints, source: tuple[int, ...], target: tuple[int, ...]) -> Table:
    if isinstance(synapses, Dense):
        weight = in_channels_last(in_channels_last(weight, target, 0), source, 1)
        outputs, inputs = weight.shape
        return Table(inputs, np.asarray([[[0, 1, 1]]], dtype=np.int32), outputs, _rows(weight.T))
    weight = _ungrouped(weight, synapses.groups)
    looked_up = patterns(synapses, weight, source, target)
    if looked_up is not None:
        segments, rows = looked_up
        return Table(source[0], segments, len(weight), rows, patterns=True)
    rows = _rows(weight.transpose(2, 3, 1, 0).reshape(-1, len(weight)))  # by kernel row, kernel column, channel
    kernel = (weight.shape[2], weight.shape[3])
    geometry = (kernel, synapses.stride, synapses.padding, synapses.dilation, synapses.crop)
    return Table(source[0], _segments(*geometry, source, target), len(weight), rows)


def _ungrouped(weight: Ints, groups: int) -> Ints:
    """(O, I / groups, kH, kW) to (O, I, kH, kW)."""
    outputs, inputs, *kernel = weight.shape
    whole = np.zeros((groups, outputs // groups, groups, inputs, *kernel), dtype=np.int64)
    every = np.arange(groups)
    whole[every, :, every] = weight.reshape(groups, outputs // groups, inputs, *kernel)
    return whole.reshape(outputs, groups * inputs, *kernel)


def _rows(weight: Ints) -> npt.NDArray[np.int16]:
    """Rows (inputs, outputs) behind one of zeros, filled up to whole blocks."""
    inputs, outputs = weight.shape
    block = WIDE if outputs > WIDE else NARROW
    rows = np.zeros((1 + inputs, -(-outputs // block) * block), dtype=np.int16)
    rows[1:, :outputs] = weight
    return rows


def _segments(
    kernel: Pair,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    crop: Crop,
    source: tuple[int, ...],
    target: tuple[int, ...],
) -> npt.NDArray[np.int32]:
    """[positions, segments, 3]: one for each row of the kernel, or where it is dilated one for each of its taps.

    What a kernel covers outside the image or in its crop is cut off; a segment of which nothing is left is (0, 0, 0).
    """
    channels, height, width = source
    (top, bottom), (left, right) = crop
    run = kernel[1] if dilation[1] == 1 else 1
    i, j, tap_row, tap = np.indices((*target[1:], kernel[0], kernel[1] // run))
    y = i * stride[0] - padding[0] + tap_row * dilation[0]
    x = j * stride[1] - padding[1] + tap * dilation[1]
    first, last = np.maximum(x, left), np.minimum(x + run, width - right)
    row = 1 + (tap_row * kernel[1] + tap) * channels - (y * width + x) * channels
    found = np.stack([y * width + first, y * width + last, row], axis=-1)
    found[(y < top) | (y >= height - bottom) | (first >= last)] = 0
    return found.reshape(-1, kernel[0] * (kernel[1] // run), 3).astype(np.int32)
