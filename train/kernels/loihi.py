"""Loihi's neurons on the CPU, driven over a window by currents or by spikes; `loihi_compiled` does the work."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from train.kernels import threads
from train.kernels.cells import Ints, Neurons, State, neurons
from train.kernels.loihi_compiled import COUNTS, POSITIONS, run_layer, run_scan


@dataclass(frozen=True, eq=False)
class Arriving:
    """Spikes of one connection, and where they go: each adds a row of weights to the positions that it reaches.

    Position p of the target, `outputs` neurons, has segments (a, b, shift). It adds up the rows i + shift of all inputs
    i that fired and lie in the units a to b - 1, of `unit` inputs each.

    By patterns, a segment is (offset, mask, base) instead: of the 8 inputs from offset - FRONT on, those in the mask
    are the bits of a number, and the row base + number is the sum of their weights.

    Attributes:
        spikes: 0 and 1, uint8 [B, T, inputs].
        segments: int32 [positions, segments, 3].
        rows: int16 [rows, width]. By events, the first is zero, and width is a multiple of NARROW, above 128 outputs
            of WIDE; by patterns it is HALF or a multiple of NARROW.
    """

    spikes: npt.NDArray[np.uint8]
    unit: int
    segments: npt.NDArray[np.int32]
    outputs: int
    rows: npt.NDArray[np.int16]
    patterns: bool = False


def spikes(
    current: npt.NDArray[np.float32],
    vth: Ints,
    bias: Ints,
    dv: int | Ints,
    du: int | Ints,
    *,
    subtract: bool = False,
) -> npt.NDArray[np.bool_]:
    """Spikes of `fixed_point.loihi_lif`, bit for bit: bool [T, B, *shape].

    Args:
        current: a_in as whole numbers, [T, B, *shape].
        vth, bias, dv, du: as there, broadcast to *shape.
        subtract: the reset that subtracts the threshold, instead of the one to zero.
    """
    steps, samples, *shape = current.shape
    flat = np.ascontiguousarray(current).reshape(steps, samples, -1)
    out = np.empty(flat.shape, dtype=np.uint8)
    cells = neurons(vth, bias, dv, du, tuple(shape), subtract=subtract)
    _run_scan(cells, flat, cells.at_rest(samples), out, None, 0, True)
    return out.view(np.bool_).reshape(current.shape)


def scan(
    cells: Neurons,
    current: npt.NDArray[Any],
    state: State,
    fired: npt.NDArray[np.uint8],
    membrane: Ints | None = None,
    begin: int = 0,
) -> None:
    """Run neurons on currents from `state` on, which becomes the state after the last step.

    Args:
        current: a_in, whole numbers of any float or integer dtype [B, steps, neurons], for the steps from `begin` on.
        fired: gets the spikes of these steps, uint8 [B, T, neurons].
        membrane: gets v before a spike resets it, int64 [B, T, neurons].
    """
    _run_scan(cells, current, state, fired, membrane, begin, False)


def layer(
    cells: Neurons,
    arriving: tuple[Arriving, ...],
    exponent: int,
    state: State,
    fired: npt.NDArray[np.uint8],
    membrane: Ints | None,
    sums: type,
) -> None:
    """Run neurons over a whole window on the spikes that arrive; the sums are never in memory.

    Args:
        arriving: connections: a_in = (sum of all their rows) << exponent.
        state, fired, membrane: as in `scan`.
        sums: int16 or int32, which holds every part of a sum, as the caller has proved.
    """
    sources = tuple((a.spikes, a.unit, a.segments, a.outputs, a.rows, a.patterns) for a in arriving)
    parts = min(threads.count(fired.size + sum(a.spikes.size for a in arriving)), len(fired))
    arguments: tuple[object, ...] = (
        sources,
        exponent,
        np.empty(0, sums),
        _constants(cells),
        state,
        fired,
        _watched(membrane),
    )
    threads.run(run_layer, parts, *arguments, POSITIONS, COUNTS)


def _run_scan(
    cells: Neurons,
    current: npt.NDArray[Any],
    state: State,
    fired: npt.NDArray[np.uint8],
    membrane: Ints | None,
    begin: int,
    steps_first: bool,
) -> None:
    arguments = (current, _constants(cells), state, fired, _watched(membrane), begin, steps_first)
    threads.run(run_scan, threads.count(current.size), *arguments)


def _constants(cells: Neurons) -> tuple[object, ...]:
    return cells.threshold, cells.bias, cells.keep_u, cells.keep_v, cells.subtract


def _watched(membrane: Ints | None) -> Ints:
    return np.empty((0, 0, 0), dtype=np.int64) if membrane is None else membrane
