"""Attention in integers: the programs whose neurons multiply what arrives by gains that their window decides.

A population of such a program takes its synaptic input a_in for the T steps of a window and sends a graded spike
y[t] = x[t] G[t] from each neuron, with x = clip(shifted(a_in + bias, input_shift), -limit, limit). `waits`: the gains
need the whole window, so that it sends step t of a sample T steps after it took it, from a ring of T values.

Every engine runs `respond`, so this is the one definition. Whatever arrives, no intermediate result leaves 32 bits:
`check` proves it from the numbers of the program, which are all that its bounds depend on, `limit` above all.
shifted(x, k) = floor(x / 2^k + 1/2). This module needs numpy alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, TypeAlias

import numpy as np

from export.whole import GAIN_BITS, WORD, Bounds, Ints, looked_up, peak, shifted, total
from train.errors import UserError

LARGEST_INPUT = 1 << 23  # |a_in| below it: what the accumulator of a neuron holds
MAX_STEPS = 1 << 12
MAX_KERNEL = 15


@dataclass(frozen=True, eq=False)
class FrequencyGains:
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

    limit: int
    bias: Ints
    input_shift: int
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
    gain_shift: int

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
        """|G| is never larger."""
        return (peak(self.step_table) * peak(self.place_table) + (1 << GAIN_BITS >> 1)) >> GAIN_BITS

    def products(self, shape: tuple[int, ...], steps: int) -> int:
        """Multiplications of one sample: nothing that a plan of the chip counts."""
        channels, height, width = shape
        each_step = 2 * channels + steps + (2 * channels + 2) * height * width
        return steps * each_step + self.kernels.size * height * width

    def check(self, shape: tuple[int, ...], steps: int, where: str) -> None:
        """Raise UserError where it does not fit a population of this shape, or its arithmetic 32 bits."""
        channels, height, width = _maps(shape, where)
        side = self.kernels.shape[-1] if self.kernels.ndim else 0
        expected = {
            "mean": (channels,),
            "highest": (channels,),
            "common": (channels,),
            "temporal": (steps, steps),
            "kernels": (side * side, side, side),
        }
        _check_shapes(self, expected, where)
        if side % 2 == 0 or side > MAX_KERNEL:
            raise UserError(f"kernels of side {side}, must be odd and at most {MAX_KERNEL}", where=where)
        _check_tables(where, step_table=self.step_table, place_table=self.place_table)
        bounds = Bounds(where)
        x = _input_bound(self, shape, bounds)
        average = bounds.shifted("the sum over places", height * width * x, self.mean_shift)
        sums = peak_sum(self.mean) * average + peak_sum(self.highest) * x
        amplitude = bounds.shifted("the amplitude", sums, self.amplitude_shift)
        bounds.shifted("the step's logit", total(self.temporal) * amplitude, self.temporal_shift)
        summed = bounds.shifted("the sum over channels", peak_sum(self.common) * x, self.common_shift)
        u = bounds.shifted("the sum over steps", steps * peak(self.step_table) * summed, self.place_shift)
        bounds.shifted("the place's logit", peak_sum(self.kernels) * u, self.logit_shift)
        bounds.shifted("the gain", peak(self.step_table) * peak(self.place_table), GAIN_BITS)
        _check_output(self, bounds)


Attention: TypeAlias = FrequencyGains


def respond(program: Attention, a_in: Ints) -> Ints:
    """What a population sends for the a_in of windows [T, B, *shape]: graded spikes of the same shape, 0 for none."""
    x = np.clip(shifted(a_in + program.bias, program.input_shift), -program.limit, program.limit)
    return np.asarray(shifted(x * program.gain(x), program.gain_shift), dtype=np.int64)


def reach(program: Attention) -> int:
    """The largest size of a graded spike."""
    return (program.limit * program.highest_gain + (1 << program.gain_shift >> 1)) >> program.gain_shift


def peak_sum(values: Ints) -> int:
    """The sum of all sizes."""
    return int(np.abs(values).sum())


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


def _maps(shape: tuple[int, ...], where: str) -> tuple[int, int, int]:
    if len(shape) != 3:
        raise UserError(f"attention for a shape {shape}, expected (C, H, W)", where=where)
    channels, height, width = shape
    return channels, height, width


def _check_shapes(program: Attention, expected: dict[str, tuple[int, ...]], where: str) -> None:
    for name, shape in expected.items():
        values = getattr(program, name)
        if values.dtype != np.int64 or values.shape != shape:
            raise UserError(f"{name} {values.dtype} of shape {values.shape}, expected int64 {shape}", where=where)
        if peak(values) >= WORD:
            raise UserError(f"{name} holds {peak(values)}, 32 bits hold less than {WORD}", where=where)


def _check_tables(where: str, **tables: Ints) -> None:
    for name, table in tables.items():
        if table.dtype != np.int64 or table.ndim != 1 or not 2 <= len(table) <= 1 << 16 or peak(table) >= 1 << 20:
            raise UserError(f"{name} {table.dtype} of shape {table.shape} is not a table of gains", where=where)


def _input_bound(program: Attention, shape: tuple[int, ...], bounds: Bounds) -> int:
    """`limit`, once what comes before the clip fits 32 bits."""
    bias = program.bias
    fits = bias.ndim == len(shape) and all(n in (1, side) for n, side in zip(bias.shape, shape, strict=True))
    if bias.dtype != np.int64 or not fits or peak(bias) >= LARGEST_INPUT:
        raise UserError(f"bias {bias.dtype} of shape {bias.shape} for {shape}", where=bounds.where)
    bounds.shifted("the input", LARGEST_INPUT + peak(bias), program.input_shift)
    if not 1 <= program.limit < LARGEST_INPUT:
        raise UserError(f"limit {program.limit}, allowed 1..{LARGEST_INPUT - 1}", where=bounds.where)
    return program.limit


def _check_output(program: Attention, bounds: Bounds) -> None:
    bounds.shifted("the output", program.limit * program.highest_gain, program.gain_shift)
    if reach(program) >= LARGEST_INPUT:
        raise UserError(f"sends graded spikes up to {reach(program)}, limit {LARGEST_INPUT}", where=bounds.where)
