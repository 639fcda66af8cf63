"""The overflow proof: bounds of every neuron's current from its integer weights, by interval arithmetic.

a_in is highest where every positive weight meets the largest and every negative one the smallest payload that its
source can send (for spikes 1 and 0), and lowest the other way round. Each synapse node is run on such sources, so
borders of convolutions are exact. |a_in| < 2^17 means that (a_in << 6) fits 24 bits and cannot wrap.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from export import limits
from export.graph import Floats, Synapse
from export.interpret import synapse as weighted_sum
from export.network import LIF, Gate, Ints, Source


@dataclass(frozen=True, eq=False)
class Payload:
    """The smallest and the largest value that a spike from each channel of a population can carry, int64 (C,).

    Silence is 0, so that low <= 0 <= high.
    """

    low: Ints
    high: Ints

    @property
    def peak(self) -> int:
        """The largest size of any of them."""
        return int(max(self.high.max(), -self.low.min()))


@dataclass(frozen=True, eq=False)
class Driver:
    """One connection as the proof sees it: integer weights in a synapse node, exponent, source shape and payload."""

    synapse: Synapse
    weight: Ints
    exponent: int
    shape: tuple[int, ...]
    payload: Payload


def payload(program: Source | LIF, channels: int) -> Payload:
    """What the spikes of a population of so many channels can carry."""
    return Payload(*program.reach(channels)) if isinstance(program, Source) else spikes(channels)


def spikes(channels: int) -> Payload:
    """Binary spikes."""
    return Payload(np.zeros(channels, dtype=np.int64), np.ones(channels, dtype=np.int64))


def extremes(synapse: Synapse, shape: tuple[int, ...], payload: Payload) -> tuple[Floats, Floats]:
    """(lowest, highest) weighted sum of every target neuron over all that a source of this shape can send; no bias."""
    column = (1, 1, -1) + (1,) * (len(shape) - 1)
    least, most = (np.broadcast_to(v.reshape(column), (1, 1, *shape)) for v in (payload.low, payload.high))
    down, up = (replace(synapse, weight=part, bias=None) for part in _signs(synapse.weight))
    low = weighted_sum(up, least.astype(np.float64)) + weighted_sum(down, most.astype(np.float64))
    high = weighted_sum(up, most.astype(np.float64)) + weighted_sum(down, least.astype(np.float64))
    return low[0, 0], high[0, 0]


def _signs(weight: Floats) -> tuple[Floats, Floats]:
    return np.minimum(weight, 0), np.maximum(weight, 0)


def current_bounds(drivers: list[Driver]) -> tuple[Ints, Ints]:
    """(lowest, highest) a_in of every neuron, exact in float64 (sums stay far below 2^53)."""
    low: Ints | int = 0
    high: Ints | int = 0
    for driver in drivers:
        node = replace(driver.synapse, weight=driver.weight.astype(np.float64))
        least, most = (np.rint(v).astype(np.int64) for v in extremes(node, driver.shape, driver.payload))
        low, high = low + (least << driver.exponent), high + (most << driver.exponent)
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
