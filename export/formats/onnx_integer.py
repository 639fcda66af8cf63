"""The integer network as ONNX (opset 17): what any runtime can run, with the same spikes.

Input: raw values, int64 [samples, T, *shape], named after the input population; the file codes them. Outputs, named
after the populations: spikes, bool [samples, T, *shape]; the read-out's membrane potential in its window, int64.

Time is window time: step i of a population's window sees step i + start_target - start_source - 1 - delay of its
source's window, and nothing from outside it. Gates, guard steps and starts leave no trace beyond that, as they must not
(see `export.network`): a stream of back-to-back samples on the chip does what this file does sample by sample.

Each connection is one float32 Conv or MatMul over all steps, exact because no partial sum can reach 2^24: payloads that
would allow it are taken apart into groups of bits, and the sums are put together in int64. (That needs a provider that
adds the products as they are, as the CPU one does: not TF32, not Winograd.) Neurons are unrolled over T in int64, where
the Div of ONNX rounds toward zero as the decays do.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto

from export import limits
from export.formats.onnx_tape import EXACT, Array, Tape, aligned, cropped, model, write_model
from export.network import LIF, Attention, Clock, Connection, Convolution, Ints, Network, Population, Source, Synapses
from export.proof import payload
from train.errors import UserError

NO_ATTENTION = "export with --attention fold, or use the engines integer, torch, lava and reference"


def write_onnx(path: Path, network: Network) -> None:
    """Write a network; atomic.

    Raises:
        UserError: a recurrent connection, or more nodes or bytes than a runtime can load.
    """
    write_model(path, to_onnx(network))


def to_onnx(network: Network) -> Any:
    """The ModelProto of a network, checked by `onnx.checker`."""
    tape = Tape(f"network {network.name}")
    sent: dict[str, str] = {}  # population -> float32 [T, B, *shape], its payloads
    outputs: dict[str, tuple[int, tuple[int, ...]]] = {}
    for population in network.populations:
        program, axes = population.program, 2 + len(population.shape)
        if isinstance(program, Source):
            coded = tape.cast(_coded(tape, population, program, network.steps), TensorProto.FLOAT)
            sent[population.id] = tape.swap(coded, axes)
            continue
        if isinstance(program, Clock):
            ticks = np.eye(network.steps, dtype=np.float32).reshape(network.steps, 1, -1, *[1] * (axes - 3))
            sent[population.id] = tape.for_all(ticks, sent[network.source.id], network.steps, population.shape)
            continue
        if isinstance(program, Attention):
            raise UserError("attention has no ONNX form here", where=f"population {population.id}", hint=NO_ATTENTION)
        late = next((c for c in network.inputs_of(population.id) if c.source not in sent), None)
        if late is not None:
            raise UserError(
                f"its source {late.source} comes later: a recurrent network cannot be unrolled layer by layer",
                where=f"connection {late.id}",
            )
        spikes, membrane = _integrate(tape, program, _current(tape, network, population, sent), population, network)
        sent[population.id] = tape.cast(spikes, TensorProto.FLOAT)
        tape.name(tape.swap(membrane if population.readout else spikes, axes), population.id)
        kind = TensorProto.INT64 if population.readout else TensorProto.BOOL
        outputs[population.id] = (kind, (network.steps, *population.shape))
    source = network.source
    return model(
        tape,
        network.name,
        (source.id, TensorProto.INT64, (network.steps, *_raw_shape(source))),
        outputs,
        "A spiking network in Loihi 2's integers, unrolled over its window. Spikes of every population (bool) and the "
        "membrane potential of the read-out (int64), [samples, T, ...].",
        {"network": network.digest, "steps": network.steps, "readout": network.readout.id if network.readout else ""},
    )


def _raw_shape(source: Population) -> tuple[int, ...]:
    assert isinstance(source.program, Source)
    return source.program.raw_shape(source.shape)


def _coded(tape: Tape, population: Population, program: Source, steps: int) -> str:
    """Raw values to what the input sends, int64 [B, T, *shape]; see `InputCoding.encode`."""
    x = population.id
    ones = [1] * (len(population.shape) - 1)
    if program.offset:
        x = tape("Sub", x, tape.constant(np.asarray(program.offset, dtype=np.int64).reshape(-1, *ones)))
    if not program.low_bits:
        return x
    base, axis = tape.number(1 << program.low_bits, np.int64), tape.whole(3)
    low = tape("Mod", x, base)  # of the divisor's sign, so never negative
    high = tape("Div", tape("Sub", x, low), base)
    both = tape("Concat", tape("Unsqueeze", high, axis), tape("Unsqueeze", low, axis), axis=3)
    return tape.shaped(both, -1, steps, *population.shape)


def _current(tape: Tape, network: Network, population: Population, sent: dict[str, str]) -> str:
    """a_in of every window step, int64 [T, B, *shape]."""
    parts = []
    for connection in network.inputs_of(population.id):
        source = network.population(connection.source)
        ahead = population.start - source.start - 1 - connection.delay
        x = aligned(tape, sent[source.id], ahead, source.shape, network.steps)
        parts += _delivered(tape, connection, source, population, x, network.steps)
    if not parts:
        return tape.for_all(np.zeros((), np.int64), sent[network.source.id], network.steps, population.shape)
    total = parts[0]
    for part in parts[1:]:
        total = tape("Add", total, part)
    return total


def _delivered(
    tape: Tape, connection: Connection, source: Population, target: Population, x: str, steps: int
) -> list[str]:
    """Terms of a_in from one connection: one for each group of payload bits."""
    synapses, largest = connection.synapses, payload(source.program, source.shape[0]).peak
    weight = tape.cast(tape.constant(_stored(synapses)), TensorProto.FLOAT)
    bits = _bits_at_once(connection)
    if isinstance(synapses, Convolution):
        x = cropped(tape, x, synapses.crop, source.shape)
    terms = []
    for first in range(0, largest.bit_length(), bits):
        part = x if largest < 1 << bits else _bit_group(tape, x, first, bits)
        if isinstance(synapses, Convolution):
            pads = [*synapses.padding, *synapses.padding]
            geometry = {"strides": synapses.stride, "pads": pads, "dilations": synapses.dilation}
            out = tape("Conv", tape.shaped(part, -1, *source.shape), weight, group=synapses.groups, **geometry)
        else:
            out = tape("MatMul", tape.shaped(part, -1, source.size), weight)
        term = tape.cast(tape.shaped(out, steps, -1, *target.shape), TensorProto.INT64)
        terms.append(_times(tape, term, 1 << (connection.weight_exp + first)))
    return terms


def _stored(synapses: Synapses) -> Array:
    """Weights as they stand in the file: a MatMul takes them (inputs, outputs)."""
    weight = synapses.weight if isinstance(synapses, Convolution) else synapses.weight.T
    return weight.astype(np.int16)


def _bits_at_once(connection: Connection) -> int:
    """How many bits a payload may have so that no partial sum of this connection reaches 2^24."""
    weight = np.abs(connection.synapses.weight)
    row = int(weight.reshape(len(weight), -1).sum(1).max())
    bits = ((EXACT - 1) // row + 1).bit_length() - 1  # the largest with (2^bits - 1) row < 2^24
    if bits < 1:
        raise UserError(
            f"a neuron's weights add up to {row}, more than the {EXACT} that float32 counts to",
            where=f"connection {connection.id}",
        )
    return bits


def _bit_group(tape: Tape, x: str, first: int, bits: int) -> str:
    """Bits first .. first + bits - 1 of the sizes of float32 payloads, with their signs, as float32."""
    whole = tape.cast(x, TensorProto.INT64)
    whole = tape("Div", whole, tape.number(1 << first, np.int64))
    return tape.cast(tape("Mod", whole, tape.number(1 << bits, np.int64), fmod=1), TensorProto.FLOAT)


def _times(tape: Tape, value: str, factor: int) -> str:
    return value if factor == 1 else tape("Mul", value, tape.number(factor, np.int64))


def _integrate(tape: Tape, program: LIF, current: str, population: Population, network: Network) -> tuple[str, str]:
    """Spikes (bool) and membrane potential before its reset (int64), [T, B, *shape]."""
    limit, steps = limits.STATE_LIMIT, network.steps
    bias, threshold = tape.constant(program.bias), tape.constant(program.threshold)
    low, high, zero = (tape.number(value, np.int64) for value in (1 - limit, limit - 1, 0))
    driven = _synaptic(tape, program, _times(tape, current, 1 << limits.STATE_SHIFT), steps)
    drives = tape.split(tape("Add", driven, bias), steps)
    spikes, membrane, left = [], [], ""
    for drive in drives:
        v = drive if not left else tape("Add", _decayed(tape, left, limits.DECAY_UNITY - program.dv), drive)
        v = _clipped(tape, v, low, high)
        fired = tape("Greater", v, threshold)
        after = zero if program.reset == "zero" else tape("Sub", v, threshold)
        left = tape("Where", fired, after, v)
        spikes.append(fired)
        membrane.append(v)
    return tape("Concat", *spikes, axis=0), tape("Concat", *membrane, axis=0)


def _synaptic(tape: Tape, program: LIF, arriving: str, steps: int) -> str:
    """The synaptic current u of every step from what arrives (a_in << 6)."""
    keep = limits.DECAY_UNITY - 1 - program.du
    if not keep.any():
        return _wrapped(tape, arriving)  # no memory: every step at once
    u = ""
    states = []
    for part in tape.split(arriving, steps):
        u = _wrapped(tape, tape("Add", _decayed(tape, u, keep), part) if u else part)
        states.append(u)
    return tape("Concat", *states, axis=0)


def _decayed(tape: Tape, state: str, keep: Ints) -> str:
    """state * keep / 4096 rounded toward zero."""
    if (keep == limits.DECAY_UNITY).all():
        return state
    product = tape("Mul", state, tape.constant(keep))
    return tape("Div", product, tape.number(limits.DECAY_UNITY, np.int64))


def _clipped(tape: Tape, v: str, low: str, high: str) -> str:
    """Clip, in comparisons: onnxruntime's own Clip, Min and Max are wrong beyond 32 bits on x86 (its PR 25280)."""
    lower = tape("Where", tape("Less", v, low), low, v)
    return tape("Where", tape("Greater", v, high), high, lower)


def _wrapped(tape: Tape, u: str) -> str:
    """24 bits, wrapped once: above 2^23 by -2^24, at -2^23 and below by 2^24."""
    limit = limits.STATE_LIMIT
    over = tape("Greater", u, tape.number(limit, np.int64))
    under = tape("LessOrEqual", u, tape.number(-limit, np.int64))
    turn = tape.number(2 * limit, np.int64)
    raised = tape("Where", under, tape("Add", u, turn), u)
    return tape("Where", over, tape("Sub", u, turn), raised)
