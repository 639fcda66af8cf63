"""What the scale search asks of a candidate, compiled for the CPU: its weights, and in how many spikes it differs."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from train.kernels import threads
from train.kernels.kept import kept


def differing(first: npt.NDArray[Any], second: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """In how many places two bool arrays [T, B, C, ...] differ, for each channel: int64 (C,)."""
    steps, samples, channels = first.shape[:3]
    pair = [np.ascontiguousarray(x).view(np.uint8).reshape(steps * samples, channels, -1) for x in (first, second)]
    counts = np.empty(channels, dtype=np.int64)
    threads.run(_differing, threads.count(first.size), *pair, counts)
    return counts


def rounded(
    weight: npt.NDArray[np.float64], factor: npt.NDArray[np.float64], low: float, high: float, unit: float
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float64]]:
    """clip(round(weight factor), low, high) unit, [C, ...], and the squared error of each row in weights, (C,).

    Args:
        weight: [C, ...].
        factor: (C,) steps of the grid per unit of weight.
        low, high: ends of the grid in steps.
        unit: a step in the units of the result.
    """
    rows = np.ascontiguousarray(weight).reshape(len(weight), -1)
    values, error = np.empty(rows.shape, dtype=np.float32), np.empty(len(rows))
    threads.run(_rounded, threads.count(rows.size), rows, factor, low, high, unit, values, error)
    return values.reshape(weight.shape), error


@kept
def _differing(part: int, parts: int, first: Any, second: Any, counts: Any) -> None:
    for channel in range(part, len(counts), parts):
        total = np.int64(0)
        for row in range(len(first)):
            a, b, count = first[row, channel], second[row, channel], np.int32(0)
            for i in range(len(a)):
                count += np.int32(a[i] ^ b[i])
            total += count
        counts[channel] = total


@kept
def _rounded(
    part: int, parts: int, weight: Any, factor: Any, low: float, high: float, unit: float, values: Any, error: Any
) -> None:
    for row in range(part, len(weight), parts):
        scale, total = factor[row], 0.0
        for i in range(weight.shape[1]):
            step = min(max(np.rint(weight[row, i] * scale), low), high)
            values[row, i] = step * unit
            difference = step / scale - weight[row, i]
            total += difference * difference
        error[row] = total
