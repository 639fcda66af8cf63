"""The overflow proof: bounds of every neuron's current from its integer weights, by interval arithmetic.

a_in is highest where every positive weight meets the largest and every negative one the smallest payload that its
source can send (for spikes 1 and 0), and lowest the other way round. Each synapse node is run on such sources, so
borders of convolutions are exact; a clock is run step by step, since one of its steps is active at a time. What the
neuron makes of its input never decreases when the input grows, so its own update, run at the ends of the interval,
gives the bounds of u over a window: |u| < 2^23 means that it cannot wrap. Without memory u is (a_in << 6), and
|a_in| < 2^17 says it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from export import limits
from export.graph import Floats, Synapse
from export.interpret import synapse as weighted_sum
from export.interpret import ticks
from export.network import LIF, Attention, Clock, Gate, Ints, Program, Source


@dataclass(frozen=True, eq=False)
class Payload:
    """The smallest and the largest value that a spike from each channel of a population can carry, int64 (C,).

    Silence is 0, so that low <= 0 <= high. `one_at_a_time`: of a clock, never two of its channels at once.
    """

    low: Ints
    high: Ints
    one_at_a_time: bool = False

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


def payload(program: Program, channels: int, aligned: bool = True) -> Payload:
    """What the spikes of a population of so many channels can carry; `aligned`: all channels have the same delay."""
    if isinstance(program, Source | Attention):
        return Payload(*program.reach(channels))
    return replace(spikes(channels), one_at_a_time=isinstance(program, Clock) and aligned)


def spikes(channels: int) -> Payload:
    """Binary spikes."""
    return Payload(np.zeros(channels, dtype=np.int64), np.ones(channels, dtype=np.int64))


def extremes(synapse: Synapse, shape: tuple[int, ...], payload: Payload) -> tuple[Floats, Floats]:
    """(lowest, highest) weighted sum of every target neuron over all that a source of this shape can send; no bias."""
    if payload.one_at_a_time:  # or none of them, which is what arrives beside a clock's window
        steps = weighted_sum(replace(synapse, bias=None), ticks(shape, 1))[:, 0]
        return np.minimum(steps.min(0), 0), np.maximum(steps.max(0), 0)
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


def prove(
    program: LIF, low: Ints, high: Ints, steps: int, *, gated: bool, readout: bool
) -> tuple[LIF, tuple[int, int]] | None:
    """The program with its gate, and the bounds of u in units of a_in; None if anything cannot be proved.

    Args:
        low, high: bounds of a_in of every neuron, without the gate.
        gated: it must be silent outside its window. The read-out, which never fires, needs no gate.
    """
    least, most = (_after(program, bound, steps) for bound in (low, high))
    gate: Gate | None = None
    if gated and not readout:
        bias = np.broadcast_to(program.bias, high.shape)
        gate = gate_for(high, bias, _decayed(most, program.du + 1) + _above_threshold(program, high, steps))
        if gate is None:
            return None
        least = np.minimum(least, _floor(program, low - gate.current))
    bound = (int(least.min()) >> limits.STATE_SHIFT, -(-int(most.max()) >> limits.STATE_SHIFT))
    if not cannot_wrap(*bound):
        return None
    least, most = least >> limits.STATE_SHIFT, -(-most >> limits.STATE_SHIFT)
    if readout and not cannot_fire(least, most, program.bias, int(program.vth.min()), steps):
        return None
    return replace(program, gate=gate), bound


def _decayed(state: Ints, decay: Ints) -> Ints:
    """rz(state * (4096 - decay), 12)."""
    scaled = state * (limits.DECAY_UNITY - decay)
    return np.asarray(np.sign(scaled) * (np.abs(scaled) // limits.DECAY_UNITY))


def _after(program: LIF, a_in: Ints, steps: int) -> Ints:
    """u after `steps` of a constant a_in, from 0; where it leaves 24 bits, any value that does."""
    u: Ints = np.zeros(a_in.shape, dtype=np.int64)
    for _ in range(steps):
        following = _decayed(u, program.du + 1) + (a_in << limits.STATE_SHIFT)
        if np.array_equal(following, u) or int(np.abs(u).max()) >= limits.STATE_LIMIT:
            break
        u = following
    return u


def _floor(program: LIF, a_in: Ints) -> Ints:
    """What u cannot fall below however long a_in <= 0 lasts, as it does before the first sample and after the last.

    |u| <= A / (1 - leak) stays true, with A = |a_in| << 6; a current that never decays has no floor.
    """
    push = np.abs(a_in) << limits.STATE_SHIFT
    fades = np.broadcast_to(program.du + 1, push.shape)
    floor: Ints = np.where(fades > 0, -push * limits.DECAY_UNITY // np.maximum(fades, 1), -limits.STATE_LIMIT)
    return floor


def _above_threshold(program: LIF, high: Ints, steps: int) -> Ints:
    """How far above threshold the last spike of a window can leave v: nothing where the reset is to zero."""
    peak: Ints = np.zeros(high.shape, dtype=np.int64)
    if program.reset == "zero":
        return peak
    u, v = peak, peak
    for _ in range(steps):
        u = _decayed(u, program.du + 1) + (high << limits.STATE_SHIFT)
        v = np.minimum(_decayed(v, program.dv) + u + program.bias, limits.STATE_LIMIT - 1)
        peak = np.maximum(peak, v)
    return np.asarray(np.maximum(peak - 2 * program.threshold, 0))


def gate_for(high: Ints, bias: Ints, left: Ints | int = 0) -> Gate | None:
    """The weakest gate that keeps every neuron silent outside its window, None if no gate is strong enough.

    A window leaves v <= (vth << 6) + e: a neuron above threshold has fired and was reset (e > 0 only where the reset
    subtracts); decay only brings it closer to zero. It leaves u, of which a part d reaches the next step. So v stays
    below threshold if the rest of the update makes up for `left` = d + e: ((high - gate) << 6) + bias + left <= 0.
    From then on u + bias is negative at every step.
    """
    extra = np.asarray(np.maximum(bias, 0) + left, dtype=np.int64)
    need = int((high - (-extra >> limits.STATE_SHIFT)).max())
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
