"""What Loihi's neurons do, as the fused kernels take it: numbers for each neuron, in the units of its state."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from train.kernels.fixed_point import DECAY_SHIFT, STATE_LIMIT, STATE_SHIFT

UNITY = 1 << DECAY_SHIFT

Ints: TypeAlias = npt.NDArray[np.int64]
Wide: TypeAlias = npt.NDArray[np.int64] | npt.NDArray[np.int32]
State: TypeAlias = tuple[Wide, Wide]  # u and v [B, neurons]


@dataclass(frozen=True, eq=False)
class Neurons:
    """What neurons do, as the kernels take it: one value for each neuron (`fixed_point.loihi_lif`).

    int64, or int32 where no step leaves 32 bits; so is their state.

    Attributes:
        threshold, bias: in units of v.
        keep_u, keep_v: what a step keeps, of 4096. keep_u is empty where no current has a memory.
    """

    threshold: Wide
    bias: Wide
    keep_u: Wide
    keep_v: Wide
    subtract: bool

    def at_rest(self, samples: int) -> State:
        """u and v before a window, zero."""
        dtype = self.threshold.dtype
        return np.zeros((samples, len(self.keep_u)), dtype), np.zeros((samples, len(self.keep_v)), dtype)

    def narrowest(self, peak: int) -> Neurons:
        """The same in 32 bits, where currents of |a_in| <= peak prove that enough."""
        if not fits_32_bits(self, peak):
            return self
        threshold, bias, keep_u, keep_v = (
            x.astype(np.int32) for x in (self.threshold, self.bias, self.keep_u, self.keep_v)
        )
        return Neurons(threshold, bias, keep_u, keep_v, self.subtract)


def fits_32_bits(cells: Neurons, peak: int) -> bool:
    """Whether no number of a step leaves 32 bits where no |a_in| is larger than `peak`.

    A step adds up at most the current, what is kept of v (2^23 and a threshold), and a bias. With a memory, |u| <= 2^23
    stays so while |a_in| << 6 is at most 2^24: one wrap takes 3 * 2^23 back to 2^23. Products with decays take 36 bits,
    so their factors are cut into 12 bits and the rest.
    """
    arriving = peak << STATE_SHIFT
    largest = max(int(np.abs(x).max(initial=0)) for x in (cells.bias, cells.threshold))
    bounded = not len(cells.keep_u) or arriving <= 2 * STATE_LIMIT
    return bounded and arriving + 2 * STATE_LIMIT + 2 * largest < 1 << 31


def neurons(
    vth: Ints, bias: Ints, dv: int | Ints, du: int | Ints, shape: tuple[int, ...], *, subtract: bool = False
) -> Neurons:
    """Neurons of a shape, in its C order; the rest as in `fixed_point.loihi_lif`."""

    def each(value: int | Ints) -> Ints:
        return np.broadcast_to(np.asarray(value, dtype=np.int64), shape).reshape(-1).copy()

    keep_u = each(UNITY - 1 - np.asarray(du))
    keep_u = keep_u if keep_u.any() else keep_u[:0]
    return Neurons(each(vth << STATE_SHIFT), each(bias), keep_u, each(UNITY - np.asarray(dv)), subtract)
