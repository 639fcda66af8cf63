"""Random integer networks at the corners of what a network may hold, with inputs, and which corners each one met.

Two kinds. Tight ones have no guard steps: every spike meets its step exactly, so currents may wrap and potentials clip.
Gated ones have guard steps, synapses that look ahead and back, and loops; their gates must keep them silent outside
their windows, and the few whose gates fail to (the exporter would have refused them) are rejected.

Currents stay below 2^22 in units of a_in, and windows within 6 steps: so u stays within the int32 that Lava has it in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from conftest import ints
from hypothesis import assume
from hypothesis import strategies as st

from deploy.lava import layout
from export import limits
from export.network import LIF, NO_CROP, Clock, Connection, Convolution, Dense, Gate, Ints, Network, Population, Source
from export.programs import RESETS
from sim import reference

TIGHT_CURRENT, GATED_CURRENT, READOUT_CURRENT = 1 << 22, 1 << 13, 1 << 13  # |a_in| of a population, at most
GATE = Gate(256, 7)
DU, DV = (-1, 0, 1, 4094, 4095), (0, 1, 2048, 4094, 4095)
VTH = (0, 1, limits.VTH_LIMIT - 2, limits.VTH_LIMIT - 1)
MOST = 400  # neurons of a population


@dataclass(frozen=True, eq=False)
class Case:
    """A network, raw inputs int64 [samples, T, *shape], and what the reference machine did with them."""

    network: Network
    inputs: Ints
    stream: reference.Stream


@dataclass
class _Maker:
    draw: st.DrawFn
    tight: bool
    steps: int
    guard: int
    populations: list[Population] = field(default_factory=list)
    connections: list[Connection] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.draw(st.integers(0, 1 << 30)))

    def pick(self, *values: object) -> object:
        """One of the values, at random; repeated ones are likelier."""
        return values[int(self.rng.integers(0, len(values)))]

    def chance(self, probability: float) -> bool:
        return bool(self.rng.random() < probability)

    def weights(self, shape: tuple[int, ...], largest: int) -> Ints:
        """Even weights of both signs, or odd ones of one."""
        mode = self.pick("mixed", "mixed", "mixed", "excitatory", "inhibitory")
        if mode == "mixed":
            weight = ints(2 * self.rng.integers(-(largest // 2), largest // 2 + 1, shape)).clip(*limits.WEIGHT_RANGE)
        else:
            weight = ints(self.rng.integers(0, largest + 1, shape)).clip(0, limits.ONE_SIGN_RANGE[1])
        weight.flat[0] = 2
        return weight if mode != "inhibitory" else -weight

    def connect(self, source: Population, target: Population, budget: int, ahead: Sequence[int] | None = None) -> None:
        """Synapses whose current stays within `budget`; `ahead`: steps by which a spike may come early, at most."""
        synapses = self.synapses(source, target)
        bits = source.program.payload_bits if isinstance(source.program, Source) else 1
        weight = synapses.weight
        while (peak := _row_sum(weight) * min((1 << bits) - 1, 1 << 10)) > budget and np.abs(weight).max() > 2:
            odd = weight & 1
            weight = np.sign(weight) * (np.abs(weight) >> 1) if odd.any() else weight // 4 * 2
            weight.flat[0] = weight.flat[0] or 2 * (1 if weight.sum() >= 0 else -1)
        room = max(0, int(budget // max(peak, 1)).bit_length() - 1)
        exponent = int(self.pick(min(room, 9), int(self.rng.integers(0, min(room, 9) + 1))))
        synapses = _with_weight(synapses, weight)
        low, high = (-self.guard, self.guard) if ahead is None else ahead
        wanted = target.start - source.start - 1 - self.rng.integers(low, high + 1, source.shape[0])
        delay = ints(wanted.clip(0, limits.DELAY_LIMIT))
        name = f"c{len(self.connections)}"
        self.connections.append(Connection(name, "", source.id, target.id, synapses, exponent, delay))

    def synapses(self, source: Population, target: Population) -> Dense | Convolution:
        """Synapses between two populations that are there."""
        largest = int(self.pick(255, 60, 20))
        if len(target.shape) == 3 and source.shape[1:] == target.shape[1:] and self.chance(0.7):
            return Convolution(self.weights((target.shape[0], source.shape[0], 1, 1), largest))
        return Dense(self.weights((target.size, source.size), largest))

    def convolution(self, shape: tuple[int, ...]) -> Convolution:
        """A convolution of maps, of any geometry that leaves something."""
        channels, *sides = shape
        groups = int(self.pick(1, channels, 2 if channels % 2 == 0 else 1))
        for _ in range(20):
            stride, dilation = (tuple(int(x) for x in self.rng.integers(1, 4, 2)) for _ in range(2))
            padding = tuple(int(x) for x in self.rng.integers(0, 3, 2))
            kernel = tuple(int(x) for x in self.rng.integers(1, 4, 2))
            crop = NO_CROP
            if self.chance(0.4):
                rows, columns = (tuple(int(x) for x in self.rng.integers(0, side // 2 + 1, 2)) for side in sides)
                crop = (rows, columns)
            weight = self.weights((groups * int(self.pick(1, 2)), channels // groups, *kernel), 100)
            made = Convolution(weight, stride, padding, dilation, groups, crop)
            if min(made.output_shape(shape)) > 0 and int(np.prod(made.output_shape(shape))) <= MOST:
                return made
        return Convolution(self.weights((channels, 1, 1, 1), 100), groups=channels)

    def neurons(self, shape: tuple[int, ...], start: int, current: float) -> LIF:
        """A program: each parameter one for all, one a channel or one a neuron, corners among them."""
        rows = (shape[0], *[1] * (len(shape) - 1))

        def size() -> tuple[int, ...]:
            return ((), rows, shape)[int(self.rng.integers(0, 3))]

        def some(corners: Sequence[int], low: int, high: int) -> Ints:
            values = self.rng.integers(low, high + 1, size())
            corner = self.rng.choice(np.asarray(corners), values.shape)
            return ints(np.where(self.rng.random(values.shape) < self.pick(0.0, 0.5, 1.0), corner, values))

        fast = (
            not self.tight and max(start, self.guard) > 3
        )  # with a long memory it would add up its gate until it wraps
        reach = int(min(max(current, 4.0), limits.VTH_LIMIT - 1 if self.tight else GATED_CURRENT))
        around = ints(self.rng.integers(0, max(2, reach // 2), size()))
        vth = some(VTH, 0, reach) if self.chance(0.3) else around
        extreme = 40 if self.tight else 2  # of the bias, in the unit of the current, gates must stand it
        bias_exp = int(self.rng.integers(*limits.BIAS_EXP_RANGE, endpoint=True))
        most = min(limits.BIAS_MANT_RANGE[1], extreme * reach << limits.STATE_SHIFT >> bias_exp)
        mantissa = some((0, *limits.BIAS_MANT_RANGE) if self.tight else (0, most), -most // 4, most // 2)
        return LIF(
            du=some(DU[-1:], 3500, 4095) if fast else some(DU, *limits.DU_RANGE),
            dv=some(DV, *limits.DV_RANGE),
            vth=vth,
            bias_mant=mantissa,
            bias_exp=bias_exp,
            gate=None if self.tight else GATE,
            reset=RESETS[int(self.rng.integers(0, 2))],
        )

    def layer(self, index: int) -> None:
        """A population behind the last one, with what drives it."""
        source = self.populations[-1] if isinstance(self.populations[-1].program, LIF) else self.populations[0]
        latest = max(p.start for p in self.populations)
        wait = self.draw(st.sampled_from([0, 0, 0, 1, 3, 62]))
        start = min(latest + 1 + wait, source.start + 1 + limits.DELAY_LIMIT)
        kernel = None
        if len(source.shape) == 3 and self.draw(st.booleans()):
            kernel = self.convolution(source.shape)
            shape = kernel.output_shape(source.shape)
        elif self.chance(0.2):
            shape = tuple(int(side) for side in self.rng.integers(1, 4, 3))
        else:
            shape = (int(self.rng.integers(1, 12)),)
        budget = (TIGHT_CURRENT if self.tight else GATED_CURRENT) // 4
        program = LIF(4095, 0, 0, 0, 0)
        target = Population(f"layer{index}", "", tuple(shape), start, program)
        before = len(self.connections)
        made = self.synapses if kernel is None else lambda *ends: kernel
        self.synapses, kept = made, self.synapses  # type: ignore[method-assign]
        self.connect(source, target, budget)
        self.synapses = kept  # type: ignore[method-assign]
        others = [p for p in self.populations if p.id != source.id and p.start < start]
        if others and self.draw(st.booleans()):
            joined = others[int(self.rng.integers(0, len(others)))]
            if self.guard + limits.DELAY_LIMIT >= start - joined.start - 1:
                self.connect(joined, target, budget)
        if self.draw(st.sampled_from([False, False, True])):
            sides = target.shape[1:] if self.chance(0.5) else ()
            early = int(self.rng.integers(0, self.guard + 1))
            clock = Population(f"clock{index}", "", (self.steps, *sides), max(0, start - 1 - early), Clock())
            self.populations.append(clock)
            self.connect(clock, target, budget)
        current = self.typical(self.connections[before:])
        target = Population(target.id, "", target.shape, start, self.neurons(target.shape, start, current))
        self.populations.append(target)
        if self.guard and self.draw(st.sampled_from([True, True, False])):
            self.connect(target, target, budget, (-self.guard, -1))
            if others and isinstance(source.program, LIF) and start - source.start + 1 <= self.guard:
                self.connect(target, source, budget // 4, (-self.guard, source.start - start - 1))

    def typical(self, connections: Sequence[Connection]) -> float:
        """About how large the current of these is."""
        sent = {p.id: p for p in self.populations}
        total = 0.0
        for c in connections:
            program = sent[c.source].program
            size = (1 << min(program.payload_bits, 10)) / 2 if isinstance(program, Source) else 0.3
            fan_in = c.synapses.weight[0].size
            total += float(np.abs(c.synapses.weight).mean()) * np.sqrt(fan_in) * size * (1 << c.weight_exp)
        return total


def _row_sum(weight: Ints) -> int:
    return int(np.abs(weight).reshape(len(weight), -1).sum(1).max())


def _with_weight(synapses: Dense | Convolution, weight: Ints) -> Dense | Convolution:
    if isinstance(synapses, Dense):
        return Dense(weight)
    return Convolution(weight, synapses.stride, synapses.padding, synapses.dilation, synapses.groups, synapses.crop)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """A network, its inputs, and the reference's run of them."""
    tight = draw(st.booleans())
    guard = 0 if tight else draw(st.sampled_from([1, 2, 3, 6, 6, 63]))
    make = _Maker(draw, tight, draw(st.sampled_from([1, 2, 3, 4, 5, 6])), guard)
    bits = draw(st.sampled_from([1, 1, 4, 8, 13, 24]))
    shape = tuple(int(side) for side in make.rng.integers(2, 7, 3)) if draw(st.booleans()) else (5,)
    make.populations.append(Population("input", "", shape, 1, Source(bits)))
    for index in range(draw(st.integers(1, 3))):
        make.layer(index)
    if draw(st.sampled_from([True, True, True, False])):
        last = make.populations[-1]
        leaky = make.chance(0.3)
        program = LIF(
            du=int(make.rng.integers(3000, 4096)) if leaky else 4095,
            dv=int(make.rng.integers(0, 4096)) if leaky else 0,
            vth=limits.VTH_LIMIT - 1,
            bias_mant=int(make.rng.integers(-500, 500)),
            bias_exp=int(make.rng.integers(0, 4)),
        )
        readout = Population("readout", "", (3,), last.start + 1, program, readout=True)
        make.connect(last, readout, READOUT_CURRENT // make.steps)
        make.populations.append(readout)
    network = Network("random", tuple(make.populations), tuple(make.connections), make.steps, make.steps + guard)
    largest = min((1 << bits) - 1, 1 << 10)
    inputs = make.rng.integers(0, largest + 1, (draw(st.integers(1, 3)), make.steps, *shape))
    inputs = ints(np.where(make.rng.random(inputs.shape) < 0.3, 0, inputs))
    stream = reference.simulate(network, inputs)
    assume(_lawful(network, stream, len(inputs)))
    return Case(network, inputs, stream)


def _lawful(network: Network, stream: reference.Stream, samples: int) -> bool:
    """Whether gates are strong enough, as the exporter proves them to be, and a read-out never fires.

    Silence here is not enough: before the first window Lava's v starts from 0, the reference's far below threshold.
    """
    for population in network.populations:
        program = population.program
        if not isinstance(program, LIF):
            continue
        spikes = stream.spikes[population.id]
        if program.gate is not None:
            outside = layout.outside_windows(network, population, samples)
            drive = (stream.current[population.id] << limits.STATE_SHIFT) + program.bias
            pushed = drive[1:][outside[1:]] > 0  # no gate reaches the reference's first step
            if spikes[outside].any() or pushed.any():
                return False
        if population.readout and spikes.any():
            return False
    return True


CORNERS = (
    *(f"effective decay of the current {du + 1}" for du in DU),
    *(f"decay of the potential {dv}" for dv in DV),
    *(f"threshold {vth}" for vth in VTH),
    *(f"reset {reset}" for reset in RESETS),
    *(f"bias exponent {exponent}" for exponent in (0, 7)),
    *(f"weight exponent {exponent}" for exponent in (0, 9)),
    *("dense", "convolution", "stride", "padding", "dilation", "groups", "depthwise", "crop", "kernel not square"),
    *("mixed weights", "odd excitatory weights", "odd inhibitory weights", "weight 254 or more"),
    *("delay 0", "delay 62", "delays that differ", "spike before its step", "spike after its step"),
    *("join", "loop of one", "loop of two", "clock", "binary input", "graded input", "payload of 24 bits"),
    *("parameter of a neuron", "parameter of a channel", "bias -4096", "bias 4095"),
    *("current wraps up", "current wraps down", "potential clips high", "potential clips low"),
    *("guard steps", "no guard steps", "read-out that adds up", "read-out that leaks", "no read-out"),
    *("one step", "one sample", "spikes"),
)


def corners(case: Case) -> set[str]:
    """Which of CORNERS a case meets."""
    network, stream = case.network, case.stream
    met = {"guard steps" if network.period > network.steps else "no guard steps"}
    met |= {"one step"} if network.steps == 1 else set()
    met |= {"one sample"} if len(case.inputs) == 1 else set()
    program = network.source.program
    assert isinstance(program, Source)
    met |= {"binary input" if program.payload_bits == 1 else "graded input"}
    met |= {"payload of 24 bits"} if program.payload_bits == 24 else set()
    met |= {"no read-out"} if network.readout is None else set()
    met |= {"spikes"} if any(s.any() for s in stream.spikes.values()) else set()
    for population in network.populations:
        met |= _of_population(population, network, stream)
    for connection in network.connections:
        met |= _of_connection(connection, network)
    return met & set(CORNERS)


def _of_population(population: Population, network: Network, stream: reference.Stream) -> set[str]:
    program = population.program
    if not isinstance(program, LIF):
        return {"clock"} if isinstance(program, Clock) else set()
    if population.readout:
        return {"read-out that adds up" if (program.du, program.dv) == (4095, 0) else "read-out that leaks"}
    met = {f"effective decay of the current {du + 1}" for du in np.unique(program.du)}
    met |= {f"decay of the potential {dv}" for dv in np.unique(program.dv)}
    met |= {f"threshold {vth}" for vth in np.unique(program.vth)}
    met |= {f"reset {program.reset}", f"bias exponent {program.bias_exp}"}
    met |= {f"bias {mantissa}" for mantissa in np.unique(program.bias_mant)}
    for values in (program.du, program.dv, program.vth, program.bias_mant):
        if values.size > 1:
            met |= {"parameter of a neuron" if values.shape == population.shape else "parameter of a channel"}
    arriving, potential = stream.current[population.id], stream.membrane[population.id]
    current = arriving << limits.STATE_SHIFT
    met |= {"current wraps up"} if current.max() > limits.STATE_LIMIT else set()
    met |= {"current wraps down"} if current.min() <= -limits.STATE_LIMIT else set()
    met |= {"potential clips high"} if potential.max() == limits.STATE_LIMIT - 1 else set()
    inside = reference.windows(potential, population, network)
    met |= {"potential clips low"} if inside.min() == 1 - limits.STATE_LIMIT else set()
    drives = {c.source for c in network.inputs_of(population.id)} - {population.id}
    order = [p.id for p in network.populations]
    before = {name for name in drives if order.index(name) < order.index(population.id)}
    lifs = {name for name in before if not isinstance(network.population(name).program, Clock)}
    return met | ({"join"} if len(lifs) > 1 else set()) | ({"loop of two"} if drives - before else set())


def _of_connection(connection: Connection, network: Network) -> set[str]:
    weight, synapses = connection.synapses.weight, connection.synapses
    met = {f"weight exponent {connection.weight_exp}", "delay 0" if not connection.delay.any() else "delays"}
    met |= {f"delay {delay}" for delay in np.unique(connection.delay)}
    met |= {"delays that differ"} if np.ptp(connection.delay) else set()
    met |= {"loop of one"} if connection.source == connection.target else set()
    source, target = network.population(connection.source), network.population(connection.target)
    late = source.start + 1 + connection.delay - target.start
    met |= {"spike before its step"} if late.min() < 0 else set()
    met |= {"spike after its step"} if late.max() > 0 else set()
    met |= {"weight 254 or more"} if np.abs(weight).max() >= 254 else set()
    if (weight & 1).any():
        met |= {"odd excitatory weights" if weight.max() > 0 else "odd inhibitory weights"}
    met |= {"mixed weights"} if weight.min() < 0 < weight.max() else set()
    if not isinstance(synapses, Convolution):
        return met | {"dense"}
    met |= {"convolution"}
    met |= {"stride"} if max(synapses.stride) > 1 else set()
    met |= {"padding"} if max(synapses.padding) else set()
    met |= {"dilation"} if max(synapses.dilation) > 1 and max(weight.shape[2:]) > 1 else set()
    met |= {"groups"} if synapses.groups > 1 else set()
    met |= {"depthwise"} if synapses.groups > 1 and weight.shape[1] == 1 else set()
    met |= {"crop"} if synapses.crop != NO_CROP else set()
    return met | ({"kernel not square"} if weight.shape[2] != weight.shape[3] else set())
