"""What `loihi` compiles for the CPU with Numba: the update of the neurons, and sums of the spikes that arrive."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, overload

from train.kernels.fixed_point import DECAY_SHIFT, STATE_LIMIT, STATE_SHIFT
from train.kernels.kept import inline, kept

TILE = 512  # neurons whose state stays in the nearest cache
NARROW, WIDE = 32, 128  # outputs that are added up at once, in registers
HALF = 16  # the same for patterns of narrow layers
PACKED = 64  # spikes that are packed to bits at once
FRONT = 8  # bits before the first input: a pattern at the edge begins there
UNIT = 4  # rows that a narrow sum adds at once: a wrong guess at how many come costs more than a few rows of zeros
BYTES = 8  # spikes that are decoded at once
PACK = 0x0102040810204080  # times 8 bytes of 0 or 1: their bits, in the highest byte


@inline
def _update(x: Any, exponent: int, u: Any, v: Any, keep_u: Any, keep_v: Any, bias: Any) -> None:
    """u and v after one step, in the integers that hold them.

    Loops are short and apart: LLVM gives up on one with many arrays that might overlap.
    """
    whole = v.dtype.type  # sums of narrow integers are wide ones in Numba
    shift = whole(STATE_SHIFT + exponent)
    if len(keep_u):
        for i in range(len(v)):
            u[i] = _wrapped(whole(_kept(u[i], keep_u[i]) + whole(whole(x[i]) << shift)))
        for i in range(len(v)):
            v[i] = _clipped(whole(whole(_kept(v[i], keep_v[i]) + u[i]) + bias[i]))
    else:
        for i in range(len(v)):
            current = _wrapped(whole(whole(x[i]) << shift))
            v[i] = _clipped(whole(whole(_kept(v[i], keep_v[i]) + current) + bias[i]))


def _kept(value: Any, keep: Any) -> Any:
    """value * keep / 4096, rounded to zero; in 32 bits by halves, as products take 36."""
    raise NotImplementedError  # compiled only


@overload(_kept, inline="never")
def _kept_in(value: Any, keep: Any) -> Any:
    whole = np.int32 if value.bitwidth == 32 else np.int64
    high, low = whole(DECAY_SHIFT), whole((1 << DECAY_SHIFT) - 1)
    last = whole(value.bitwidth - 1)

    def wide(value: Any, keep: Any) -> Any:
        sign = value >> last
        return ((abs(value * keep) >> high) ^ sign) - sign

    def narrow(value: Any, keep: Any) -> Any:
        sign, size = whole(value >> last), whole(abs(value))
        kept = whole(whole(whole(size >> high) * keep) + whole(whole(whole(size & low) * keep) >> high))
        return whole(whole(kept ^ sign) - sign)

    return narrow if value.bitwidth == 32 else wide


@inline
def _wrapped(u: Any) -> Any:
    limit, turn = type(u)(STATE_LIMIT), type(u)(2 * STATE_LIMIT)
    return type(u)(u - turn) if u > limit else (type(u)(u + turn) if u <= -limit else u)


@inline
def _clipped(v: Any) -> Any:
    return min(max(v, type(v)(1 - STATE_LIMIT)), type(v)(STATE_LIMIT - 1))


@inline
def _fire(v: Any, threshold: Any, subtract: bool, fired: Any) -> None:
    """Spikes, and the reset."""
    zero = v.dtype.type(0)
    for i in range(len(v)):
        fired[i] = v[i] > threshold[i]
    if subtract:
        for i in range(len(v)):
            v[i] -= threshold[i] if v[i] > threshold[i] else zero
    else:
        for i in range(len(v)):
            v[i] = zero if v[i] > threshold[i] else v[i]


@kept
def run_scan(
    part: int,
    parts: int,
    current: Any,
    cells: Any,
    state: Any,
    fired: Any,
    membrane: Any,
    begin: int,
    steps_first: bool,
) -> None:
    """Every `parts`-th tile of every sample."""
    (threshold, bias, keep_u, keep_v, subtract), (u, v) = cells, state
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


@kept
def run_layer(
    part: int,
    parts: int,
    sources: Any,
    exponent: int,
    room: Any,
    cells: Any,
    state: Any,
    fired: Any,
    membrane: Any,
    positions: Any,
    counts: Any,
) -> None:
    """Every `parts`-th sample."""
    (threshold, bias, keep_u, keep_v, subtract), (u, v) = cells, state
    samples, steps, size = fired.shape
    inputs = 0
    for source in sources:
        inputs = max(inputs, source[0].shape[2])
    events, starts = np.empty(inputs + BYTES + UNIT, np.int32), np.empty(inputs + 1, np.int32)
    events[:] = 0  # units read beyond the last one
    bits = np.zeros(inputs // BYTES + 4, np.uint8)
    sums = np.empty(size + WIDE, room.dtype)
    for sample in range(part, samples, parts):
        for step in range(steps):
            sums[:] = 0
            for arriving, unit, segments, outputs, rows, patterns in sources:
                if patterns:
                    _pack(arriving[sample, step], bits)
                    _look_up(bits, segments, outputs, rows, sums)
                else:
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


@inline
def _pack(spikes: Any, bits: Any) -> None:
    """Eight spikes to a byte, the first in its lowest bit, from bit FRONT on."""
    whole = len(spikes) // PACKED * PACKED
    for first in range(0, whole, PACKED):
        _pack_block(spikes, first, bits, (FRONT + first) // BYTES)
    bits[(FRONT + whole) // BYTES :] = 0
    for i in range(whole, len(spikes)):
        bits[(FRONT + i) // BYTES] |= spikes[i] << (i % BYTES)


@inline
def _look_up(bits: Any, segments: Any, outputs: int, rows: Any, sums: Any) -> None:
    """As in `_add`."""
    width = rows.shape[1]
    for position in range(len(segments)):
        if width == HALF:
            _look_up_half(sums, position * outputs, bits, segments[position], rows, 0)
        else:
            for column in range(0, width, NARROW):
                _look_up_narrow(sums, position * outputs + column, bits, segments[position], rows, column)


def _decoded() -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """For each byte where its bits are, [256, 8], the rest being zero, and how many, [256]."""
    bits = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")
    order = np.argsort(1 - bits, axis=1, kind="stable").astype(np.uint8)
    return np.where(np.sort(1 - bits, axis=1) == 0, order, 0).astype(np.uint8), bits.sum(1, dtype=np.uint8)


POSITIONS, COUNTS = _decoded()


def _data(context: Any, builder: Any, signature: Any, arguments: Any, index: int) -> Any:
    """Pointer to the elements of an array argument."""
    return context.make_array(signature.args[index])(context, builder, arguments[index]).data


def _length(context: Any, builder: Any, signature: Any, arguments: Any, index: int, axis: int) -> Any:
    """Of an array argument."""
    described = context.make_array(signature.args[index])(context, builder, arguments[index])
    return builder.extract_value(described.shape, axis)


@contextmanager
def _sum(
    context: Any, builder: Any, signature: Any, arguments: Any, lanes: int, *, rows: int
) -> Iterator[Callable[[Any], None]]:
    """sums[at : at + lanes], arguments 0 and 1, in registers; gives what adds a row to them.

    Rows are argument `rows`, int16, of which the columns from the next argument on are added. That the sums stay in
    registers is what Numba has no words for.
    """
    wide = signature.args[0].dtype.bitwidth
    vector, short = (ir.VectorType(ir.IntType(bits), lanes) for bits in (wide, 16))
    total, table = (_data(context, builder, signature, arguments, i) for i in (0, rows))
    width = _length(context, builder, signature, arguments, rows, 1)
    place = builder.bitcast(builder.gep(total, [arguments[1]]), vector.as_pointer())
    before = builder.load(place)
    before.align = wide // 8
    held = cgutils.alloca_once_value(builder, before)  # type: ignore[no-untyped-call]

    def add_row(which: Any) -> None:
        source = builder.gep(table, [builder.add(builder.mul(which, width), arguments[rows + 1])])
        values = builder.load(builder.bitcast(source, short.as_pointer()))
        values.align = 2
        if wide > 16:
            values = builder.sext(values, vector)
        builder.store(builder.add(builder.load(held), values), held)

    yield add_row
    builder.store(builder.load(held), place).align = wide // 8


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


def _pack_bits(typing: Any, spikes: Any, at: Any, bits: Any, to: Any) -> Any:
    """Bytes 8 to of `bits` on = whether spikes[at : at + 64] are not zero."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        source, target = (_data(context, builder, signature, arguments, i) for i in (0, 2))
        block = ir.VectorType(ir.IntType(8), PACKED)
        values = builder.load(builder.bitcast(builder.gep(source, [arguments[1]]), block.as_pointer()))
        values.align = 1
        packed = builder.bitcast(builder.icmp_unsigned("!=", values, ir.Constant(block, None)), ir.IntType(PACKED))
        place = builder.bitcast(builder.gep(target, [arguments[3]]), packed.type.as_pointer())
        builder.store(packed, place).align = 1
        return context.get_dummy_value()

    return types.void(spikes, types.int64, bits, types.int64), generate


_pack_block: Any = intrinsic(_pack_bits)


def _found(lanes: int) -> Any:
    """sums[at : at + lanes] += columns `column` to `column` + lanes of the rows of all segments' patterns."""

    def add(typing: Any, sums: Any, at: Any, bits: Any, segments: Any, rows: Any, column: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            bit, segment = (_data(context, builder, signature, arguments, i) for i in (2, 3))
            long, word = ir.IntType(64), ir.IntType(32)
            count = _length(context, builder, signature, arguments, 3, 0)
            summed = _sum(context, builder, signature, arguments, lanes, rows=4)
            with summed as add_row, cgutils.for_range(builder, count) as each:
                first = builder.mul(each.index, ir.Constant(long, 3))
                offset, mask, base = (
                    builder.load(builder.gep(segment, [builder.add(first, ir.Constant(long, i))])) for i in range(3)
                )
                byte = builder.gep(bit, [builder.zext(builder.lshr(offset, ir.Constant(word, 3)), long)])
                two = builder.load(builder.bitcast(byte, ir.IntType(16).as_pointer()))
                two.align = 1
                pattern = builder.lshr(builder.zext(two, word), builder.and_(offset, ir.Constant(word, 7)))
                add_row(builder.zext(builder.add(base, builder.and_(pattern, mask)), long))
            return context.get_dummy_value()

        return types.void(sums, types.int64, bits, segments, rows, types.int64), generate

    return intrinsic(add)


_look_up_half, _look_up_narrow = _found(HALF), _found(NARROW)


def _added(lanes: int, unit: int) -> Any:
    """sums[at : at + lanes] += columns `column` to `column` + lanes of all rows of all segments, `unit` at once."""

    def add(typing: Any, sums: Any, at: Any, starts: Any, segments: Any, events: Any, rows: Any, column: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            start, segment, event = (_data(context, builder, signature, arguments, i) for i in (2, 3, 4))
            long = ir.IntType(64)

            def number(value: int) -> Any:
                return ir.Constant(long, value)

            def at_index(array: Any, index: Any) -> Any:
                return builder.sext(builder.load(builder.gep(array, [index])), long)

            count = _length(context, builder, signature, arguments, 3, 0)
            summed = _sum(context, builder, signature, arguments, lanes, rows=5)
            with summed as add_row, cgutils.for_range(builder, count) as each:
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
                        add_row(which)
            return context.get_dummy_value()

        return types.void(sums, types.int64, starts, segments, events, rows, types.int64), generate

    return intrinsic(add)


_add_narrow, _add_wide = _added(NARROW, UNIT), _added(WIDE, 1)
