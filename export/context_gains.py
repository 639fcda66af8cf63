"""STAA-SNN's global context in integers. This module needs numpy alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from export.gains import Gains, check_output, check_shapes, check_tables, input_bound, maps, peak_sum
from export.whole import Bounds, Ints, bit_lengths, divided, fallen, looked_up, peak, rooted, shifted, total
from train.errors import UserError

NORMAL_BITS = 14  # of the fraction of what LayerNorm gives
SQUARES = 1 << 30  # LayerNorm's sum of squares stays within it
ROOT = 1 << 16  # the root of a 32-bit number is below it
MAX_HIDDEN = 1 << 12
MAX_VALUE_BITS = 22


@dataclass(frozen=True, eq=False)
class ContextGains(Gains):
    """STAA-SNN's context block: one gain for each step and channel; x [T, B, C, H, W], each step by itself.

        w       = max(0, bits of max_CHW |x| - value_bits)                      one a step
        v       = shifted(x, w)
        score   = shifted(sum_c key[c] v[c], score_shift - w)                   one a place
        e       = exp_table[max_HW score - score]
        z[c]    = floor(sum_HW e v[c] / sum_HW e + 1/2)                         the mean of v under softmax
        h[r]    = shifted(sum_c squeeze[r, c] z[c], squeeze_shift - w) + squeeze_bias[r]
        d[r]    = R h[r] - sum_r h                                              R times (h - its mean): exact
        k       = max(centre_shift, bits of max_r |d[r]| - b),  b the largest whole number with R 4^b <= 2^30
        n[r]    = shifted(d[r], k)
        q       = floor(sqrt(sum_r n[r]^2 + floor(epsilon / 4^(k - centre_shift))))
        o[r]    = floor(n[r] 2^NORMAL_BITS / q + 1/2)                           LayerNorm's, times 1 / sqrt(R)
        p[r]    = max(0, shifted(scale[r] o[r] + shift[r], normal_shift))
        G[c]    = gain_table[shifted(sum_r excite[c, r] p[r] + excite_bias[c], logit_shift)]
        y       = shifted(x G, gain_shift)

    key, excite_bias (C,), squeeze (R, C), squeeze_bias, scale, shift (R,), excite (C, R). key and squeeze also bring
    channels of different scales to one. Currents are far below their bound, so v takes as many bits of what there is as
    the sums leave room for, and n, LayerNorm being blind to the scale of d, as many as its squares do: w and k are the
    sample's and the step's own. exp_table: e^-s for s >= 0, gain_table: the sigmoid in units of 2^-gain_bits, see
    `fallen` and `looked_up`.
    """

    waits: ClassVar[bool] = False
    gain_bits: ClassVar[int] = 13

    value_bits: int
    key: Ints
    score_shift: int
    exp_table: Ints
    squeeze: Ints
    squeeze_bias: Ints
    squeeze_shift: int
    centre_shift: int
    epsilon: int
    scale: Ints
    shift: Ints
    normal_shift: int
    excite: Ints
    excite_bias: Ints
    logit_shift: int
    gain_table: Ints

    def gain(self, x: Ints) -> Ints:
        """G for x [T, B, C, H, W] within the limit, [T, B, C, 1, 1]."""
        pixels = x.reshape(*x.shape[:3], -1)
        w = np.maximum(bit_lengths(np.abs(pixels).max((2, 3), keepdims=True)) - self.value_bits, 0)  # [T, B, 1, 1]
        v = shifted(pixels, w)
        score = shifted(np.einsum("tbcn,c->tbn", v, self.key), self.score_shift - w[..., 0])
        e = fallen(self.exp_table, score.max(-1, keepdims=True) - score)
        z = divided(np.einsum("tbcn,tbn->tbc", v, e), e.sum(-1, keepdims=True))
        h = shifted(z @ self.squeeze.T, self.squeeze_shift - w[..., 0]) + self.squeeze_bias
        p = np.maximum(shifted(self.scale * self._normal(h) + self.shift, self.normal_shift), 0)
        logit = shifted(p @ self.excite.T + self.excite_bias, self.logit_shift)
        return looked_up(self.gain_table, logit)[..., None, None]

    def _normal(self, h: Ints) -> Ints:
        """o for h [..., R]."""
        hidden = h.shape[-1]
        d = hidden * h - h.sum(-1, keepdims=True)
        finest = bit_lengths(np.abs(d).max(-1, keepdims=True)) - square_bits(hidden)
        k = np.maximum(self.centre_shift, finest)
        n = shifted(d, k)
        q = rooted((n * n).sum(-1, keepdims=True) + (self.epsilon >> 2 * (k - self.centre_shift)))
        return divided(n << NORMAL_BITS, q)

    @property
    def highest_gain(self) -> int:
        return peak(self.gain_table)

    def products(self, shape: tuple[int, ...], steps: int) -> int:
        channels, height, width = shape
        hidden = len(self.squeeze)
        return steps * (3 * channels * height * width + 2 * hidden * channels + 3 * hidden)

    def check(self, shape: tuple[int, ...], steps: int, where: str) -> None:
        channels, height, width = maps(shape, where)
        hidden = len(self.squeeze) if self.squeeze.ndim else 0
        expected = {
            "key": (channels,),
            "squeeze": (hidden, channels),
            "squeeze_bias": (hidden,),
            "scale": (hidden,),
            "shift": (hidden,),
            "excite": (channels, hidden),
            "excite_bias": (channels,),
        }
        check_shapes(self, expected, where)
        if not 1 <= hidden <= MAX_HIDDEN:
            raise UserError(f"{hidden} hidden channels, allowed 1..{MAX_HIDDEN}", where=where)
        check_tables(where, exp_table=self.exp_table, gain_table=self.gain_table)
        if self.exp_table[0] < 1 or self.exp_table.min() < 0:
            raise UserError("exp_table must begin above 0 and hold nothing below", where=where)
        if not 1 <= self.value_bits <= MAX_VALUE_BITS:
            raise UserError(f"value_bits {self.value_bits}, allowed 1..{MAX_VALUE_BITS}", where=where)
        if not 1 <= self.epsilon < SQUARES:
            raise UserError(f"epsilon {self.epsilon}, allowed 1..{SQUARES - 1}", where=where)
        bounds = Bounds(where)
        x = input_bound(self, shape, bounds)
        v = min(x, 1 << self.value_bits)
        score = self._unscaled(bounds, "the score", peak_sum(self.key) * v, self.score_shift)
        bounds.word("a difference of scores", 2 * score)
        weights = height * width * peak(self.exp_table)  # their sum is at least 1: that of the highest score
        bounds.word("the sum over places, doubled to be rounded,", (2 * v + 2) * weights)
        h = self._unscaled(bounds, "the hidden value", total(self.squeeze) * v, self.squeeze_shift)
        d = 2 * hidden * (h + peak(self.squeeze_bias))
        bits = square_bits(hidden)
        bounds.shifted("the centred value", d, self.centre_shift)
        bounds.word("the centred value", d + (d >> bits))
        bounds.word("the sum of squares", hidden * 4**bits + self.epsilon)
        # q >= |n|, and q >= 1: epsilon is at least 1 where k = centre_shift, and max |n| is elsewhere
        o = 1 << NORMAL_BITS
        bounds.word("the normalised value, doubled to be rounded,", (2 << bits + NORMAL_BITS) + ROOT)
        p = bounds.shifted("the scaled value", peak(self.scale) * o + peak(self.shift), self.normal_shift)
        bounds.shifted("the logit", total(self.excite) * p + peak(self.excite_bias), self.logit_shift)
        check_output(self, bounds)

    def _unscaled(self, bounds: Bounds, what: str, bound: int, shift: int) -> int:
        """The bound of shifted(.., shift - w) for the smallest and the largest w."""
        most = max(0, self.limit.bit_length() - self.value_bits)
        bounds.shifted(what, bound, shift)
        return bounds.shifted(what, bound, shift - most)


def square_bits(hidden: int) -> int:
    """The largest b with hidden 4^b <= SQUARES."""
    return (SQUARES // hidden).bit_length() - 1 >> 1
