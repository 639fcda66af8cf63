"""Loihi's arithmetic compiled for the CPU: the neuron over a window, and weights to integers, in one pass each."""

from __future__ import annotations

from functools import cache
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from train.kernels import threads
from train.kernels.fixed_point import DECAY_SHIFT, STATE_LIMIT, STATE_SHIFT

TILE = 512  # neurons whose state stays in the nearest cache
UNITY = 1 << DECAY_SHIFT


def spikes(
    current: npt.NDArray[np.float32],
    vth: npt.NDArray[np.int64],
    bias: npt.NDArray[np.int64],
    dv: int | npt.NDArray[np.int64],
    du: int | npt.NDArray[np.int64],
    *,
    subtract: bool = False,
) -> npt.NDArray[np.bool_]:
    """Spikes of `fixed_point.loihi_lif`, bit for bit: bool [T, B, *shape].

    Args:
        current: a_in as whole numbers, [T, B, *shape], |a_in| < 2^24.
        vth, bias, dv, du: as there, broadcast to *shape.
        subtract: the reset that subtracts the threshold, instead of the one to zero.
    """
    steps, samples, *shape = current.shape
    rows = [np.broadcast_to(np.asarray(value, dtype=np.int64), shape).reshape(-1) for value in (vth, bias, dv, du)]
    flat = np.ascontiguousarray(current, dtype=np.float32).reshape(steps, samples, -1)
    out = np.empty(flat.shape, dtype=np.uint8)
    arguments = (flat, rows[0] << STATE_SHIFT, rows[1], UNITY - rows[2], UNITY - 1 - rows[3], subtract, out)
    threads.run(_compiled(_neurons), threads.count(flat.size), *arguments)
    return out.view(np.bool_).reshape(current.shape)


def differing(first: npt.NDArray[Any], second: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """In how many places two bool arrays [T, B, C, ...] differ, for each channel: int64 (C,)."""
    steps, samples, channels = first.shape[:3]
    pair = [np.ascontiguousarray(x).view(np.uint8).reshape(steps * samples, channels, -1) for x in (first, second)]
    counts = np.empty(channels, dtype=np.int64)
    threads.run(_compiled(_differing), threads.count(first.size), *pair, counts)
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
    threads.run(_compiled(_rounded), threads.count(rows.size), rows, factor, low, high, unit, values, error)
    return values.reshape(weight.shape), error


@cache
def _compiled(function: Any) -> Any:
    return numba.njit(error_model="numpy", nogil=True)(function)


def _neurons(
    part: int,
    parts: int,
    current: Any,
    threshold: Any,
    bias: Any,
    keep_v: Any,
    keep_u: Any,
    subtract: bool,
    out: Any,
) -> None:
    """Every `parts`-th tile of every sample; state in int64, since its products with decays take 36 bits."""
    steps, samples, size = current.shape
    u, v = np.empty(TILE, np.int64), np.empty(TILE, np.int64)
    tiles = (size + TILE - 1) // TILE
    for job in range(part, samples * tiles, parts):
        sample, first = job // tiles, job % tiles * TILE
        n = min(TILE, size - first)
        u[:] = 0
        v[:] = 0
        top, push, kv, ku = threshold[first:], bias[first:], keep_v[first:], keep_u[first:]
        for t in range(steps):
            x, fired = current[t, sample, first:], out[t, sample, first:]
            for i in range(n):
                product = u[i] * ku[i]
                kept = abs(product) >> DECAY_SHIFT
                a = (kept if product >= 0 else -kept) + (np.int64(x[i]) << STATE_SHIFT)
                a = a - 2 * STATE_LIMIT if a > STATE_LIMIT else (a + 2 * STATE_LIMIT if a <= -STATE_LIMIT else a)
                u[i] = a
                product = v[i] * kv[i]
                kept = abs(product) >> DECAY_SHIFT
                b = (kept if product >= 0 else -kept) + a + push[i]
                b = min(max(b, 1 - STATE_LIMIT), STATE_LIMIT - 1)
                spike = b > top[i]
                v[i] = (b - top[i] if subtract else 0) if spike else b
                fired[i] = spike


def _differing(part: int, parts: int, first: Any, second: Any, counts: Any) -> None:
    for channel in range(part, len(counts), parts):
        total = np.int64(0)
        for row in range(len(first)):
            a, b, count = first[row, channel], second[row, channel], np.int32(0)
            for i in range(len(a)):
                count += np.int32(a[i] ^ b[i])
            total += count
        counts[channel] = total


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
