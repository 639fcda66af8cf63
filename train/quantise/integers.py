"""Integers for one population at a given scale: weights, exponents, threshold, decay, bias.

With `scale` units of a_in per unit of the float membrane potential (a unit of v is a 64th of that):
    weight << exponent ~ scale w,   vth ~ scale threshold,   bias_mant << bias_exp ~ 64 scale b,   dv ~ 4096 (1 - leak)
A LIF with hard reset to zero does the same at every scale, so each channel may have its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from train.quantise import limits
from train.quantise.grid import Signed

Floats: TypeAlias = npt.NDArray[np.float64]
Ints: TypeAlias = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Weights:
    """One synapse node in integers."""

    values: Ints
    exponent: int
    saturated: int


Value = TypeVar("Value", bound=np.generic)


def rows(values: npt.NDArray[Value], ndim: int) -> npt.NDArray[Value]:
    """(C,) as (C, 1, ...) with `ndim` axes, to meet an array whose first axis is C; more axes are kept as they are."""
    return values if values.ndim >= ndim else values.reshape((-1,) + (1,) * (ndim - 1))


def quantise_weights(weight: Floats, scale: Floats, exponent: int, grid: Signed) -> Weights:
    """round(scale w / 2^exponent) on the grid, ties to even, clipped to its ends (counted in `saturated`).

    A negative exponent goes into the values, which it divides: see `Signed`.
    """
    steps = np.rint(weight * rows(scale / grid.unit(exponent), weight.ndim))
    kept = np.clip(steps, limits.WEIGHT_RANGE[0] / grid.step, grid.largest / grid.step)
    values = (kept * grid.unit(min(exponent, 0))).astype(np.int64)
    return Weights(values, max(exponent, 0), int(np.count_nonzero(kept != steps)))


def finest_exponent(peak: float, grid: Signed) -> int | None:
    """The smallest exponent at which |weight| up to `peak` (units of a_in) fits the grid, None if none does."""
    for exponent in range(grid.smallest_exponent, limits.WEIGHT_EXP_RANGE[1] + 1):
        if round(peak / grid.unit(exponent)) * grid.step <= grid.largest:
            return exponent
    return None


def quantise_bias(bias: Floats, grid: Signed) -> tuple[Ints, int] | None:
    """(mantissa, exponent) of a bias in units of v, with the finest exponent that holds it; None if none does."""
    for exponent in range(grid.bias_exponents[0], grid.bias_exponents[1] + 1):
        mantissa = np.rint(bias / (1 << exponent)).astype(np.int64)
        if limits.BIAS_MANT_RANGE[0] <= mantissa.min() and mantissa.max() <= limits.BIAS_MANT_RANGE[1]:
            return mantissa, exponent
    return None


def quantise_decay(leak: Floats) -> Ints:
    """dv for leaks in [0, 1]: the nearest of 4096 steps, ties to even; the shape of `leak`."""
    decay = np.rint(limits.DECAY_UNITY * (1 - np.asarray(leak)))
    return np.asarray(np.clip(decay, *limits.DV_RANGE), dtype=np.int64)


def quantise_current_decay(leak: Floats) -> Ints:
    """du for leaks of a synaptic current: its decay is du + 1 of 4096, so that 4095 stands for no memory."""
    decay = np.rint(limits.DECAY_UNITY * (1 - np.asarray(leak))) - 1
    return np.asarray(np.clip(decay, *limits.DU_RANGE), dtype=np.int64)
