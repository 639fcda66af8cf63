"""Batch norm's two sweeps over memory in compiled tiles: the statistics, and what they add to the gradient."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from train.kernels import channels, loops, threads
from train.kernels.cpu import array, state_dtype
from train.kernels.kept import kept
from train.kernels.layout import Layout
from train.kernels.tiles import collect as add_up
from train.kernels.tiles import span, tile


@dataclass(frozen=True)
class Sweeps:
    """Compiled functions; each does part p of P of the tiles.

    collect(p, P, segment, x, centre, sums): sums [2, P, K, width or 1] of x - centre and its square
    correct(p, P, segment, x, gradient, slope, offset): gradient += slope x + offset
    """

    collect: Any
    correct: Any


@cache
def build(real: type, bfloat16: bool) -> Sweeps:
    """Sweeps over tensors of `real`, or of bfloat16 seen as uint16; compiled at their first call."""
    storage = loops.storage(real, bfloat16)
    load, store_product = storage.load, storage.store_product
    add_moments, affine, fetch = loops.add_moments, loops.affine, loops.fetch

    def collect(part: int, parts: int, segment: int, x: Any, centre: Any, sums: Any) -> None:
        rows, width = centre.shape
        first, second, buffer = loops.row(centre), loops.row(centre), loops.row(centre)
        begin, end = span(part, parts, x.shape[1], segment, width)
        for k in range(begin, end):
            a, b, row = tile(k, segment, width, rows)
            first[:], second[:] = 0, 0
            for t in range(x.shape[0]):
                fetch(x[t, b : b + width])
                add_moments(first, second, load(buffer, x[t, a:b]), centre[row])
            add_up(sums[0, part, row], first[: b - a])
            add_up(sums[1, part, row], second[: b - a])

    def correct(part: int, parts: int, segment: int, x: Any, gradient: Any, slope: Any, offset: Any) -> None:
        rows, width = slope.shape
        total, ones, buffer, other = loops.row(slope), loops.row(slope), loops.row(slope), loops.row(slope)
        ones[:] = 1
        begin, end = span(part, parts, x.shape[1], segment, width)
        for k in range(begin, end):
            a, b, row = tile(k, segment, width, rows)
            for t in range(x.shape[0]):
                fetch(x[t, b : b + width])
                fetch(gradient[t, b : b + width])
                base = load(other, gradient[t, a:b])
                affine(total, load(buffer, x[t, a:b]), slope[row], offset[row], base)
                store_product(gradient[t, a:b], ones, total, buffer)

    return Sweeps(kept(collect, real, bfloat16), kept(correct, real, bfloat16))


def _sweeps(flat: Tensor) -> Sweeps:
    return build(np.float64 if flat.dtype == torch.float64 else np.float32, flat.dtype == torch.bfloat16)


def about(form: Layout, flat: Tensor, pivot: Any) -> Any:
    """Sums of x - pivot and its square, [2, P, K, width or 1] in float64, over a [T, M] tensor; one sweep.

    Sums about any value of the channel do not lose digits as sums about zero do where the mean is large.
    """
    parts = threads.count(flat.numel())
    sums = form.sums(2, parts)
    (centre,) = form.rooms(1, state_dtype(flat))
    channels.spread(centre, pivot)
    threads.run(_sweeps(flat).collect, parts, form.segment, array(flat), centre, sums)
    return sums


def add_affine_(form: Layout, gradient: Tensor, flat: Tensor, slope: Any, offset: Any) -> None:
    """gradient += slope x + offset, in place; both tensors [T, M], slope and offset rows of tiles."""
    arguments = (array(flat), array(gradient), slope, offset)
    threads.run(_sweeps(flat).correct, threads.count(flat.numel()), form.segment, *arguments)
