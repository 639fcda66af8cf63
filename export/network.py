"""The integer network: what the chip runs, and all that engines, planner and writers may know of a model.

A network is a synchronous dataflow graph of populations and connections; every connection costs one step, and a
delay of d costs d more. A sample is a window of `steps` steps, and samples follow each other every `period` steps.
Population p sees sample n in machine steps [start_p + n * period, start_p + n * period + steps); machine steps count
from 0. Within windows a source spike at window step i reaches its target at window step
i + start_source + 1 + delay - start_target.

Outside its window a population must be silent. Where `period > steps` every LIF population that sends spikes has a
`Gate`: an inhibitory input that holds it below threshold then. State is reset to zero at the start of each window.

This module needs numpy alone: no torch, no Lava.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from export import limits
from train.errors import UserError
from train.quantise.coding import InputCoding

Ints: TypeAlias = npt.NDArray[np.int64]
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,119}")


@dataclass(frozen=True)
class Gate:
    """The inhibitory input of a population outside its window: every neuron receives -(weight << exponent)."""

    weight: int
    exponent: int

    @property
    def current(self) -> int:
        """Strength in units of a_in."""
        return self.weight << self.exponent


@dataclass(frozen=True)
class Source(InputCoding):
    """The input population. It sends raw values 0 <= x < 2^payload_bits as graded spikes, in the coding that it is."""


@dataclass(frozen=True, eq=False)
class LIF:
    """Loihi's leaky integrate-and-fire program in integers; rz(x, k) = sign(x) * (|x| >> k).

    u <- rz(u * (4096 - (du + 1)), 12) + (a_in << 6), wrapped once to 24 bits
    v <- clip(rz(v * (4096 - dv), 12) + u + (bias_mant << bias_exp), -(2^23 - 1), 2^23 - 1)
    spike when v > (vth << 6); then v <- 0 and u is kept

    Source: lava-nc 0.10.0, `PyLifResetModelBitAcc`. Arrays broadcast to the population's shape.
    """

    du: int
    dv: int
    vth: Ints
    bias_mant: Ints
    bias_exp: int
    gate: Gate | None = None

    @property
    def threshold(self) -> Ints:
        """The threshold in units of v: vth << 6."""
        return np.asarray(self.vth << limits.STATE_SHIFT)

    @property
    def bias(self) -> Ints:
        """The bias current in units of v."""
        return np.asarray(self.bias_mant << self.bias_exp)


@dataclass(frozen=True, eq=False)
class Population:
    """Neurons that share a program, a shape and a window.

    Attributes:
        id: unique, stable through every pass, and safe as an HDF5 name.
        origin: the module path (or NIR node) that it comes from, "" for none.
        shape: (C, H, W) or (N,).
        start: the machine step at which its first window begins.
        program: what its neurons do.
        readout: its output is the membrane potential in its window, not spikes; it never fires.
    """

    id: str
    origin: str
    shape: tuple[int, ...]
    start: int
    program: Source | LIF
    readout: bool = False

    @property
    def size(self) -> int:
        """Number of neurons."""
        return int(np.prod(self.shape))


@dataclass(frozen=True, eq=False)
class Dense:
    """All to all: weight (outputs, inputs), inputs and outputs flattened in C order."""

    weight: Ints


@dataclass(frozen=True, eq=False)
class Convolution:
    """2-D cross-correlation, as in PyTorch: weight (O, I / groups, kH, kW), pairs are (height, width)."""

    weight: Ints
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1

    def output_shape(self, source: tuple[int, ...]) -> tuple[int, int, int]:
        """(O, H', W') for a source of shape (C, H, W)."""
        sides = [
            (source[axis + 1] + 2 * self.padding[axis] - self.dilation[axis] * (self.weight.shape[axis + 2] - 1) - 1)
            // self.stride[axis]
            + 1
            for axis in (0, 1)
        ]
        return self.weight.shape[0], sides[0], sides[1]


Synapses: TypeAlias = Dense | Convolution


@dataclass(frozen=True, eq=False)
class Connection:
    """Synapses from one population to another: a_in of the target gets (weight * spikes) << weight_exp.

    Attributes:
        delay: extra steps for each channel (first axis) of the source, int64 (C,).
    """

    id: str
    origin: str
    source: str
    target: str
    synapses: Synapses
    weight_exp: int
    delay: Ints


@dataclass(frozen=True)
class LayerRecord:
    """How a population's scale was decided and what the quantisation of its inputs cost; kept for the report.

    Attributes:
        population: its id.
        scale: units of v (a current unit is 64 of them) per unit of the float membrane potential: smallest and largest
            over its channels.
        weight_error: RMS of (quantised - float) weights over RMS of the float weights.
        saturated: weights that the search clipped to the ends of the range.
        spike_agreement: fraction of calibration spikes and silences equal to the float model's, window by window.
        current_bound: proved bounds of a_in over all neurons and inputs, gate included.
        current_limit: |a_in| below this cannot wrap.
    """

    population: str
    scale: tuple[float, float]
    weight_error: float
    saturated: int
    spike_agreement: float
    current_bound: tuple[int, int]
    current_limit: int = limits.CURRENT_LIMIT

    @property
    def bits_in_use(self) -> int:
        """Bits of the 24-bit current that the proved bound occupies, sign included."""
        peak = max(abs(self.current_bound[0]), abs(self.current_bound[1])) << limits.STATE_SHIFT
        return peak.bit_length() + 1


@dataclass(frozen=True, eq=False)
class Network:
    """Populations, in an order in which sources come before targets, and the connections between them.

    Validated on construction against `export.limits`.

    Raises:
        UserError: a name, shape, range, delay or window is not possible; the message names the place.
    """

    name: str
    populations: tuple[Population, ...]
    connections: tuple[Connection, ...]
    steps: int
    period: int
    records: tuple[LayerRecord, ...] = field(default=())

    def __post_init__(self) -> None:
        _validate(self)

    @property
    def digest(self) -> str:
        """SHA-256 of everything that decides a spike: two networks with the same digest do the same."""
        content = hashlib.sha256(repr((self.steps, self.period)).encode())
        for population in self.populations:
            content.update(repr((population.id, population.shape, population.start, population.readout)).encode())
            _hash(content, vars(population.program))
        for connection in self.connections:
            content.update(repr((connection.id, connection.source, connection.target, connection.weight_exp)).encode())
            _hash(content, {**vars(connection.synapses), "delay": connection.delay})
        return content.hexdigest()

    def population(self, population_id: str) -> Population:
        """The population with this id (KeyError if there is none)."""
        for population in self.populations:
            if population.id == population_id:
                return population
        raise KeyError(population_id)

    def inputs_of(self, population_id: str) -> tuple[Connection, ...]:
        """The connections that end in a population."""
        return tuple(c for c in self.connections if c.target == population_id)

    @property
    def source(self) -> Population:
        """The input population."""
        return next(p for p in self.populations if isinstance(p.program, Source))

    @property
    def readout(self) -> Population | None:
        """The population whose membrane potential is the network's answer."""
        return next((p for p in self.populations if p.readout), None)

    @property
    def latency(self) -> int:
        """Machine steps from the first input of a sample to the last step of its read-out."""
        return max(p.start for p in self.populations) - self.source.start + self.steps

    def machine_steps(self, samples: int) -> int:
        """Machine steps that `samples` back-to-back samples take, until the last population has seen them."""
        return max(p.start for p in self.populations) + (samples - 1) * self.period + self.steps


def _hash(content: hashlib._Hash, values: dict[str, object]) -> None:
    for name, value in sorted(values.items()):
        if isinstance(value, np.ndarray):
            content.update(f"{name}{value.shape}".encode() + np.ascontiguousarray(value, np.int64).tobytes())
        else:
            content.update(repr((name, value)).encode())


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


def _validate(network: Network) -> None:
    where = f"network {network.name}"
    _check(1 <= network.steps <= network.period, f"steps {network.steps}, period {network.period}", where)
    ids = [p.id for p in network.populations] + [c.id for c in network.connections]
    _check(len(set(ids)) == len(ids), "two parts have the same id", where)
    for name in ids:
        _check(_NAME.fullmatch(name) is not None, f"id {name!r} is not made of letters, digits, '_', '.', '-'", where)
    sources = sum(isinstance(p.program, Source) for p in network.populations)
    _check(sources == 1, f"{sources} input populations, expected 1", where)
    _check(sum(p.readout for p in network.populations) <= 1, "more than one read-out population", where)
    for population in network.populations:
        _validate_population(population, network)
    for connection in network.connections:
        _validate_connection(connection, network)
    known = set(ids)
    for record in network.records:
        _check(record.population in known, f"a record names {record.population!r}, which does not exist", where)


def _validate_population(population: Population, network: Network) -> None:
    where = f"population {population.id}"
    _check(len(population.shape) in (1, 3), f"shape {population.shape} is neither (N,) nor (C, H, W)", where)
    _check(all(side >= 1 for side in population.shape), f"shape {population.shape} has an empty side", where)
    _check(0 <= population.start < 1 << 20, f"start {population.start}", where)
    program = population.program
    if isinstance(program, Source):
        _validate_source(program, population.shape, where)
        _check(not population.readout, "an input population cannot be the read-out", where)
        return
    _in(program.du, limits.DU_RANGE, "du", where)
    _in(program.dv, limits.DV_RANGE, "dv", where)
    _in(program.bias_exp, limits.BIAS_EXP_RANGE, "bias_exp", where)
    _all_in(program.vth, (0, limits.VTH_LIMIT - 1), "vth", where)
    _all_in(program.bias_mant, limits.BIAS_MANT_RANGE, "bias_mant", where)
    _broadcasts(program.vth, population.shape, "vth", where)
    _broadcasts(program.bias_mant, population.shape, "bias_mant", where)
    if program.gate is not None:
        _in(program.gate.weight, (2, -limits.WEIGHT_RANGE[0]), "gate weight", where)
        _check(program.gate.weight % 2 == 0, f"gate weight {program.gate.weight} is odd", where)
        _in(program.gate.exponent, limits.WEIGHT_EXP_RANGE, "gate exponent", where)
    if network.period > network.steps and not population.readout:
        _check(program.gate is not None, "sends spikes in a network with guard steps but has no gate", where)
        _check(population.start >= 1, "a gated population cannot start at step 0: its gate arrives at step 1", where)


def _validate_source(program: Source, shape: tuple[int, ...], where: str) -> None:
    _in(program.payload_bits, (1, limits.PAYLOAD_BITS_LIMIT), "payload_bits", where)
    _in(program.low_bits, (0, program.payload_bits - 1), "low_bits", where)
    _check(shape[0] % program.slices == 0, f"{shape[0]} channels in {program.slices} slices", where)
    channels = shape[0] // program.slices
    _check(len(program.offset) in (0, channels), f"{len(program.offset)} offsets for {channels} channels", where)
    for value in program.offset:
        _in(value, (0, (1 << program.payload_bits) - 1), "offset", where)


def _validate_connection(connection: Connection, network: Network) -> None:
    where = f"connection {connection.id}"
    by_id = {p.id: p for p in network.populations}
    for end in (connection.source, connection.target):
        _check(end in by_id, f"population {end!r} does not exist", where)
    source, target = by_id[connection.source], by_id[connection.target]
    _check(not isinstance(target.program, Source), f"ends in the input population {target.id}", where)
    _check(not source.readout, f"starts at the read-out {source.id}, which sends no spikes", where)
    _in(connection.weight_exp, limits.WEIGHT_EXP_RANGE, "weight_exp", where)
    weight = connection.synapses.weight
    _all_in(weight, limits.WEIGHT_RANGE, "weight", where)
    odd = int(np.count_nonzero(weight & 1))
    _check(odd == 0, f"{odd} odd weights: the chip drops the lowest bit of a signed 8-bit weight", where)
    _check(bool(np.any(weight)), "every weight is zero", where)
    _all_in(connection.delay, (0, limits.DELAY_LIMIT), "delay", where)
    channels = source.shape[:1]
    _check(connection.delay.shape == channels, f"delay of shape {connection.delay.shape}, expected {channels}", where)
    if isinstance(connection.synapses, Dense):
        expected = (target.size, source.size)
        _check(weight.shape == expected, f"weight of shape {weight.shape}, expected {expected}", where)
    else:
        _validate_convolution(connection.synapses, source, target, where)
    guard = network.period - network.steps
    reach = np.abs(target.start - source.start - 1 - connection.delay).max(initial=0)
    _check(
        int(reach) <= guard,
        f"reaches {int(reach)} steps beyond its window into the neighbouring sample, guard steps {guard}",
        where,
        "retime the network, or leave more guard steps between samples",
    )


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
    shape = synapses.output_shape(source.shape)
    _check(shape == target.shape, f"gives {shape}, its target has {target.shape}", where)
