"""The overflow proof: bounds of every neuron's current from its integer weights, by interval arithmetic.

a_in lies between the sum of all negative and the sum of all positive weights, each times the largest payload its
source can send. Each synapse node is run once on a source that sends nothing but that largest value, so borders of
convolutions are exact. |a_in| < 2^17 means that (a_in << 6) fits 24 bits and cannot wrap.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from export import limits
from export.graph import Synapse
from export.interpret import synapse as weighted_sum
from export.network import LIF, Gate, Ints, Source


@dataclass(frozen=True, eq=False)
class Driver:
    """One connection as the proof sees it: integer weights in a synapse node, exponent, source shape and payload."""

    synapse: Synapse
    weight: Ints
    exponent: int
    shape: tuple[int, ...]
    largest_payload: int


def largest_payload(program: Source | LIF) -> int:
    """The largest value that one spike of a population can carry."""
    return (1 << program.payload_bits) - 1 if isinstance(program, Source) else 1


def current_bounds(drivers: list[Driver]) -> tuple[Ints, Ints]:
    """(lowest, highest) a_in of every neuron, exact in float64 (sums stay far below 2^53)."""
    low: Ints | int = 0
    high: Ints | int = 0
    for driver in drivers:
        ones = np.full((1, 1, *driver.shape), float(driver.largest_payload))
        for positive in (False, True):
            part = np.maximum(driver.weight, 0) if positive else np.minimum(driver.weight, 0)
            node = replace(driver.synapse, weight=part.astype(np.float64), bias=None)
            bound = weighted_sum(node, ones)[0, 0].astype(np.int64) << driver.exponent
            low, high = (low, high + bound) if positive else (low + bound, high)
    assert isinstance(low, np.ndarray) and isinstance(high, np.ndarray), "a population without inputs"  # noqa: PT018
    return low, high


def gate_for(high: Ints, bias: Ints) -> Gate | None:
    """The weakest gate that keeps every neuron silent outside its window, None if no gate is strong enough.

    Between steps v <= vth << 6, since a neuron above it has fired and been reset; decay only brings it closer to
    zero. So v stays below threshold if the rest of the update is at most 0: ((high - gate) << 6) + bias <= 0.
    """
    need = int((high + -(-np.maximum(bias, 0) >> limits.STATE_SHIFT)).max())
    for exponent in range(limits.WEIGHT_EXP_RANGE[1] + 1):
        weight = max(2, -(-need >> exponent))
        weight += weight % 2
        if weight <= -limits.WEIGHT_RANGE[0]:
            return Gate(weight, exponent)
    return None


def cannot_wrap(low: int, high: int) -> bool:
    """Whether a current within [low, high] stays inside 24 bits after the shift by 6."""
    return low > -limits.CURRENT_LIMIT and high < limits.CURRENT_LIMIT


def cannot_fire(low: Ints, high: Ints, bias: Ints, vth: int, steps: int) -> bool:
    """Whether a read-out without decay stays below its threshold, and unclipped, for a whole window."""
    peak = np.maximum((high << limits.STATE_SHIFT) + bias, -((low << limits.STATE_SHIFT) + bias)).max()
    return int(peak) * steps <= (vth << limits.STATE_SHIFT)
