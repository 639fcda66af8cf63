"""What all attention programs have: their input, their output, and the checks of the numbers that they are made of.

shifted(x, k) = floor(x / 2^k + 1/2). This module needs numpy alone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from export.whole import WORD, Bounds, Ints, peak, shifted
from train.errors import UserError

LARGEST_INPUT = 1 << 23  # |a_in| below it: what the accumulator of a neuron holds
MAX_STEPS = 1 << 12


@dataclass(frozen=True, eq=False)
class Gains(ABC):
    """A population that takes a_in for a window and sends the graded spikes y = shifted(x G, gain_shift).

    x = clip(shifted(a_in + bias, input_shift), -limit, limit), G a gain that x decides, in units of 2^-gain_bits.
    `waits`: the gains need the whole window; without it those of a step need that step alone. `signed`: what arrives
    may be negative; without it x is clipped at 0 from below, and no gain is negative.
    """

    waits: ClassVar[bool]
    signed: ClassVar[bool] = True
    gain_bits: ClassVar[int]

    limit: int
    bias: Ints
    input_shift: int
    gain_shift: int

    def taken(self, a_in: Ints) -> Ints:
        """x for a_in [T, B, *shape]."""
        return np.clip(shifted(a_in + self.bias, self.input_shift), -self.limit if self.signed else 0, self.limit)

    @property
    def largest(self) -> int:
        """The largest size of a graded spike."""
        return (self.limit * self.highest_gain + (1 << self.gain_shift >> 1)) >> self.gain_shift

    def reach(self, channels: int) -> tuple[Ints, Ints]:
        """The smallest and the largest graded spike from each channel, (C,)."""
        most = np.full(channels, self.largest, dtype=np.int64)
        return (-most if self.signed else 0 * most), most

    @property
    def spike_bits(self) -> int:
        """Of a graded spike, with its sign."""
        return self.largest.bit_length() + self.signed

    @abstractmethod
    def gain(self, x: Ints) -> Ints:
        """G for x [T, B, *shape] within the limit, with sides of 1 where it is the same."""

    @property
    @abstractmethod
    def highest_gain(self) -> int:
        """|G| is never larger."""

    @abstractmethod
    def products(self, shape: tuple[int, ...], steps: int) -> int:
        """Multiplications of one sample: nothing that a plan of the chip counts."""

    @abstractmethod
    def check(self, shape: tuple[int, ...], steps: int, where: str) -> None:
        """Raise UserError where it does not fit a population of this shape, or its arithmetic 32 bits."""


def peak_sum(values: Ints) -> int:
    """The sum of all sizes."""
    return int(np.abs(values).sum())


def maps(shape: tuple[int, ...], where: str) -> tuple[int, int, int]:
    """(C, H, W).

    Raises:
        UserError: another shape.
    """
    if len(shape) != 3:
        raise UserError(f"attention for a shape {shape}, expected (C, H, W)", where=where)
    channels, height, width = shape
    return channels, height, width


def check_shapes(program: Gains, expected: dict[str, tuple[int, ...]], where: str) -> None:
    """Raise UserError where an array of a program is not int64 of its shape, or holds no 32-bit numbers."""
    for name, shape in expected.items():
        values = getattr(program, name)
        if values.dtype != np.int64 or values.shape != shape:
            raise UserError(f"{name} {values.dtype} of shape {values.shape}, expected int64 {shape}", where=where)
        if peak(values) >= WORD:
            raise UserError(f"{name} holds {peak(values)}, 32 bits hold less than {WORD}", where=where)


def check_tables(where: str, **tables: Ints) -> None:
    """Raise UserError where an array is no table."""
    for name, table in tables.items():
        if table.dtype != np.int64 or table.ndim != 1 or not 2 <= len(table) <= 1 << 16 or peak(table) >= 1 << 20:
            raise UserError(f"{name} {table.dtype} of shape {table.shape} is not a table of gains", where=where)


def input_bound(program: Gains, shape: tuple[int, ...], bounds: Bounds) -> int:
    """`limit`, once what comes before the clip fits 32 bits."""
    bias = program.bias
    fits = bias.ndim == len(shape) and all(n in (1, side) for n, side in zip(bias.shape, shape, strict=True))
    if bias.dtype != np.int64 or not fits or peak(bias) >= LARGEST_INPUT:
        raise UserError(f"bias {bias.dtype} of shape {bias.shape} for {shape}", where=bounds.where)
    bounds.shifted("the input", LARGEST_INPUT + peak(bias), program.input_shift)
    if not 1 <= program.limit < LARGEST_INPUT:
        raise UserError(f"limit {program.limit}, allowed 1..{LARGEST_INPUT - 1}", where=bounds.where)
    return program.limit


def check_output(program: Gains, bounds: Bounds) -> None:
    """Raise UserError where a graded spike cannot be kept in 32 bits, or sent."""
    bounds.shifted("the output", program.limit * program.highest_gain, program.gain_shift)
    if program.largest >= LARGEST_INPUT:
        raise UserError(f"sends graded spikes up to {program.largest}, limit {LARGEST_INPUT}", where=bounds.where)
