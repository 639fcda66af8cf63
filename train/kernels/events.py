"""Dense layers driven by spikes, compiled for the CPU: the weights of those inputs that fired are added up."""

from __future__ import annotations

from functools import cache
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from train.kernels import threads

GROUP = 128  # weights from -256 to 255 that an int16 can add up
TILE = 512  # outputs whose sums stay in the nearest cache


def transposed(weight: npt.NDArray[np.int64]) -> npt.NDArray[np.int16]:
    """Weights (outputs, inputs) as `sums` reads them; from -256 to 255, as all of a network are."""
    return np.ascontiguousarray(weight.T, dtype=np.int16)


def sums(spikes: npt.NDArray[np.bool_], rows: npt.NDArray[np.int16]) -> npt.NDArray[np.int32]:
    """weight @ spikes for every image, exact: int32 [N, outputs].

    Args:
        spikes: bool [N, inputs].
        rows: weights as `transposed` gives them, [inputs, outputs].
    """
    images, outputs = len(spikes), rows.shape[1]
    out = np.empty((images, outputs), dtype=np.int32)
    flat = np.ascontiguousarray(spikes).view(np.uint8)
    threads.run(_compiled(), threads.count(flat.size), flat, rows, out)
    return out


@cache
def _compiled() -> Any:
    return numba.njit(error_model="numpy", nogil=True)(_sums)


def _sums(part: int, parts: int, spikes: Any, rows: Any, out: Any) -> None:
    """Every `parts`-th image. Sums of a group of inputs cannot leave 16 bits, which add twice as many at once as 32."""
    inputs, outputs = rows.shape
    fired = np.empty(inputs, np.int32)
    short = np.empty(TILE, np.int16)
    for image in range(part, len(spikes), parts):
        count = 0
        for i in range(inputs):
            fired[count] = i
            count += int(spikes[image, i])
        for first in range(0, outputs, TILE):
            n = min(TILE, outputs - first)
            total = out[image, first : first + n]
            total[:] = 0
            for start in range(0, count, GROUP):
                short[:n] = 0
                for k in range(start, min(start + GROUP, count)):
                    row = rows[fired[k], first : first + n]
                    for j in range(n):
                        short[j] += row[j]
                for j in range(n):
                    total[j] += short[j]
