"""STAA-SNN's step attention in integers. This module needs numpy alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from export.gains import Gains, check_output, check_shapes, check_tables, input_bound, maps
from export.whole import Bounds, Ints, looked_up, peak, shifted, total
from train.errors import UserError

MAX_HIDDEN = 1 << 12


@dataclass(frozen=True, eq=False)
class StepGains(Gains):
    """STAA-SNN's step attention: one gain for each step, of spikes; x [T, B, C, H, W], 1 for a spike.

        m[t]  = shifted(sum_CHW x, count_shift)
        p[r]  = max(0, shifted(sum_t squeeze[r, t] m[t] + squeeze_bias[r], hidden_shift))
        G[t]  = gain_table[shifted(sum_r excite[t, r] p[r] + excite_bias[t], logit_shift)]
        y     = shifted(x G, gain_shift)

    squeeze (R, T), squeeze_bias (R,), excite (T, R), excite_bias (T,). gain_table: the sigmoid in units of
    2^-gain_bits, see `looked_up`. gain_shift leaves few bits of it, since whole layers add up the graded spikes.
    """

    waits: ClassVar[bool] = True
    signed: ClassVar[bool] = False
    gain_bits: ClassVar[int] = 13

    count_shift: int
    squeeze: Ints
    squeeze_bias: Ints
    hidden_shift: int
    excite: Ints
    excite_bias: Ints
    logit_shift: int
    gain_table: Ints

    def gain(self, x: Ints) -> Ints:
        """G for x [T, B, C, H, W] within the limit, [T, B, 1, 1, 1]."""
        m = shifted(x.sum((2, 3, 4)), self.count_shift)
        p = np.maximum(shifted(self.squeeze @ m + self.squeeze_bias[:, None], self.hidden_shift), 0)
        logit = shifted(self.excite @ p + self.excite_bias[:, None], self.logit_shift)
        return looked_up(self.gain_table, logit)[..., None, None, None]

    @property
    def highest_gain(self) -> int:
        return peak(self.gain_table)

    def products(self, shape: tuple[int, ...], steps: int) -> int:
        channels, height, width = shape
        return steps * (channels * height * width + 2 * len(self.squeeze))

    def check(self, shape: tuple[int, ...], steps: int, where: str) -> None:
        channels, height, width = maps(shape, where)
        hidden = len(self.squeeze) if self.squeeze.ndim else 0
        expected = {
            "squeeze": (hidden, steps),
            "squeeze_bias": (hidden,),
            "excite": (steps, hidden),
            "excite_bias": (steps,),
        }
        check_shapes(self, expected, where)
        if not 1 <= hidden <= MAX_HIDDEN:
            raise UserError(f"{hidden} hidden values, allowed 1..{MAX_HIDDEN}", where=where)
        check_tables(where, gain_table=self.gain_table)
        if self.gain_table.min() < 0:
            raise UserError("gain_table holds a negative gain, of spikes", where=where)
        bounds = Bounds(where)
        spikes = channels * height * width * input_bound(self, shape, bounds)
        m = bounds.shifted("the sum of the spikes", spikes, self.count_shift)
        p = bounds.shifted("the hidden value", total(self.squeeze) * m + peak(self.squeeze_bias), self.hidden_shift)
        bounds.shifted("the logit", total(self.excite) * p + peak(self.excite_bias), self.logit_shift)
        check_output(self, bounds)
