"""Value objects of a quantisation: which integers a weight may take, and how many scales a layer has."""

from __future__ import annotations

from dataclasses import dataclass

from train.quantise import limits


@dataclass(frozen=True)
class Signed:
    """Signed weights of `bits` bits, at the top of Loihi's range: multiples of 2^(9 - bits) in [-256, 254], times 2^e.

    Loihi's arithmetic shifts the weighted sum right where e < 0. Such a weight is a multiple of 2^(9 - bits), so down
    to `smallest_exponent` no bit of the sum is lost, and the even weight w 2^e with exponent 0 does the same: that is
    what a network holds. So fewer bits never mean coarser steps than the current has room for.

    Attributes:
        largest_exponent: where the search for a weight exponent starts; more than 4 only costs bits of the threshold.
        bias_exponents: smallest and largest exponent of a bias.
    """

    bits: int = 8
    largest_exponent: int = 4
    bias_exponents: tuple[int, int] = limits.BIAS_EXP_RANGE

    @property
    def step(self) -> int:
        """Distance between neighbouring values: 2 for 8 bits, since the lowest bit of a signed weight is lost."""
        return 1 << (9 - self.bits)

    @property
    def smallest_exponent(self) -> int:
        """e of the finest grid, whose step is 2: 0 for 8 bits, -4 for 4."""
        return self.bits - 8

    def unit(self, exponent: int) -> float:
        """Distance between neighbouring weights in units of a_in, 2 or a larger power of two."""
        return self.step * 2.0**exponent

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
