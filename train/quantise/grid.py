"""Value objects of a quantisation: which integers a weight may take, and how many scales a layer has."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Signed:
    """Signed weights of `bits` bits, kept at the top of Loihi's range: multiples of 2^(9 - bits) in [-256, 254]."""

    bits: int = 8

    @property
    def step(self) -> int:
        """Distance between neighbouring values: 2 for 8 bits, since the lowest bit of a signed weight is lost."""
        return 1 << (9 - self.bits)

    @property
    def largest(self) -> int:
        """The largest weight."""
        return 256 - self.step


@dataclass(frozen=True)
class PerLayer:
    """One scale for all channels of a population."""


@dataclass(frozen=True)
class PerChannel:
    """One scale for each channel, through thresholds and biases of its own."""


Granularity = PerLayer | PerChannel
