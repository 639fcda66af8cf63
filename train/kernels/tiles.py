"""The fused LIF over tiles: neurons that fit the cache pass through all T steps, forward and backward."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from train.kernels import loops
from train.kernels.kept import inline, kept
from train.surrogate import Surrogate


@dataclass(frozen=True)
class Kernels:
    """Compiled functions; each does part p of P of the tiles and may run beside the others.

    x is [T, M], or [1, M] where the current is the same at every step; then x_gradient, too, is the sum over T.

    forward(p, P, segment, x, spikes, leak, gain, bias)
    potentials(p, P, segment, x, potential, leak, gain, bias)
    backward(p, P, segment, gradient, x, x_gradient, leak, gain, bias, centre, given, sums, wanted)
    """

    forward: Any
    potentials: Any
    backward: Any


def _tile(k: int, segment: int, width: int, rows: int) -> tuple[int, int, int]:
    """First and last + 1 element, and parameter row, of tile k; see `layout.Layout`."""
    per_segment = -(-segment // width)
    s, t = k // per_segment, k % per_segment
    start = s * segment + t * width
    return start, min(start + width, (s + 1) * segment), s % rows


def _range(part: int, parts: int, elements: int, segment: int, width: int) -> tuple[int, int]:
    """First and last + 1 tile of one part."""
    tiles = elements // segment * -(-segment // width)
    return part * tiles // parts, (part + 1) * tiles // parts


def _collect(total: Any, tile_sums: Any) -> None:
    """Add a tile's sums element by element, or all to one where a tile is of one channel."""
    if len(total) == 1:
        total[0] += tile_sums.sum()
    else:
        loops.add(total, tile_sums)


tile, span, collect = inline(_tile), inline(_range), inline(_collect)


@cache
def build(surrogate: Surrogate | None, threshold: float, real: type, bfloat16: bool, detach: bool) -> Kernels:
    """Kernels for one neuron and number format; `real` is numpy's type of the state. Compiled at their first call.

    Raises:
        trace.UntraceableError: the surrogate's derivative does not translate.
    """
    storage = loops.storage(real, bfloat16)
    load, store_product, one = storage.load, storage.store_product, storage.one
    source = loops.step_back_source(surrogate, threshold, detach)
    step_back = loops.step_back_loop(source, real)
    fire, charge, fetch = loops.fire, loops.charge, loops.fetch
    add, add_products, add_state_product, copy = loops.add, loops.add_products, loops.add_state_product, loops.copy
    vth = real(threshold)

    def forward(part: int, parts: int, segment: int, x: Any, spikes: Any, leak: Any, gain: Any, bias: Any) -> None:
        rows, width = leak.shape
        state, buffer = loops.row(leak), loops.row(leak)
        first, last = span(part, parts, x.shape[1], segment, width)
        for k in range(first, last):
            a, b, row = tile(k, segment, width, rows)
            state[:] = 0
            for t in range(spikes.shape[0]):
                at = t % x.shape[0]
                fetch(x[at, b : b + width])
                fetch(spikes[t, b : b + width])
                fire(spikes[t, a:b], state, load(buffer, x[at, a:b]), leak[row], gain[row], bias[row], vth, one)

    def potentials(part: int, parts: int, segment: int, x: Any, out: Any, leak: Any, gain: Any, bias: Any) -> None:
        rows, width = leak.shape
        state, buffer = loops.row(leak), loops.row(leak)
        first, last = span(part, parts, x.shape[1], segment, width)
        for k in range(first, last):
            a, b, row = tile(k, segment, width, rows)
            state[:] = 0
            for t in range(out.shape[0]):
                xt = load(buffer, x[t % x.shape[0], a:b])
                charge(out[t, a:b], state, xt, leak[row], gain[row], bias[row], vth)

    def backward(
        part: int,
        parts: int,
        segment: int,
        gradient: Any,
        x: Any,
        x_gradient: Any,
        leak: Any,
        gain: Any,
        bias: Any,
        centre: Any,
        given: Any,
        sums: Any,
        wanted: Any,
    ) -> None:
        rows, width = leak.shape
        steps, moving = gradient.shape[0], x.shape[0] > 1
        potential = np.empty((steps, width), leak.dtype)
        carried, slope, buffer = loops.row(leak), loops.row(leak), loops.row(leak)
        leak_sum, gain_sum, bias_sum = loops.row(leak), loops.row(leak), loops.row(leak)
        first, last = span(part, parts, x.shape[1], segment, width)
        for k in range(first, last):
            a, b, row = tile(k, segment, width, rows)
            n = b - a
            carried[:], leak_sum[:], gain_sum[:], bias_sum[:] = 0, 0, 0, 0
            for t in range(steps):
                at = t % x.shape[0]
                fetch(x[at, b : b + width])
                fetch(gradient[t, b : b + width])
                fetch(x_gradient[at, b : b + width])
                xt = load(buffer, x[at, a:b])
                charge(potential[t, :n], carried, xt, leak[row], gain[row], bias[row], vth)
            carried[:] = 0
            for t in range(steps - 1, -1, -1):
                behind = load(buffer, gradient[t, a:b])
                step_back(slope[:n], behind, potential[t], carried, leak[row], vth, given[t, a:b])
                if wanted[0] and t > 0:
                    add_state_product(leak_sum, slope[:n], potential[t - 1], vth)
                if not moving:
                    add(bias_sum, slope[:n])
                    continue
                if wanted[1] or wanted[2]:
                    add_products(gain_sum, bias_sum, slope[:n], load(buffer, x[t, a:b]), centre[row])
                store_product(x_gradient[t, a:b], gain[row], slope, buffer)
            if not moving:
                copy(slope, bias_sum)
                bias_sum[:] = 0
                add_products(gain_sum, bias_sum, slope[:n], load(buffer, x[0, a:b]), centre[row])
                store_product(x_gradient[0, a:b], gain[row], slope, buffer)
            if wanted[0]:
                collect(sums[0, part, row], leak_sum[:n])
            if wanted[1] or wanted[2]:
                collect(sums[1, part, row], gain_sum[:n])
                collect(sums[2, part, row], bias_sum[:n])

    return Kernels(
        kept(forward, threshold, real, bfloat16),
        kept(potentials, threshold, real, bfloat16),
        kept(backward, threshold, real, bfloat16, source),
    )
