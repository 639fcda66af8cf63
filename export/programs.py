"""What the neurons of a population do: the programs that a network may give them, in integers.

This module needs numpy alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from export import limits
from export.attention_programs import Attention as Attention
from export.whole import Ints as Ints
from train.quantise.coding import InputCoding

Reset: TypeAlias = Literal["zero", "subtract"]
RESETS: tuple[Reset, ...] = ("zero", "subtract")


@dataclass(frozen=True)
class Gate:
    """The inhibitory input of a population outside its window: every neuron receives -(weight << exponent)."""

    weight: int
    exponent: int

    @property
    def current(self) -> int:
        """Strength in units of a_in."""
        return self.weight << self.exponent


@dataclass(frozen=True)
class Source(InputCoding):
    """The input population. It sends raw values 0 <= x < 2^payload_bits as graded spikes, in the coding that it is."""


@dataclass(frozen=True)
class Clock:
    """It tells the time: neuron (t, ...) of a shape (T, ...) sends one binary spike, at step t of each window.

    It has no inputs. Whatever varies with the step in the window is a weight on one of its synapses.
    """


@dataclass(frozen=True, eq=False)
class LIF:
    """Loihi's leaky integrate-and-fire program in integers; rz(x, k) = sign(x) * (|x| >> k).

    u <- rz(u * (4096 - (du + 1)), 12) + (a_in << 6), wrapped once to 24 bits
    v <- clip(rz(v * (4096 - dv), 12) + u + (bias_mant << bias_exp), -(2^23 - 1), 2^23 - 1)
    spike when v > (vth << 6); then v <- 0 (reset "zero") or v <- v - (vth << 6) ("subtract"); u is kept

    du, dv, vth and bias_mant are int64 arrays that broadcast to the population's shape; one number may be given as int.

    Source: lava-nc 0.10.0, `PyLifResetModelBitAcc`. Its reset is the one to zero: neither Lava nor Loihi 1 has the one
    that subtracts, which takes a neuron program of its own on Loihi 2.
    """

    du: Ints
    dv: Ints
    vth: Ints
    bias_mant: Ints
    bias_exp: int
    gate: Gate | None = None
    reset: Reset = "zero"

    def __post_init__(self) -> None:
        for name in ("du", "dv", "vth", "bias_mant"):
            value = getattr(self, name)
            if isinstance(value, int):
                object.__setattr__(self, name, np.asarray(value, dtype=np.int64))

    @property
    def threshold(self) -> Ints:
        """The threshold in units of v: vth << 6."""
        return np.asarray(self.vth << limits.STATE_SHIFT)

    @property
    def bias(self) -> Ints:
        """The bias current in units of v."""
        return np.asarray(self.bias_mant << self.bias_exp)


Program: TypeAlias = Source | Clock | LIF | Attention
Driven: TypeAlias = LIF | Attention  # what connections end in
