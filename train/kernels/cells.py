"""What Loihi's neurons do, as the fused kernels take it: numbers for each neuron, in the units of its state."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from train.kernels.fixed_point import DECAY_SHIFT, STATE_SHIFT

UNITY = 1 << DECAY_SHIFT

Ints: TypeAlias = npt.NDArray[np.int64]
State: TypeAlias = tuple[Ints, Ints]  # u and v [B, neurons]


@dataclass(frozen=True, eq=False)
class Neurons:
    """What neurons do, as the kernels take it: int64, one value for each neuron (`fixed_point.loihi_lif`).

    Attributes:
        threshold, bias: in units of v.
        keep_u, keep_v: what a step keeps, of 4096. keep_u is empty where no current has a memory.
    """

    threshold: Ints
    bias: Ints
    keep_u: Ints
    keep_v: Ints
    subtract: bool

    def at_rest(self, samples: int) -> State:
        """u and v before a window, zero."""
        return np.zeros((samples, len(self.keep_u)), np.int64), np.zeros((samples, len(self.keep_v)), np.int64)


def neurons(
    vth: Ints, bias: Ints, dv: int | Ints, du: int | Ints, shape: tuple[int, ...], *, subtract: bool = False
) -> Neurons:
    """Neurons of a shape, in its C order; the rest as in `fixed_point.loihi_lif`."""

    def each(value: int | Ints) -> Ints:
        return np.broadcast_to(np.asarray(value, dtype=np.int64), shape).reshape(-1).copy()

    keep_u = each(UNITY - 1 - np.asarray(du))
    keep_u = keep_u if keep_u.any() else keep_u[:0]
    return Neurons(each(vth << STATE_SHIFT), each(bias), keep_u, each(UNITY - np.asarray(dv)), subtract)
