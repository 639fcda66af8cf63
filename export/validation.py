"""What a network must satisfy to run on the chip: names, shapes, ranges and windows, checked when one is made."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np

from export import limits
from export.connections import Connection, Convolution, Dense
from export.gains import MAX_STEPS
from export.population import Population
from export.programs import LIF, RESETS, Attention, Driven, Gate, Ints, Source
from train.errors import UserError

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,119}")


def _check(condition: bool, what: str, where: str, hint: str = "") -> None:
    if not condition:
        raise UserError(what, where=where, hint=hint)


def _in(value: int, bounds: tuple[int, int], what: str, where: str) -> None:
    _check(bounds[0] <= value <= bounds[1], f"{what} is {value}, allowed {bounds[0]}..{bounds[1]}", where)


def _all_in(values: Ints, bounds: tuple[int, int], what: str, where: str) -> None:
    _check(values.dtype == np.int64, f"{what} has dtype {values.dtype}, expected int64", where)
    if values.size:
        _in(int(values.min()), bounds, f"smallest {what}", where)
        _in(int(values.max()), bounds, f"largest {what}", where)


def _broadcasts(values: Ints, shape: tuple[int, ...], what: str, where: str) -> None:
    try:
        fits = np.broadcast_shapes(values.shape, shape) == shape
    except ValueError:
        fits = False
    _check(fits, f"{what} of shape {values.shape} does not broadcast to {shape}", where)


def validate(
    name: str, populations: Sequence[Population], connections: Sequence[Connection], steps: int, period: int
) -> None:
    """Check the parts of a network against `export.limits` and each other.

    Raises:
        UserError: the first thing that does not hold; the message names the place.
    """
    where = f"network {name}"
    _check(1 <= steps <= period, f"steps {steps}, period {period}", where)
    ids = [p.id for p in populations] + [c.id for c in connections]
    _check(len(set(ids)) == len(ids), "two parts have the same id", where)
    for each in ids:
        _check(_NAME.fullmatch(each) is not None, f"id {each!r} is not made of letters, digits, '_', '.', '-'", where)
    sources = sum(isinstance(p.program, Source) for p in populations)
    _check(sources == 1, f"{sources} input populations, expected 1", where)
    _check(sum(p.readout for p in populations) <= 1, "more than one read-out population", where)
    for population in populations:
        _validate_population(population, steps, period - steps)
    by_id = {p.id: p for p in populations}
    for connection in connections:
        for end in (connection.source, connection.target):
            _check(end in by_id, f"population {end!r} does not exist", f"connection {connection.id}")
    _check_attention_is_in_no_loop(populations, connections)
    for connection in connections:
        _validate_connection(connection, by_id, steps, period - steps)


def _validate_population(population: Population, steps: int, guard: int) -> None:
    where = f"population {population.id}"
    _check(len(population.shape) in (1, 3), f"shape {population.shape} is neither (N,) nor (C, H, W)", where)
    _check(all(side >= 1 for side in population.shape), f"shape {population.shape} has an empty side", where)
    _check(0 <= population.start < 1 << 20, f"start {population.start}", where)
    program = population.program
    if isinstance(program, LIF):
        _validate_lif(population, program, guard)
        return
    _check(not population.readout, "only LIF neurons can be the read-out", where)
    if isinstance(program, Attention):
        _check(steps <= MAX_STEPS, f"attention over {steps} steps, limit {MAX_STEPS}", where)
        program.check(population.shape, steps, where)
    elif isinstance(program, Source):
        _validate_source(program, population.shape, where)
    else:
        clock = population.shape[0]
        _check(clock == steps, f"a clock of {clock} steps in a network with windows of {steps}", where)


def _check_attention_is_in_no_loop(populations: Sequence[Population], connections: Sequence[Connection]) -> None:
    places = {p.id: index for index, p in enumerate(populations)}
    for c in connections:
        for population in populations[places[c.target] : places[c.source] + 1]:  # none where it leads ahead
            _check(
                not isinstance(population.program, Attention),
                f"attention in a loop, which connection {c.id} closes",
                f"population {population.id}",
            )


def _validate_source(program: Source, shape: tuple[int, ...], where: str) -> None:
    _in(program.payload_bits, (1, limits.PAYLOAD_BITS_LIMIT), "payload_bits", where)
    _in(program.low_bits, (0, program.payload_bits - 1), "low_bits", where)
    _check(shape[0] % program.slices == 0, f"{shape[0]} channels in {program.slices} slices", where)
    channels = shape[0] // program.slices
    _check(len(program.offset) in (0, channels), f"{len(program.offset)} offsets for {channels} channels", where)
    for value in program.offset:
        _in(value, (0, (1 << program.payload_bits) - 1), "offset", where)


def _validate_lif(population: Population, program: LIF, guard: int) -> None:
    where = f"population {population.id}"
    ranges = {
        "du": limits.DU_RANGE,
        "dv": limits.DV_RANGE,
        "vth": (0, limits.VTH_LIMIT - 1),
        "bias_mant": limits.BIAS_MANT_RANGE,
    }
    for name, bounds in ranges.items():
        values = getattr(program, name)
        _all_in(values, bounds, name, where)
        _broadcasts(values, population.shape, name, where)
    _in(program.bias_exp, limits.BIAS_EXP_RANGE, "bias_exp", where)
    _check(program.reset in RESETS, f"reset {program.reset!r}, known are {', '.join(RESETS)}", where)
    if program.gate is not None:
        _validate_gate(program.gate, where)
    if guard and not population.readout:
        _check(program.gate is not None, "sends spikes in a network with guard steps but has no gate", where)
        _check(population.start >= 1, "a gated population cannot start at step 0: its gate arrives at step 1", where)


def _validate_gate(gate: Gate, where: str) -> None:
    _in(gate.weight, (2, -limits.WEIGHT_RANGE[0]), "gate weight", where)
    _check(gate.weight % 2 == 0, f"gate weight {gate.weight} is odd", where)
    _in(gate.exponent, limits.WEIGHT_EXP_RANGE, "gate exponent", where)


def _validate_connection(connection: Connection, by_id: Mapping[str, Population], steps: int, guard: int) -> None:
    where = f"connection {connection.id}"
    source, target = by_id[connection.source], by_id[connection.target]
    _check(isinstance(target.program, Driven), f"ends in the input population {target.id}", where)
    _check(not source.readout, f"starts at the read-out {source.id}, which sends no spikes", where)
    _in(connection.weight_exp, limits.WEIGHT_EXP_RANGE, "weight_exp", where)
    weight = connection.synapses.weight
    _validate_weights(weight, where)
    _all_in(connection.delay, (0, limits.DELAY_LIMIT), "delay", where)
    channels = source.shape[:1]
    _check(connection.delay.shape == channels, f"delay of shape {connection.delay.shape}, expected {channels}", where)
    if isinstance(connection.synapses, Dense):
        expected = (target.size, source.size)
        _check(weight.shape == expected, f"weight of shape {weight.shape}, expected {expected}", where)
    else:
        _validate_convolution(connection.synapses, source, target, where)
    reach = np.abs(target.start - source.sends(steps) - 1 - connection.delay).max(initial=0)
    _check(
        int(reach) <= guard,
        f"reaches {int(reach)} steps beyond its window into the neighbouring sample, guard steps {guard}",
        where,
        "retime the network, or leave more guard steps between samples",
    )


def _validate_weights(weight: Ints, where: str) -> None:
    """Weights of both signs have 8 bits and are even; those of one sign may use the sign's bit: -255..255, odd too."""
    _check(bool(np.any(weight)), "every weight is zero", where)
    odd = int(np.count_nonzero(weight & 1))
    if odd and (weight.min() >= 0 or weight.max() <= 0):
        _all_in(weight, limits.ONE_SIGN_RANGE, "weight", where)
        return
    _all_in(weight, limits.WEIGHT_RANGE, "weight", where)
    _check(odd == 0, f"{odd} odd weights: the chip drops the lowest bit of a signed 8-bit weight", where)


def _validate_convolution(synapses: Convolution, source: Population, target: Population, where: str) -> None:
    weight, groups = synapses.weight, synapses.groups
    _check(weight.ndim == 4, f"weight of shape {weight.shape}, expected (O, I, kH, kW)", where)
    _check(len(source.shape) == 3, f"source of shape {source.shape}, expected (C, H, W)", where)
    _check(groups >= 1 and weight.shape[0] % groups == 0, f"{weight.shape[0]} outputs in {groups} groups", where)
    _check(weight.shape[1] * groups == source.shape[0], f"{weight.shape[1]} x {groups} inputs, {source.shape}", where)
    for axis in (0, 1):
        _in(synapses.stride[axis], (1, 64), "stride", where)
        _in(synapses.padding[axis], (0, 64), "padding", where)
        _in(synapses.dilation[axis], (1, 64), "dilation", where)
        for side in synapses.crop[axis]:
            _in(side, (0, source.shape[axis + 1]), "crop", where)
    shape = synapses.output_shape(source.shape)
    _check(shape == target.shape, f"gives {shape}, its target has {target.shape}", where)
