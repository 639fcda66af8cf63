"""The gain of 1: a sum in an accumulator, sent on. This module needs numpy alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from export.gains import Gains, check_output, input_bound
from export.whole import Bounds, Ints


@dataclass(frozen=True, eq=False)
class UnitGains(Gains):
    """y = shifted(x, gain_shift), x [T, B, *shape]: it adds up in 24 bits what a neuron's current cannot hold."""

    waits: ClassVar[bool] = False
    gain_bits: ClassVar[int] = 0

    def gain(self, x: Ints) -> Ints:
        """1, of as many dimensions as x."""
        return np.ones((1,) * x.ndim, dtype=np.int64)

    @property
    def highest_gain(self) -> int:
        return 1

    def products(self, shape: tuple[int, ...], steps: int) -> int:
        return 0

    def check(self, shape: tuple[int, ...], steps: int, where: str) -> None:
        bounds = Bounds(where)
        input_bound(self, shape, bounds)
        check_output(self, bounds)
