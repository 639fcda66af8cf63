"""Whole-number arithmetic of attention programs: rounding shifts, divisions, tables, and the bounds that keep 32 bits.

This module needs numpy alone.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from train.errors import UserError

Ints: TypeAlias = npt.NDArray[np.int64]

WORD = 1 << 31  # |value| of every intermediate result stays below it
SHIFTS = (0, 30)
PER_LOGIT = 64  # entries of a table for one unit of its argument
TABLE = 1024  # entries of a table of logits: arguments from -8 to just below 8
GAIN_BITS = 10  # of a gain's fraction: 1024 is 1


def shifted(x: Ints | int, shift: Ints | int) -> Ints:
    """floor(x / 2^shift + 1/2): half up, for negative numbers too."""
    return np.asarray((x + (1 << shift >> 1)) >> shift)


def divided(x: Ints, by: Ints) -> Ints:
    """floor(x / by + 1/2) for by > 0, rounded as `shifted` does: floor((2 x + by) / (2 by))."""
    return np.asarray((2 * x + by) // (2 * by))


def rooted(x: Ints) -> Ints:
    """floor(sqrt(x)) for 0 <= x < 2^31: float64 rounds the root of such a number to no whole number above it."""
    return np.sqrt(x.astype(np.float64)).astype(np.int64)


def bit_lengths(x: Ints) -> Ints:
    """Bits of x >= 0: 0 of 0, 3 of 4."""
    return np.frexp(x.astype(np.float64))[1].astype(np.int64)


def looked_up(table: Ints, logits: Ints) -> Ints:
    """The entry of a table for logits in units of 1 / PER_LOGIT; what is beyond its ends takes the last entry."""
    return table[np.clip(logits + len(table) // 2, 0, len(table) - 1)]


def fallen(table: Ints, drops: Ints) -> Ints:
    """The entry of a table for drops >= 0 in units of 1 / PER_LOGIT; what is beyond its end takes the last entry."""
    return table[np.minimum(drops, len(table) - 1)]


def peak(values: Ints) -> int:
    """The largest size."""
    return int(np.abs(values).max(initial=0))


def total(values: Ints) -> int:
    """The largest sum of sizes over rows: what |values @ x| can be for |x| <= 1."""
    return int(np.abs(values).reshape(len(values), -1).sum(1).max(initial=0))


class Bounds:
    """The sizes that a chain of operations can reach, checked one after the other."""

    def __init__(self, where: str) -> None:
        self.where = where

    def word(self, what: str, bound: int) -> int:
        """`bound`, which must fit 32 bits.

        Raises:
            UserError: it does not.
        """
        if bound >= WORD:
            raise UserError(f"{what} can reach {bound}, 32 bits hold less than {WORD}", where=self.where)
        return bound

    def shifted(self, what: str, bound: int, shift: int) -> int:
        """The bound of `shifted`.

        Raises:
            UserError: the sum before the shift does not fit 32 bits, or there is no such shift.
        """
        if not SHIFTS[0] <= shift <= SHIFTS[1]:
            raise UserError(f"{what} is shifted by {shift}, allowed {SHIFTS[0]}..{SHIFTS[1]}", where=self.where)
        return self.word(what, bound + (1 << shift >> 1)) >> shift
