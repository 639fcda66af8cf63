"""What a NIR node hands on: the graph node that sends it, its shape there, and its shape as NIR says it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from export.graph import Floats, Shape
from export.network import NO_CROP, Crop
from train.errors import UserError

MAX_NEURONS = 1 << 24  # values of one population


@dataclass(frozen=True)
class Port:
    """An output. `declared` may be flattened, (N,) or (C, L), where `shape` is (C, H, W): both in C order.

    `crop`: the rows and columns at the edges that a mask of zeros and ones takes away; only a convolution reads such.
    """

    id: str
    shape: Shape
    declared: Shape
    crop: Crop = NO_CROP

    @property
    def size(self) -> int:
        """Number of values."""
        return int(np.prod(self.shape))

    def spread(self, values: Floats, what: str, where: str) -> Floats:
        """A parameter, given once, for each channel or for each neuron, as an array of `shape`.

        Raises:
            UserError: it does not fit.
        """
        if values.size == self.size:
            return values.reshape(self.shape)
        fits = values.ndim == len(self.declared) and all(
            side in (1, full) for side, full in zip(values.shape, self.declared, strict=True)
        )
        if values.size != 1 and not fits:
            raise UserError(f"{what} of shape {values.shape} for values of shape {self.declared}", where=where)
        return np.broadcast_to(values if fits else values.reshape(()), self.declared).reshape(self.shape)


def graph_shape(declared: Shape, where: str) -> Shape:
    """(N,) and (C, H, W) as they are, (C, L) as (C, 1, L); a batch axis of 1 in front of more is dropped."""
    if len(declared) > 3 and declared[0] == 1:
        declared = declared[1:]
    if len(declared) == 2:
        declared = (declared[0], 1, declared[1])
    if len(declared) not in (1, 3):
        raise UserError(f"shape {declared}, expected (N,), (C, L) or (C, H, W)", where=where)
    if int(np.prod(declared)) > MAX_NEURONS:
        raise UserError(f"shape {declared} has {int(np.prod(declared))} values, limit {MAX_NEURONS}", where=where)
    return declared


def reduced(values: Floats, shape: Shape) -> Floats:
    """(1,) where all values are the same, (C,) where they differ between channels only, else as they are."""
    if np.all(values == values.flat[0]):
        return np.array([values.flat[0]])
    channels = values.reshape(shape[0], -1)
    return channels[:, 0].copy() if np.all(channels == channels[:, :1]) else values
