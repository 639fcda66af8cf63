"""How raw values become the graded spikes that the first layer gets, and the rule by which that is chosen.

With W the weights behind the input, y = x - offset and y = 2^k h + l:
    W x + b = W y + (b + W offset) = (2^k W) h + W l + (b + W offset)
which is exact, and each of the two weighted sums has an exponent of its own. Centring keeps the mean of an image out
of the bias, which reaches a sixteenth of what the current does; slicing lets the weights of h use their whole range
although 8-bit values times 8-bit weights exceed the 18 bits of a current. NumPy alone: no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from train.errors import UserError
from train.quantise import limits
from train.quantise.grid import Signed

Floats: TypeAlias = npt.NDArray[np.float64]
Ints: TypeAlias = npt.NDArray[np.int64]
CodingName = Literal["auto", "graded", "centred", "sliced", "events"]

TOLERATED = 1.0  # bits of their weights' range that half of the channels may lose before another coding is tried
CURRENT_SHARE = 63_000  # of 131 072: a gate as strong as the highest current may come on top
BIAS_LIMIT = (limits.BIAS_MANT_RANGE[1] << limits.BIAS_EXP_RANGE[1]) >> limits.STATE_SHIFT  # units of a_in


@dataclass(frozen=True)
class InputCoding:
    """Raw values 0 <= x < 2^payload_bits as graded spikes; zero is no spike.

    Attributes:
        payload_bits: of a raw value.
        offset: what is subtracted from each raw channel first; () for nothing.
        low_bits: k; each raw channel is sent as two, h = (x - offset) >> k and l = the k bits below. 0: as one.
    """

    payload_bits: int
    offset: tuple[int, ...] = ()
    low_bits: int = 0

    def __post_init__(self) -> None:
        if self.offset and not any(self.offset):
            object.__setattr__(self, "offset", ())

    @property
    def slices(self) -> int:
        """Channels that are sent for each raw one; h, then l, then h of the next."""
        return 2 if self.low_bits else 1

    def raw_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of the raw values for the shape that is sent; both have channels first."""
        return (shape[0] // self.slices, *shape[1:])

    def sent_shape(self, raw: tuple[int, ...]) -> tuple[int, ...]:
        """The shape that is sent for raw values of a shape."""
        return (raw[0] * self.slices, *raw[1:])

    def encode(self, x: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Raw whole numbers [., ., C, ...], of a dtype with negative ones, to what is sent, [., ., slices C, ...]."""
        if self.offset:
            x = x - self._per_channel(x.ndim - 2).astype(x.dtype)
        if not self.low_bits:
            return x
        high = x // (1 << self.low_bits)
        both = np.stack([high, x - high * (1 << self.low_bits)], axis=3)
        return both.reshape(*x.shape[:2], 2 * x.shape[2], *x.shape[3:])

    def _per_channel(self, ndim: int) -> Ints:
        return np.asarray(self.offset, dtype=np.int64).reshape(-1, *(1,) * (ndim - 1))

    def reach(self, channels: int) -> tuple[Ints, Ints]:
        """The smallest and the largest value that each of the `channels` sent ones can carry; silence is 0."""
        offset = np.asarray(self.offset or (0,) * (channels // self.slices), dtype=np.int64)
        low, high = -offset, (1 << self.payload_bits) - 1 - offset
        if self.low_bits:
            rest = np.full_like(offset, (1 << self.low_bits) - 1)
            low = np.stack([low >> self.low_bits, 0 * rest], axis=1).reshape(-1)
            high = np.stack([high >> self.low_bits, rest], axis=1).reshape(-1)
        return np.minimum(low, 0), np.maximum(high, 0)

    @property
    def spike_bits(self) -> int:
        """Bits of the largest spike, a sign included where there are negative ones."""
        low, high = self.reach(max(1, len(self.offset)) * self.slices)
        signed = bool((low < 0).any())
        return max(int(high.max()).bit_length(), int(-low.min() - signed).bit_length()) + signed

    @property
    def words(self) -> str:
        """For people."""
        if self.payload_bits == 1:
            return "events"
        text = f"graded, {self.payload_bits} bits"
        if self.offset:
            text += f", centred on {', '.join(map(str, self.offset))}"
        if self.low_bits:
            text += f", in slices of {self.payload_bits - self.low_bits} + {self.low_bits} bits"
        return text


@dataclass(frozen=True)
class Choice:
    """A coding and why it was taken."""

    coding: InputCoding
    reason: str


def centre(mean: Sequence[float] | Floats, bits: int) -> tuple[int, ...]:
    """The raw value of each channel nearest to what normalisation maps to zero."""
    return tuple(int(np.clip(np.rint(value), 0, (1 << bits) - 1)) for value in mean)


def candidates(name: CodingName, bits: int, offset: tuple[int, ...]) -> Iterator[InputCoding]:
    """Codings of raw values of `bits` bits in the order in which the rule tries them, cheapest first.

    Raises:
        UserError: events are asked for and the input is graded.
    """
    if name == "events" and bits > 1:
        raise UserError(
            f"--input-coding events, the model reads values of {bits} bits",
            hint="train with --coding poisson, or let it be graded",
        )
    if bits == 1 or name in ("auto", "graded"):
        yield InputCoding(bits)
    if bits > 1 and any(offset) and name in ("auto", "centred"):
        yield InputCoding(bits, offset)
    if bits > 1 and name in ("auto", "sliced"):
        yield from (InputCoding(bits, offset, low) for low in range(1, bits // 2 + 1))
    if bits > 1 and name == "centred" and not any(offset):
        raise UserError("--input-coding centred, normalisation maps no raw value but 0 to zero", hint="use graded")


def choose(
    name: CodingName, bits: int, offset: tuple[int, ...], lost: Callable[[InputCoding], Floats], weight_bits: int
) -> Choice:
    """The rule: the cheapest coding that leaves at least half of the channels all but one bit of their weights' range.

    Args:
        name: the codings to choose from.
        offset: see `centre`.
        lost: `range_lost` of every channel that the input drives, for a coding.

    Where no coding does, the one that loses least.
    """
    if bits == 1:
        return Choice(next(candidates(name, bits, offset)), "because the input is binary")
    tried: list[tuple[float, InputCoding]] = []
    for coding in candidates(name, bits, offset):
        tried.append((float(np.median(lost(coding))), coding))
        if tried[-1][0] <= TOLERATED:
            break
    least, coding = min(tried, key=lambda item: item[0]) if tried[-1][0] > TOLERATED else tried[-1]
    bits_spent = f"at most {least:.1f}" if least >= 0.05 else "none"
    cost = f"it costs half of the channels {bits_spent} of their {weight_bits} weight bits"
    if name != "auto":
        return Choice(coding, f"as --input-coding {name} asks; {cost}")
    others = [f"{_short(other)} costs {bits_lost:.1f}" for bits_lost, other in tried if other != coding]
    return Choice(coding, f"because {'; '.join([cost, *others])}")


def _short(coding: InputCoding) -> str:
    if coding.low_bits:
        return f"{coding.payload_bits - coding.low_bits} + {coding.low_bits} bits"
    return "centred" if coding.offset else "as it is"


def range_lost(peak: Floats, need: Floats, bias: Floats, grid: Signed) -> Floats:
    """(C,) bits of the weights' range that channels cannot use because of their current or their bias.

    Args:
        peak: largest |weight|. need: the largest current to either side. bias: largest |bias|. All per unit of scale.
    """
    full = grid.largest * 2.0**grid.smallest_exponent / np.maximum(peak, 1e-12)  # every bit has its own value from here
    lost: Floats = np.log2(full / largest_scale(need, bias, CURRENT_SHARE)).clip(min=0)
    return lost


def largest_scale(need: Floats, bias: Floats, current: float) -> Floats:
    """(C,) the scale at which the current reaches `current` or the bias its end, whichever comes first."""
    tiny = 1e-12
    return np.minimum(current / np.maximum(need + bias, tiny), BIAS_LIMIT / np.maximum(bias, tiny))
