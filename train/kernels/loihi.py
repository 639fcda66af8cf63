"""Loihi's neurons compiled for the CPU: one update, driven over a window by currents or by the spikes that arrive.

All that is compiled is in this file, since Numba's cache on disk notices changes of this file alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from train.kernels import threads
from train.kernels.cells import Ints, Neurons, State, neurons
from train.kernels.fixed_point import DECAY_SHIFT, STATE_LIMIT, STATE_SHIFT

TILE = 512  # neurons whose state stays in the nearest cache
NARROW, WIDE = 32, 128  # outputs that are added up at once, in registers
UNIT = 4  # rows that a narrow sum adds at once: a wrong guess at how many come costs more than a few rows of zeros
BYTES = 8  # spikes that are decoded at once
PACK = 0x0102040810204080  # times 8 bytes of 0 or 1: their bits, in the highest byte


@dataclass(frozen=True, eq=False)
class Arriving:
    """Spikes of one connection, and where they go: each adds a row of weights to the positions that it reaches.

    Position p of the target, `outputs` neurons, has segments (a, b, shift). It adds up the rows i + shift of all inputs
    i that fired and lie in the units a to b - 1, of `unit` inputs each.

    Attributes:
        spikes: 0 and 1, uint8 [B, T, inputs].
        segments: int32 [positions, segments, 3].
        rows: int16 [1 + rows, width]; the first is zero; width is a multiple of NARROW, above 128 outputs of WIDE.
    """

    spikes: npt.NDArray[np.uint8]
    unit: int
    segments: npt.NDArray[np.int32]
    outputs: int
    rows: npt.NDArray[np.int16]


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
    sources = tuple((a.spikes, a.unit, a.segments, a.outputs, a.rows) for a in arriving)
    parts = min(threads.count(fired.size + sum(a.spikes.size for a in arriving)), len(fired))
    arguments = (sources, exponent, np.empty(0, sums), *_constants(cells), *state, fired, _watched(membrane))
    threads.run(_layer, parts, *arguments, POSITIONS, COUNTS)


def _run_scan(
    cells: Neurons,
    current: npt.NDArray[Any],
    state: State,
    fired: npt.NDArray[np.uint8],
    membrane: Ints | None,
    begin: int,
    steps_first: bool,
) -> None:
    arguments = (current, *_constants(cells), *state, fired, _watched(membrane), begin, steps_first)
    threads.run(_scan, threads.count(current.size), *arguments)


def _constants(cells: Neurons) -> tuple[object, ...]:
    return cells.threshold, cells.bias, cells.keep_u, cells.keep_v, cells.subtract


def _watched(membrane: Ints | None) -> Ints:
    return np.empty((0, 0, 0), dtype=np.int64) if membrane is None else membrane


def inline(function: Any) -> Any:
    """Compiled into its callers."""
    return numba.njit(error_model="numpy", nogil=True)(function)


def _kept_on_disk(function: Any) -> Any:
    """Compiled at the first call and kept on disk; where no folder can be written for that, in this process alone."""
    try:
        return numba.njit(error_model="numpy", nogil=True, cache=True)(function)
    except RuntimeError:
        return inline(function)


@inline
def _update(x: Any, exponent: int, u: Any, v: Any, keep_u: Any, keep_v: Any, bias: Any) -> None:
    """u and v after one step, before a spike: in int64, since products with decays take 36 bits.

    Loops are short and apart: LLVM gives up on one with many arrays that might overlap.
    """
    shift = STATE_SHIFT + exponent
    if len(keep_u):
        for i in range(len(v)):
            product = u[i] * keep_u[i]
            kept = abs(product) >> DECAY_SHIFT
            u[i] = _wrapped((kept if product >= 0 else -kept) + (np.int64(x[i]) << shift))
        for i in range(len(v)):
            v[i] = _charged(v[i] * keep_v[i], u[i] + bias[i])
    else:
        for i in range(len(v)):
            v[i] = _charged(v[i] * keep_v[i], _wrapped(np.int64(x[i]) << shift) + bias[i])


@inline
def _wrapped(u: Any) -> Any:
    return u - 2 * STATE_LIMIT if u > STATE_LIMIT else (u + 2 * STATE_LIMIT if u <= -STATE_LIMIT else u)


@inline
def _charged(product: Any, more: Any) -> Any:
    kept = abs(product) >> DECAY_SHIFT
    v = (kept if product >= 0 else -kept) + more
    return min(max(v, 1 - STATE_LIMIT), STATE_LIMIT - 1)


@inline
def _fire(v: Any, threshold: Any, subtract: bool, fired: Any) -> None:
    """Spikes, and the reset."""
    for i in range(len(v)):
        fired[i] = v[i] > threshold[i]
    if subtract:
        for i in range(len(v)):
            v[i] -= threshold[i] if v[i] > threshold[i] else 0
    else:
        for i in range(len(v)):
            v[i] = 0 if v[i] > threshold[i] else v[i]


@_kept_on_disk
def _scan(
    part: int,
    parts: int,
    current: Any,
    threshold: Any,
    bias: Any,
    keep_u: Any,
    keep_v: Any,
    subtract: bool,
    u: Any,
    v: Any,
    fired: Any,
    membrane: Any,
    begin: int,
    steps_first: bool,
) -> None:
    """Every `parts`-th tile of every sample."""
    samples, size = v.shape
    steps = current.shape[0] if steps_first else current.shape[1]
    tiles = (size + TILE - 1) // TILE
    for job in range(part, samples * tiles, parts):
        sample, first = job // tiles, job % tiles * TILE
        last = min(first + TILE, size)
        mine, top, push, keep = v[sample, first:last], threshold[first:last], bias[first:last], keep_v[first:last]
        memory, keep_memory = u[sample, first:last], keep_u[first:last]
        for step in range(steps):
            a, b = (step, sample) if steps_first else (sample, step)
            _update(current[a, b, first:last], 0, memory, mine, keep_memory, keep, push)
            at = (a + begin, b) if steps_first else (a, b + begin)
            if len(membrane):
                membrane[at[0], at[1], first:last] = mine
            _fire(mine, top, subtract, fired[at[0], at[1], first:last])


@_kept_on_disk
def _layer(
    part: int,
    parts: int,
    sources: Any,
    exponent: int,
    room: Any,
    threshold: Any,
    bias: Any,
    keep_u: Any,
    keep_v: Any,
    subtract: bool,
    u: Any,
    v: Any,
    fired: Any,
    membrane: Any,
    positions: Any,
    counts: Any,
) -> None:
    """Every `parts`-th sample."""
    samples, steps, size = fired.shape
    inputs = 0
    for source in sources:
        inputs = max(inputs, source[0].shape[2])
    events, starts = np.empty(inputs + BYTES + UNIT, np.int32), np.empty(inputs + 1, np.int32)
    events[:] = 0  # units read beyond the last one
    sums = np.empty(size + WIDE, room.dtype)
    for sample in range(part, samples, parts):
        for step in range(steps):
            sums[:] = 0
            for arriving, unit, segments, outputs, rows in sources:
                _decode(arriving[sample, step], unit, events, starts, positions, counts)
                _add(events, starts, segments, outputs, rows, sums)
            _update(sums[:size], exponent, u[sample], v[sample], keep_u, keep_v, bias)
            if len(membrane):
                membrane[sample, step] = v[sample]
            _fire(v[sample], threshold, subtract, fired[sample, step])


@inline
def _decode(spikes: Any, unit: int, events: Any, starts: Any, positions: Any, counts: Any) -> None:
    """The inputs that fired, in order, and for each unit where those in it begin (at the end: how many there are)."""
    count, units = np.int64(0), len(spikes) // unit
    if unit % BYTES == 0:
        words = spikes.view(np.uint64)
        for k in range(units):
            starts[k] = count
            for word in range(k * (unit // BYTES), (k + 1) * (unit // BYTES)):
                bits = np.int64((words[word] * np.uint64(PACK)) >> np.uint64(56))
                _spread(events, count, positions, bits, word * BYTES)
                count += counts[bits]
    else:
        for k in range(units):
            starts[k] = count
            for i in range(k * unit, (k + 1) * unit):
                events[count] = i
                count += spikes[i]
    starts[units] = count


@inline
def _add(events: Any, starts: Any, segments: Any, outputs: int, rows: Any, sums: Any) -> None:
    """Rows are wider than a position has outputs: what that adds to the next position are zeros."""
    width = rows.shape[1]
    for position in range(len(segments)):
        if width % WIDE == 0:
            for column in range(0, width, WIDE):
                _add_wide(sums, position * outputs + column, starts, segments[position], events, rows, column)
        else:
            for column in range(0, width, NARROW):
                _add_narrow(sums, position * outputs + column, starts, segments[position], events, rows, column)


def _decoded() -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """For each byte where its bits are, [256, 8], the rest being zero, and how many, [256]."""
    bits = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")
    order = np.argsort(1 - bits, axis=1, kind="stable").astype(np.uint8)
    return np.where(np.sort(1 - bits, axis=1) == 0, order, 0).astype(np.uint8), bits.sum(1, dtype=np.uint8)


POSITIONS, COUNTS = _decoded()


def _data(context: Any, builder: Any, signature: Any, arguments: Any, index: int) -> Any:
    """Pointer to the elements of an array argument."""
    return context.make_array(signature.args[index])(context, builder, arguments[index]).data


def _spread_bits(typing: Any, events: Any, at: Any, positions: Any, bits: Any, base: Any) -> Any:
    """events[at : at + 8] = base + positions[bits]."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _, at, _, bits, base = arguments
        target, table = (_data(context, builder, signature, arguments, i) for i in (0, 2))
        eight = ir.VectorType(ir.IntType(32), BYTES)
        entry = builder.gep(table, [builder.mul(bits, ir.Constant(bits.type, BYTES))])
        row = builder.load(builder.bitcast(entry, ir.VectorType(ir.IntType(8), BYTES).as_pointer()))
        row.align = 1
        one = builder.insert_element(
            ir.Constant(eight, ir.Undefined), builder.trunc(base, ir.IntType(32)), ir.Constant(ir.IntType(32), 0)
        )
        every = builder.shuffle_vector(one, ir.Constant(eight, ir.Undefined), ir.Constant(eight, [0] * BYTES))
        place = builder.bitcast(builder.gep(target, [at]), eight.as_pointer())
        builder.store(builder.add(builder.zext(row, eight), every), place).align = 4
        return context.get_dummy_value()

    return types.void(events, types.int64, positions, types.int64, types.int64), generate


_spread: Any = intrinsic(_spread_bits)


def _adder(lanes: int, unit: int) -> Any:
    """sums[at : at + lanes] += columns `column` to `column` + lanes of all rows of all segments, `unit` rows at once.

    The sums stay in registers, which Numba has no words for.
    """

    def add(typing: Any, sums: Any, at: Any, starts: Any, segments: Any, events: Any, rows: Any, column: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            total, start, segment, event, row = (
                _data(context, builder, signature, arguments, i) for i in (0, 2, 3, 4, 5)
            )
            long = ir.IntType(64)
            described = context.make_array(signature.args[3])(context, builder, arguments[3])
            count = builder.extract_value(described.shape, 0)
            width = builder.extract_value(
                context.make_array(signature.args[5])(context, builder, arguments[5]).shape, 1
            )
            wide = signature.args[0].dtype.bitwidth
            vector, short = (ir.VectorType(ir.IntType(bits), lanes) for bits in (wide, 16))

            def number(value: int) -> Any:
                return ir.Constant(long, value)

            def at_index(array: Any, index: Any) -> Any:
                return builder.sext(builder.load(builder.gep(array, [index])), long)

            place = builder.bitcast(builder.gep(total, [arguments[1]]), vector.as_pointer())
            before = builder.load(place)
            before.align = wide // 8
            held = cgutils.alloca_once_value(builder, before)  # type: ignore[no-untyped-call]
            with cgutils.for_range(builder, count) as each:
                first = builder.mul(each.index, number(3))
                a, b, shift = (at_index(segment, builder.add(first, number(i))) for i in range(3))
                begin, end = at_index(start, a), at_index(start, b)
                units = builder.sdiv(builder.add(builder.sub(end, begin), number(unit - 1)), number(unit))
                if unit > 1:  # never none, which is as hard to predict
                    units = builder.select(builder.icmp_signed(">", units, number(1)), units, number(1))
                with cgutils.for_range(builder, units) as block:
                    for k in range(unit):
                        index = builder.add(begin, builder.add(builder.mul(block.index, number(unit)), number(k)))
                        which = builder.add(at_index(event, index), shift)
                        if unit > 1:
                            which = builder.select(builder.icmp_signed("<", index, end), which, number(0))
                        source = builder.gep(row, [builder.add(builder.mul(which, width), arguments[6])])
                        values = builder.load(builder.bitcast(source, short.as_pointer()))
                        values.align = 2
                        if wide > 16:
                            values = builder.sext(values, vector)
                        builder.store(builder.add(builder.load(held), values), held)
            builder.store(builder.load(held), place).align = wide // 8
            return context.get_dummy_value()

        return types.void(sums, types.int64, starts, segments, events, rows, types.int64), generate

    return intrinsic(add)


_add_narrow, _add_wide = _adder(NARROW, UNIT), _adder(WIDE, 1)
