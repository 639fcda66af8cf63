"""Random integer networks: dense and convolutional layers, delays, shortcuts, graded inputs, all neuron parameters."""

from __future__ import annotations

import numpy as np
from conftest import ints
from hypothesis import strategies as st

from export import limits
from export.attention_programs import ContextGains, FrequencyGains, StepGains, UnitGains
from export.network import LIF, Clock, Connection, Convolution, Dense, Gate, Network, Population, Source
from export.programs import RESETS

READOUT = LIF(du=4095, dv=0, vth=ints(131071), bias_mant=ints(11), bias_exp=1)


def even(rng: np.random.Generator, limit: int, *shape: int) -> np.ndarray:
    """Even weights up to `limit`, never all zero."""
    weight = ints(2 * rng.integers(-limit // 2, limit // 2 + 1, shape))
    weight.flat[0] = limit
    return weight


def layer_neurons(rng: np.random.Generator, shape: tuple[int, ...], gate: Gate | None, wild: bool) -> LIF:
    """A program for a layer; a wild one is anywhere in the legal ranges."""
    rows = (shape[0], *[1] * (len(shape) - 1))
    sizes = np.empty(3, dtype=object)
    sizes[:] = (), rows, shape
    if wild:
        return LIF(
            du=ints(rng.choice([*limits.DU_RANGE, 3000, 17], rng.choice(sizes))),
            dv=ints(rng.choice([*limits.DV_RANGE, 1024, 77], rng.choice(sizes))),
            vth=ints(rng.integers(0, rng.choice([50, 3000, limits.VTH_LIMIT]), shape)),
            bias_mant=ints(rng.integers(limits.BIAS_MANT_RANGE[0], limits.BIAS_MANT_RANGE[1] + 1, shape)),
            bias_exp=int(rng.integers(0, limits.BIAS_EXP_RANGE[1] + 1)),
            reset=RESETS[int(rng.integers(0, 2))],
        )
    return LIF(
        du=ints(rng.choice([4095, 3000], rng.choice(sizes))),
        dv=ints(rng.choice([0, 500, 3072], rng.choice(sizes))),
        vth=ints(rng.integers(20, 120, rows)),
        bias_mant=ints(rng.integers(-300, 600, rows)),
        bias_exp=3,
        gate=gate,
        reset=RESETS[int(rng.integers(0, 2))],
    )


@st.composite
def networks(draw: st.DrawFn, wild: bool = False) -> Network:
    """A random network.

    Wild ones have full ranges of weights, payloads and programs, so that currents wrap and potentials clip; they are
    chains without guard steps, whose windows need no gate. The others have delays, shortcuts and gates. All may have
    clocks, parameters for each channel or neuron, and resets that subtract.
    """
    rng = np.random.default_rng(draw(st.integers(0, 1 << 30)))
    guard = 0 if wild else draw(st.integers(0, 2))
    gate = Gate(256, 8) if guard else None
    exponents = limits.WEIGHT_EXP_RANGE[1] if wild else 1
    limit = int(rng.choice([254, 20])) if wild else 20
    steps = draw(st.integers(1, 5))
    bits = draw(st.sampled_from([1, 4, 8, 13, 24] if wild else [1, 4]))
    image = (int(rng.integers(1, 4)), int(rng.integers(4, 8)), int(rng.integers(4, 8)))
    populations = [Population("input", "", image, 1, Source(bits))]
    connections: list[Connection] = []

    def delay(source: Population, start: int) -> np.ndarray:
        ahead = rng.integers(-guard, guard + 1, source.shape[0])
        return ints(np.clip(start - source.start - 1 - ahead, 0, None))

    def connect(source: Population, target: Population, synapses: Dense | Convolution) -> None:
        exponent = int(rng.integers(0, exponents + 1))
        name = f"{source.id}-{target.id}"
        connections.append(Connection(name, "", source.id, target.id, synapses, exponent, delay(source, target.start)))

    for index in range(draw(st.integers(1, 3))):
        source = populations[-1]
        start = source.start + 1 + (0 if wild else int(rng.integers(0, 3)))
        if len(source.shape) == 3 and draw(st.booleans()):
            groups = source.shape[0] if draw(st.booleans()) else 1
            kernel = even(rng, limit, 2 * groups, source.shape[0] // groups, *rng.integers(1, 4, 2))
            stride, dilation = (tuple(int(side) for side in rng.integers(1, 3, 2)) for _ in range(2))
            synapses: Dense | Convolution = Convolution(kernel, stride, (2, 3), dilation, groups)
            shape: tuple[int, ...] = synapses.output_shape(source.shape)
        else:
            shape = (int(rng.integers(1, 12)),)
            synapses = Dense(even(rng, limit, *shape, source.size))
        target = Population(f"layer{index}", "", shape, start, layer_neurons(rng, shape, gate, wild))
        connect(source, target, synapses)
        if index and not wild and draw(st.booleans()):
            shortcut = populations[int(rng.integers(0, len(populations) - 1))]
            connect(shortcut, target, Dense(even(rng, limit, target.size, shortcut.size)))
        if draw(st.booleans()):
            clock = Population(
                f"clock{index}", "", (steps,), max(0, start - 1 - int(rng.integers(0, guard + 1))), Clock()
            )
            connect(clock, target, Dense(even(rng, limit, target.size, steps)))
            populations.append(clock)
        populations.append(target)
    last = populations[-1]
    readout = Population("readout", "", (3,), last.start + 1, READOUT, readout=True)
    connect(last, readout, Dense(even(rng, limit, 3, last.size)))
    return Network("random", (*populations, readout), tuple(connections), steps, steps + guard)


def frequency_gains(rng: np.random.Generator, shape: tuple[int, ...], steps: int) -> FrequencyGains:
    """A legal program with every kind of sign and shift, whose gains and logits vary."""
    channels, side = shape[0], int(rng.choice([1, 3]))
    bias = ints(rng.integers(-50, 50, [n if rng.random() < 0.5 else 1 for n in shape]))
    program = FrequencyGains(
        limit=int(rng.choice([40, 300])),
        bias=bias,
        input_shift=int(rng.integers(0, 3)),
        mean=ints(rng.integers(-300, 500, channels)),
        mean_shift=int(rng.integers(0, 3)),
        highest=ints(rng.integers(-300, 500, channels)),
        amplitude_shift=int(rng.integers(4, 9)),
        temporal=ints(rng.integers(-40, 40, (steps, steps))),
        temporal_shift=int(rng.integers(5, 9)),
        step_table=ints(rng.integers(700, 2000, 512)),
        common=ints(rng.integers(-9, 30, channels)),
        common_shift=int(rng.integers(0, 6)),
        place_shift=int(rng.integers(8, 13)),
        kernels=ints(rng.integers(-60, 60, (side * side, side, side))),
        logit_shift=int(rng.integers(3, 9)),
        place_table=ints(rng.integers(-300, 1600, 256)),
        gain_shift=int(rng.integers(9, 12)),
    )
    program.check(shape, steps, "a random program")
    return program


def attention_network(seed: int, guard: int = 1, steps: int = 5) -> Network:
    """Attention behind graded input and behind spikes, a shortcut beside it, delays that look over the edge."""
    rng = np.random.default_rng(seed)
    gate = Gate(256, 8) if guard else None
    maps = (3, 4, 4)

    def neurons(vth: int) -> LIF:
        return LIF(4095, 700, ints(rng.integers(vth, 3 * vth, (3, 1, 1))), ints(0), 0, gate, RESETS[seed % 2])

    first = 1 + guard
    gates = [frequency_gains(rng, maps, steps) for _ in range(2)]
    own = Convolution(ints(np.full((3, 1, 1, 1), 2)), groups=3)
    near = Convolution(even(rng, 20, 3, 3, 3, 3), padding=(1, 1))
    late = first + steps + 3 + guard  # when the second attention starts
    shift = ints([guard + d for d in (guard, 0, -guard)])
    return Network(
        name="attention",
        steps=steps,
        period=steps + guard,
        populations=(
            Population("input", "", (2, 4, 4), first, Source(payload_bits=4)),
            Population("gate1", "one", maps, first + 1, gates[0]),
            Population("lif1", "", maps, first + steps + 2, neurons(40)),
            Population("gate2", "two", maps, late, gates[1]),
            Population("lif2", "", maps, late + steps + 1, neurons(40)),
            Population("readout", "", (3,), late + steps + 2, READOUT, readout=True),
        ),
        connections=(
            Connection(
                "in", "", "input", "gate1", Convolution(even(rng, 20, 3, 2, 3, 3), padding=(1, 1)), 0, ints([0, 0])
            ),
            Connection("own1", "", "gate1", "lif1", own, 0, ints([0] * 3)),
            Connection("near", "", "lif1", "gate2", near, 1, shift),
            Connection("skip", "", "gate1", "gate2", Convolution(even(rng, 4, 3, 3, 1, 1)), 0, shift + 1),
            Connection("own2", "", "gate2", "lif2", own, 0, ints([0] * 3)),
            Connection("out", "", "lif2", "readout", Dense(even(rng, 20, 3, 48)), 0, ints([0] * 3)),
        ),
    )


def context_gains(rng: np.random.Generator, shape: tuple[int, ...]) -> ContextGains:
    """A legal program with every kind of sign and shift, whose weights, hidden values and gains vary."""
    channels, hidden = shape[0], int(rng.choice([1, 2, 3, 4, 4, 5]))
    program = ContextGains(
        limit=int(rng.choice([40, 300, 4000])),
        bias=ints(rng.integers(-50, 50, [n if rng.random() < 0.5 else 1 for n in shape])),
        input_shift=int(rng.integers(0, 3)),
        gain_shift=int(rng.integers(9, 12)),
        value_bits=int(rng.integers(4, 10)),
        key=ints(rng.integers(-60, 60, channels)),
        score_shift=int(rng.integers(8, 12)),
        exp_table=ints(np.rint(np.exp(-np.arange(512) / 64) * rng.choice([1, 100, 1000]))),
        squeeze=ints(rng.integers(-90_000, 90_000, (hidden, channels))),
        squeeze_bias=ints(rng.integers(-50_000, 50_000, hidden)),
        squeeze_shift=int(rng.integers(8, 11)),
        centre_shift=int(rng.integers(0, 3)),
        epsilon=int(rng.choice([1, 1 << 26, 1 << 28])),
        scale=ints(rng.integers(-3000, 6000, hidden)),
        shift=ints(rng.integers(-(1 << 22), 1 << 23, hidden)),
        normal_shift=int(rng.integers(11, 14)),
        excite=ints(rng.integers(-300, 300, (channels, hidden))),
        excite_bias=ints(rng.integers(-3_000_000, 3_000_000, channels)),
        logit_shift=int(rng.integers(14, 17)),
        gain_table=ints(rng.integers(-300, 1600, 256)),
    )
    program.check(shape, 1, "a random program")
    return program


def step_gains(rng: np.random.Generator, shape: tuple[int, ...], steps: int) -> StepGains:
    """A legal program for spikes that bring 2, whose gains vary with their number."""
    hidden = int(rng.integers(1, 4))
    program = StepGains(
        limit=1,
        bias=ints(np.zeros((1, 1, 1))),
        input_shift=1,
        gain_shift=int(rng.integers(0, 3)),
        count_shift=int(rng.integers(0, 3)),
        squeeze=ints(rng.integers(-40, 80, (hidden, steps))),
        squeeze_bias=ints(rng.integers(-50, 400, hidden)),
        hidden_shift=int(rng.integers(0, 3)),
        excite=ints(rng.integers(-9, 9, (steps, hidden))),
        excite_bias=ints(rng.integers(-500, 500, steps)),
        logit_shift=int(rng.integers(0, 4)),
        gain_table=ints(rng.integers(1, 60, 256)),
    )
    program.check(shape, steps, "a random program")
    return program


def staa_network(seed: int, guard: int = 1, steps: int = 5) -> Network:
    """Two layers of STAA-SNN: context, neurons, step attention; a clock, a shortcut of gated spikes, a relay."""
    rng = np.random.default_rng(seed)
    gate = Gate(256, 8) if guard else None
    maps = (3, 4, 4)
    own = Convolution(ints(np.full((3, 1, 1, 1), 2)), groups=3)
    first = 1 + guard
    second = first + steps + 4 + guard  # when the second layer starts
    none = ints([0] * 3)

    def neurons(vth: int) -> LIF:
        return LIF(4095, 700, ints(rng.integers(vth, 3 * vth, (3, 1, 1))), ints(0), 0, gate, RESETS[seed % 2])

    def layer(number: int, start: int, vth: int) -> tuple[Population, ...]:
        return (
            Population(f"context{number}", f"c{number}", maps, start, context_gains(rng, maps)),
            Population(f"lif{number}", "", maps, start + 1, neurons(vth)),
            Population(f"step{number}", f"s{number}", maps, start + 2, step_gains(rng, maps, steps)),
        )

    def wires(number: int) -> tuple[Connection, ...]:
        return (
            Connection(f"own{number}", "", f"context{number}", f"lif{number}", own, 0, none),
            Connection(f"spikes{number}", "", f"lif{number}", f"step{number}", own, 0, none),
        )

    late = ints([guard + d for d in (guard, 0, -guard)])
    last = second + steps + 3
    relay = UnitGains(limit=5000, bias=ints(rng.integers(-50, 50, 4)), input_shift=0, gain_shift=2)
    return Network(
        name="staa",
        steps=steps,
        period=steps + guard,
        populations=(
            Population("input", "", (2, 4, 4), first, Source(payload_bits=4)),
            *layer(1, first + 1, 30),
            Population("clock", "", (steps, 4, 4), second - 1, Clock()),
            *layer(2, second, 30),
            Population("sum", "head", (4,), last, relay),
            Population("readout", "", (4,), last + 1, READOUT, readout=True),
        ),
        connections=(
            Connection(
                "in", "", "input", "context1", Convolution(even(rng, 20, 3, 2, 3, 3), padding=(1, 1)), 0, ints([0, 0])
            ),
            *wires(1),
            Connection(
                "near", "", "step1", "context2", Convolution(even(rng, 20, 3, 3, 3, 3), padding=(1, 1)), 0, late
            ),
            Connection("skip", "", "step1", "context2", own, 3, ints([guard] * 3)),
            Connection(
                "code", "", "clock", "context2", Convolution(even(rng, 90, 3, steps, 1, 1)), 0, ints([0] * steps)
            ),
            *wires(2),
            Connection("head", "head", "step2", "sum", Dense(even(rng, 20, 4, 48)), 0, none),
            Connection("out", "", "sum", "readout", Dense(2 * ints(np.eye(4))), 0, ints([0] * 4)),
        ),
    )


def payloads(network: Network, samples: int, seed: int) -> np.ndarray:
    """Random inputs over the whole range of payloads, int64 [samples, T, *shape]."""
    rng = np.random.default_rng(seed)
    program = network.source.program
    assert isinstance(program, Source)
    largest = (1 << program.payload_bits) - 1
    x = rng.integers(0, largest + 1, (samples, network.steps, *network.source.shape))
    return ints(np.where(rng.random(x.shape) < 0.1, largest, x))
