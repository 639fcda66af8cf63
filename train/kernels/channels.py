"""Batch norm's numbers for every channel, compiled: so few that calls of NumPy would cost more than the arithmetic.

Tiles: see `layout.Layout`. Parameters are arrays (C,), or (1,) of one value for all channels.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from train.kernels.kept import kept


@kept
def spread(out: Any, values: Any) -> None:
    """A value for every channel to rows of tiles, [K, width]."""
    rows, width = out.shape
    step = 1 if rows > 1 else len(values)  # of one channel, or of all in turn
    for k in range(rows):
        for start in range(0, width, step):
            for c in range(step):
                out[k, start + c] = values[(k + c) % len(values)]


@kept
def collected(sums: Any, channels: int) -> Any:
    """Sums of tiles, [n, P, K, width or 1], to those of every channel, [n, C]."""
    n, parts, rows, width = sums.shape
    out = np.zeros((n, channels))
    for j in range(n):
        for p in range(parts):
            for k in range(rows):
                for start in range(0, width, channels):
                    for c in range(min(channels, width)):
                        out[j, k + c] += sums[j, p, k, start + c]
    return out


@kept
def observe(
    sums: Any, pivot: Any, count: float, momentum: float, shown: float, mean: Any, var: Any, tracked: Any, seen: Any
) -> None:
    """Statistics of a batch from sums [2, P, K, width or 1] about the pivot (C,), `count` values, each so often shown.

    seen: mean and variance (biased), [2, C]. The running mean and (unbiased) variance move towards them; tracked, ().
    """
    totals = collected(sums, len(pivot))
    unbiased = count * shown / max(1.0, count * shown - 1)
    for c in range(len(pivot)):
        away = totals[0, c] / count
        spare = totals[1, c] / count - away * away
        seen[0, c], seen[1, c] = pivot[c] + away, 0.0 if spare < 0 else spare
        mean[c] += momentum * (seen[0, c] - mean[c])
        var[c] += momentum * (seen[1, c] * unbiased - var[c])
    tracked[()] += 1


@kept
def prepare(seen: Any, eps: float, weight: Any, bias: Any, leak: Any, gain: Any, rows: Any) -> None:
    """Rows of tiles of leak, gain weight / s, gain (bias - mean weight / s) and mean, s = sqrt(var + eps)."""
    scaled, moved = np.empty(len(weight)), np.empty(len(weight))
    for c in range(len(weight)):
        own, scale = gain[c % len(gain)], weight[c] / math.sqrt(seen[1, c] + eps)
        scaled[c], moved[c] = own * scale, own * (bias[c] - seen[0, c] * scale)
    spread(rows[0], leak)
    spread(rows[1], scaled)
    spread(rows[2], moved)
    spread(rows[3], seen[0])


@kept
def settle(
    sums: Any, seen: Any, eps: float, weight: Any, bias: Any, gain: Any, count: float, found: Any, rows: Any
) -> None:
    """Gradients of weight, bias, leak and gain of every channel, [4, C]; what dL/dx lacks as rows of slope and offset.

    sums [3, P, K, width or 1]: of dL/dV H, dL/dV (x - mean), dL/dV. Through statistics of `count` values a channel,
    dL/dx += slope x + offset. With count 0 they are fixed, and `rows` are left alone.
    """
    totals = collected(sums, len(weight))
    slope, offset = np.empty(len(weight)), np.empty(len(weight))
    for c in range(len(weight)):
        own, inverse = gain[c % len(gain)], 1 / math.sqrt(seen[1, c] + eps)
        centred, plain = inverse * totals[1, c], totals[2, c]
        by_weight, by_bias = own * centred, own * plain
        found[0, c], found[1, c] = by_weight, by_bias
        found[2, c], found[3, c] = totals[0, c], weight[c] * centred + bias[c] * plain
        if count:
            slope[c] = -weight[c] * inverse * inverse * by_weight / count
            offset[c] = -weight[c] * inverse * by_bias / count - slope[c] * seen[0, c]
    if count:
        spread(rows[0], slope)
        spread(rows[1], offset)
