"""The synapses between two populations, in integers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from export.programs import Ints

Crop: TypeAlias = tuple[tuple[int, int], tuple[int, int]]
NO_CROP: Crop = ((0, 0), (0, 0))


@dataclass(frozen=True, eq=False)
class Dense:
    """All to all: weight (outputs, inputs), inputs and outputs flattened in C order."""

    weight: Ints


@dataclass(frozen=True, eq=False)
class Convolution:
    """2-D cross-correlation, as in PyTorch: weight (O, I / groups, kH, kW), pairs are (height, width).

    `crop`: rows (top, bottom) and columns (left, right) of the source that have no synapse here; sizes do not change.
    """

    weight: Ints
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    crop: Crop = NO_CROP

    def output_shape(self, source: tuple[int, ...]) -> tuple[int, int, int]:
        """(O, H', W') for a source of shape (C, H, W)."""
        sides = [
            (source[axis + 1] + 2 * self.padding[axis] - self.dilation[axis] * (self.weight.shape[axis + 2] - 1) - 1)
            // self.stride[axis]
            + 1
            for axis in (0, 1)
        ]
        return self.weight.shape[0], sides[0], sides[1]


Synapses: TypeAlias = Dense | Convolution


@dataclass(frozen=True, eq=False)
class Connection:
    """Synapses from one population to another: a_in of the target gets (weight * spikes) << weight_exp.

    Attributes:
        delay: extra steps for each channel (first axis) of the source, int64 (C,).
    """

    id: str
    origin: str
    source: str
    target: str
    synapses: Synapses
    weight_exp: int
    delay: Ints


def in_channels_last(weight: Ints, shape: tuple[int, ...], axis: int) -> Ints:
    """A dense layer's weight whose `axis` runs over a population of this shape, in channels-last order there."""
    order = np.moveaxis(np.arange(weight.shape[axis]).reshape(shape), 0, -1).reshape(-1)
    return np.asarray(weight.take(order, axis))
