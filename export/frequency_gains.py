"""FSTA-SNN's gains in integers. This module needs numpy alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from export.gains import Gains, check_output, check_shapes, check_tables, input_bound, maps, peak_sum
from export.whole import GAIN_BITS, Bounds, Ints, looked_up, peak, shifted, total
from train.errors import UserError

MAX_KERNEL = 15


@dataclass(frozen=True, eq=False)
class FrequencyGains(Gains):
    """FSTA-SNN's gains, (1 + g_t) (t + s (1 + g_s)) / 2, one g_t a step and one g_s a place; x [T, B, C, H, W].

        a[t]   = shifted(sum_c mean[c] shifted(sum_HW x, mean_shift) + highest[c] max_HW x, amplitude_shift)
        A[t]   = step_table[shifted(sum_r temporal[t, r] a[r], temporal_shift)]
        u      = shifted(sum_t A[t] shifted(sum_c common[c] x[t, c], common_shift), place_shift)
        P      = place_table[shifted(sum_j (kernels[j] * u)(place + offset j), logit_shift)]
        y      = shifted(x shifted(A P, GAIN_BITS), gain_shift)

    mean, highest, common: (C,), which also bring channels of different scales to one. kernels (k^2, k, k): kernel j is
    applied (cross-correlation, zero padding k // 2) and what it gives j places away (row-major in a k x k window, zero
    outside the map) is added up: two such convolutions in a row in the order that multiplies once. Tables of
    1 + sigmoid and of (t + s (1 + sigmoid)) / 2 in units of 2^-GAIN_BITS, see `looked_up`.
    """

    waits: ClassVar[bool] = True
    gain_bits: ClassVar[int] = GAIN_BITS

    mean: Ints
    mean_shift: int
    highest: Ints
    amplitude_shift: int
    temporal: Ints
    temporal_shift: int
    step_table: Ints
    common: Ints
    common_shift: int
    place_shift: int
    kernels: Ints
    logit_shift: int
    place_table: Ints

    def gain(self, x: Ints) -> Ints:
        """G for x [T, B, C, H, W] within the limit, [T, B, 1, H, W]."""
        average, largest = shifted(x.sum((3, 4)), self.mean_shift), x.max((3, 4))
        amplitude = shifted(average @ self.mean + largest @ self.highest, self.amplitude_shift)  # [T, B]
        step = looked_up(self.step_table, shifted(self.temporal @ amplitude, self.temporal_shift))
        summed = shifted(np.einsum("tbchw,c->tbhw", x, self.common), self.common_shift)
        u = shifted((step[..., None, None] * summed).sum(0), self.place_shift)  # [B, H, W]
        place = looked_up(self.place_table, shifted(_places(self.kernels, u), self.logit_shift))
        return shifted(step[:, :, None, None, None] * place[None, :, None], GAIN_BITS)

    @property
    def highest_gain(self) -> int:
        return (peak(self.step_table) * peak(self.place_table) + (1 << GAIN_BITS >> 1)) >> GAIN_BITS

    def products(self, shape: tuple[int, ...], steps: int) -> int:
        channels, height, width = shape
        each_step = 2 * channels + steps + (2 * channels + 2) * height * width
        return steps * each_step + self.kernels.size * height * width

    def check(self, shape: tuple[int, ...], steps: int, where: str) -> None:
        channels, height, width = maps(shape, where)
        side = self.kernels.shape[-1] if self.kernels.ndim else 0
        expected = {
            "mean": (channels,),
            "highest": (channels,),
            "common": (channels,),
            "temporal": (steps, steps),
            "kernels": (side * side, side, side),
        }
        check_shapes(self, expected, where)
        if side % 2 == 0 or side > MAX_KERNEL:
            raise UserError(f"kernels of side {side}, must be odd and at most {MAX_KERNEL}", where=where)
        check_tables(where, step_table=self.step_table, place_table=self.place_table)
        bounds = Bounds(where)
        x = input_bound(self, shape, bounds)
        average = bounds.shifted("the sum over places", height * width * x, self.mean_shift)
        sums = peak_sum(self.mean) * average + peak_sum(self.highest) * x
        amplitude = bounds.shifted("the amplitude", sums, self.amplitude_shift)
        bounds.shifted("the step's logit", total(self.temporal) * amplitude, self.temporal_shift)
        summed = bounds.shifted("the sum over channels", peak_sum(self.common) * x, self.common_shift)
        u = bounds.shifted("the sum over steps", steps * peak(self.step_table) * summed, self.place_shift)
        bounds.shifted("the place's logit", peak_sum(self.kernels) * u, self.logit_shift)
        bounds.shifted("the gain", peak(self.step_table) * peak(self.place_table), GAIN_BITS)
        check_output(self, bounds)


def _places(kernels: Ints, u: Ints) -> Ints:
    """sum_j (kernels[j] * u)(place + offset j), [B, H, W]; whole numbers in float64, which holds them exactly."""
    side = kernels.shape[-1]
    reach, (height, width) = side // 2, u.shape[1:]
    around = ((0, 0), (reach, reach), (reach, reach))
    views = np.lib.stride_tricks.sliding_window_view(np.pad(u, around), (side, side), axis=(1, 2))
    patches = views.reshape(*u.shape, side * side).astype(np.float64)
    weighted = np.rint(patches @ kernels.reshape(len(kernels), -1).T.astype(np.float64)).astype(np.int64)
    result = np.zeros_like(u)
    for offset in range(side * side):
        down, right = offset // side, offset % side
        moved = np.pad(weighted[..., offset], around)
        result += moved[:, down : down + height, right : right + width]
    return result
