"""The coefficients of attention programs, from float values and bounds of what they multiply.

Every coefficient is as fine as 32 bits allow, for whatever arrives: `fit` takes the largest power of two at which the
sum of all sizes stays within ROOM, and a stage's result is shifted to the bits that the next one can use. Logits come
in units of 1 / PER_LOGIT. What this rounds is reported as the error of the gains; no overflow is left to check, but
`check` of the program proves it again.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from export.graph import Floats
from export.whole import PER_LOGIT, SHIFTS, TABLE, Ints, peak, total
from train.errors import UserError

ROOM = 1 << 30  # of the 2^31 of a word: half of it is left to rounding
COEFFICIENT_BITS = 16
CURRENT = 1 << 17  # a current is kept below it
LOGIT_BITS = PER_LOGIT.bit_length() - 1
FINEST = 40  # a power of two that no coefficient needs more of


@dataclass(frozen=True, eq=False)
class Stage:
    """Coefficients in units of 2^-exponent, what is added to their sum, and the shift of all of it."""

    values: Ints
    bias: Ints
    exponent: int
    shift: int


def sigmoid_table() -> Floats:
    """sigmoid of every logit that a table knows."""
    logits = (np.arange(TABLE) - TABLE // 2) / PER_LOGIT
    return np.asarray(1 / (1 + np.exp(-logits)))


def fit(values: Floats, sizes: Floats, room: int = ROOM) -> tuple[Ints, int]:
    """`values` (rows, n) times 2^f, rounded, f as large as sum of |value| size stays below `room` in every row."""
    spread = float((np.abs(values) * sizes).sum(-1).max(initial=0))
    largest = float(np.abs(values).max(initial=0))
    if spread == 0:
        return np.zeros(values.shape, dtype=np.int64), 0
    exponent = min(FINEST, math.floor(math.log2(room / spread)), COEFFICIENT_BITS - 1 - math.ceil(math.log2(largest)))
    while True:
        rounded = np.rint(values * 2.0**exponent).astype(np.int64)
        if float((np.abs(rounded) * sizes).sum(-1).max()) < room:
            return rounded, exponent
        exponent -= 1


def narrowed(values: Ints, sizes: Floats, bits: int) -> tuple[int, int]:
    """(shift, bound after it) that brings sums of `fit` to `bits` bits."""
    bound = int((np.abs(values) * sizes).sum(-1).max(initial=0))
    shift = max(0, bound.bit_length() - bits)
    return shift, (bound + (1 << shift >> 1)) >> shift


def affine(values: Floats, bias: Floats, size: int, exponent: int) -> Stage:
    """values (rows, n) @ operands + bias (rows,), operands in units of 2^-exponent and no larger than `size`.

    The sum is below ROOM, and not shifted yet.
    """
    rounded, finest = fit(values, np.full(values.shape[-1], float(size)))
    if not rounded.any():
        finest = FINEST
    while True:
        constant = np.rint(bias * 2.0 ** (exponent + finest)).astype(np.int64)
        if total(rounded) * size + peak(constant) < ROOM:
            return Stage(rounded, constant, finest, 0)
        finest -= 1
        rounded = np.rint(values * 2.0**finest).astype(np.int64)


def hidden(stage: Stage, size: int, bits: int) -> tuple[Stage, int]:
    """`stage` with the shift that brings its sum, of operands no larger than `size`, to `bits` bits; its bound then."""
    bound = total(stage.values) * size + peak(stage.bias)
    shift = max(0, bound.bit_length() - bits)
    return replace(stage, shift=shift), (bound + (1 << shift >> 1)) >> shift


def logits(values: Floats, size: int, exponent: int, what: str, where: str, bias: Floats | None = None) -> Stage:
    """Coefficients of operands in units of 2^-exponent, no larger than `size`, that give logits.

    Raises:
        UserError: logits that 32 bits cannot hold.
    """
    constant = np.zeros(len(values)) if bias is None else bias
    stage = affine(values, constant, size, exponent)
    shift = exponent + stage.exponent - LOGIT_BITS
    if shift > SHIFTS[1]:  # finer than it needs to be
        finest, shift = stage.exponent - (shift - SHIFTS[1]), SHIFTS[1]
        rounded, added = np.rint(values * 2.0**finest), np.rint(constant * 2.0 ** (exponent + finest))
        return Stage(rounded.astype(np.int64), added.astype(np.int64), finest, shift)
    if shift < SHIFTS[0]:
        raise UserError(f"the logits of its {what} can leave 32 bits", where=where)
    return replace(stage, shift=shift)


def below(bound: int, most: int) -> tuple[int, int]:
    """(shift, the largest size after it) that brings what is at most `bound` below `most`."""
    shift = 0
    while (bound + (1 << shift >> 1)) >> shift >= most:
        shift += 1
    return shift, max(1, (bound + (1 << shift >> 1)) >> shift)


def output_shift(limit: int, gain: int, payload: int) -> int:
    """The shift that brings x G to graded spikes no larger than `payload`."""
    return below(limit * gain, payload + 1)[0]
