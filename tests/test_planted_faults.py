"""One arithmetic rule of the machine changed at a time: the comparison of engines must see every one of them.

A fault is a change of the reference's source text, so that any line can have one. Each is run on the network that
exercises its rule, and the machine as it is must be equal there.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from types import ModuleType

import numpy as np
import pytest
from conftest import ints, recurrent_network
from random_networks import attention_network, staa_network

from export import limits
from export.network import LIF, Clock, Connection, Convolution, Dense, Gate, Network, Population, Source
from sim import equivalence, fast, reference

SAMPLES = 24


def rules() -> Network:
    """Every rule of a legal network: decays, a clock, delays, gates, graded input, odd weights of one sign, exponents.

    Biases and decays of half the neurons are multiples of the threshold's unit: they meet it exactly now and then.
    """
    rng = np.random.default_rng(5)
    even = lambda *shape: ints(2 * rng.integers(-33, 34, shape))  # noqa: E731
    gate = Gate(256, 8)
    fades, decays = ints([4095, 1000, 3000, 4095]).reshape(4, 1, 1), ints([0, 500, 2048, 0]).reshape(4, 1, 1)
    maps = LIF(fades, decays, 90, ints([64, 300, -200, 0]).reshape(4, 1, 1), 3, gate)
    dense = LIF(ints([4095, 2000] * 3), ints([0, 100, 900, 2000, 3000, 4095]), 400, 40, 2, gate, "subtract")
    readout = LIF(ints([4095, 900, 77]), ints([0, 1000, 300]), limits.VTH_LIMIT - 1, 7, 0)
    return Network(
        name="rules",
        steps=6,
        period=8,
        populations=(
            Population("input", "", (2, 5, 5), 1, Source(payload_bits=4)),
            Population("clock", "", (6, 5, 5), 1, Clock()),
            Population("maps", "", (4, 5, 5), 2, maps),
            Population("dense", "", (6,), 4, dense),
            Population("readout", "", (3,), 5, readout, readout=True),
        ),
        connections=(
            Connection("in", "", "input", "maps", Convolution(even(4, 2, 3, 3), padding=(1, 1)), 0, ints([0, 1])),
            Connection("told", "", "clock", "maps", Convolution(even(4, 6, 1, 1)), 1, ints([0] * 6)),
            Connection("maps-dense", "", "maps", "dense", Dense(even(6, 100)), 1, ints([1, 0, 2, 3])),
            Connection(
                "odd", "", "maps", "dense", Dense(ints(rng.integers(0, 3, (6, 100)) * 2 + 1)), 0, ints([1, 1, 0, 2])
            ),
            Connection("dense-out", "", "dense", "readout", Dense(even(3, 6)), 0, ints([0] * 6)),
        ),
    )


def extremes() -> Network:
    """Currents that wrap, one of them at -2^23 to the unit, and potentials that clip at both ends; no guard steps."""
    weight = ints([[-256, 0], [-254, -100], [254, 200], [250, -250]])
    return Network(
        name="extremes",
        steps=6,
        period=6,
        populations=(
            Population("input", "", (2,), 0, Source(payload_bits=10)),
            Population("spiking", "", (4,), 1, LIF(ints([4095, 0, 900, 300]), ints([0, 1, 0, 200]), 2000, 50, 2)),
            Population("readout", "", (4,), 1, LIF(ints([4095, 0, 0, 10]), 0, limits.VTH_LIMIT - 1, 9, 0), True),
        ),
        connections=(
            Connection("a", "", "input", "spiking", Dense(weight), 0, ints([0, 0])),
            Connection("b", "", "input", "readout", Dense(weight), 0, ints([0, 0])),
        ),
    )


def inputs_of(network: Network) -> np.ndarray:
    rng = np.random.default_rng(0)
    program = network.source.program
    assert isinstance(program, Source)
    x = rng.integers(0, 1 << program.payload_bits, (SAMPLES, network.steps, *network.source.shape))
    return ints(np.where(rng.random(x.shape) < 0.2, 1 << (program.payload_bits - 1), x))


def attending() -> Network:
    """Attention behind graded input and behind spikes."""
    return attention_network(7)


NETWORKS = {
    "rules": rules,
    "extremes": extremes,
    "attention": attending,
    "staa": lambda: staa_network(7),
    "recurrent": lambda: recurrent_network(3),
}


@dataclass(frozen=True)
class Fault:
    """`old` in the reference's source becomes `new`; `times` it occurs there."""

    old: str
    new: str
    network: str = "rules"
    times: int = 1


UPDATE = "u[p.id], v[p.id] = _update(p.program, u[p.id], v[p.id], arriving)"
FIRED = "fired = v[p.id] > p.program.threshold"
WRAP = "    u = np.where(u > limit, u - 2 * limit, np.where(u <= -limit, u + 2 * limit, u))\n"
INTEGRATE = "    v = _round_to_zero(v * (unity - program.dv), 12) + u + program.bias\n"
INPUT = "(a_in << limits.STATE_SHIFT)"
RESET = '0 if p.program.reset == "zero" else (v[p.id] - threshold)[fired]'
FAULTS = {
    "rounding down": Fault("np.sign(x) * (np.abs(x) >> shift)", "x >> shift"),
    "rounding to nearest": Fault("(np.abs(x) >> shift)", "((np.abs(x) + (1 << (shift - 1))) >> shift)"),
    "decay of the current off by one": Fault("unity - (program.du + 1)", "unity - program.du"),
    "decay of the potential off by one": Fault("unity - program.dv", "unity - (program.dv + 1)"),
    "order: input decays with the current": Fault(
        f"_round_to_zero(u * (unity - (program.du + 1)), 12) + {INPUT}",
        f"_round_to_zero((u + {INPUT}) * (unity - (program.du + 1)), 12)",
    ),
    "order: current wraps after the potential took it": Fault(WRAP + INTEGRATE, INTEGRATE + WRAP, "extremes"),
    "order: threshold before the update": Fault(f"{UPDATE}\n            {FIRED}", f"{FIRED}\n            {UPDATE}"),
    "order: bias after the clip": Fault(
        " + u + program.bias\n    return u, np.clip(v, 1 - limit, limit - 1)",
        " + u\n    return u, np.clip(v, 1 - limit, limit - 1) + program.bias",
        "extremes",
    ),
    "threshold reached is a spike": Fault("> p.program.threshold", ">= p.program.threshold"),
    "threshold in units of the current": Fault("> p.program.threshold", "> p.program.vth"),
    "input not shifted": Fault(INPUT, "(a_in << (limits.STATE_SHIFT - 1))"),
    "bias missing": Fault(" + u + program.bias", " + u"),
    "no wrap": Fault("np.where(u > limit, u - 2 * limit,", "np.where(u > limit, u,", "extremes"),
    "current clipped, not wrapped": Fault(
        "u = np.where(u > limit, u - 2 * limit, np.where(u <= -limit, u + 2 * limit, u))",
        "u = np.clip(u, 1 - limit, limit)",
        "extremes",
    ),
    "wrap one unit late at the lower end": Fault("u <= -limit", "u < -limit", "extremes"),
    "no clip": Fault("np.clip(v, 1 - limit, limit - 1)", "v", "extremes"),
    "clip one unit low": Fault("np.clip(v, 1 - limit,", "np.clip(v, -limit,", "extremes"),
    "clip one unit high": Fault("limit - 1)", "limit)", "extremes"),
    "reset to zero everywhere": Fault(RESET, "0"),
    "reset that subtracts everywhere": Fault(RESET, "(v[p.id] - threshold)[fired]"),
    "reset clears the current": Fault(
        "sent[p.id][step] = fired", "sent[p.id][step] = fired\n            u[p.id][fired] = 0"
    ),
    "reset offset: state cleared a step late": Fault("% network.period == 0", "% network.period == 1"),
    "reset offset: state cleared a step early": Fault(
        "(step - p.start) % network.period == 0", "(step + 1 - p.start) % network.period == 0"
    ),
    "reset interval: state never cleared": Fault("(step - p.start) % network.period == 0", "step == p.start"),
    "delay off by one": Fault("step - 1 - delay", "step - 2 - delay", times=2),
    "synapse without its step": Fault("step - 1 - delay", "step - delay", times=2, network="recurrent"),
    "delays left out": Fault("enumerate(connection.delay)", "enumerate(0 * connection.delay)"),
    "delay of the neighbouring channel": Fault(
        "enumerate(connection.delay)", "enumerate(np.roll(connection.delay, 1))"
    ),
    "delays left out in a loop": Fault("enumerate(connection.delay)", "enumerate(0 * connection.delay)", "recurrent"),
    "gate missing": Fault("arriving -= p.program.gate.current", "pass"),
    "gate closes a step late": Fault("% network.period < network.steps", "% network.period <= network.steps"),
    "gate adds": Fault("arriving -= p.program.gate.current", "arriving += p.program.gate.current"),
    "sign mode: odd weights lose their lowest bit": Fault("synapses.weight @", "(synapses.weight & ~1) @"),
    "sign mode: negative weights clipped": Fault("synapses.weight @", "np.maximum(synapses.weight, 0) @"),
    "weight exponent left out": Fault("total << connection.weight_exp", "total"),
    "payload lost: graded spikes as binary": Fault(
        "= sent[step - 1 - delay, channel]", "= sent[step - 1 - delay, channel] != 0"
    ),
    "kernel flipped": Fault("synapses.weight[out, :, i, j]", "synapses.weight[out, :, -1 - i, -1 - j]"),
    "kernel transposed": Fault("synapses.weight[out, :, i, j]", "synapses.weight[out, :, j, i]"),
    "crop left out": Fault("= synapses.crop", "= (0, 0), (0, 0)", "recurrent"),
    "attention a step late": Fault("if not _inside(step, self", "if not _inside(step - 1, self", "attention"),
    "attention sends its window backwards": Fault("self.answers.pop(0)", "self.answers.pop()", "attention"),
    "attention answers to this step alone": Fault("np.stack(self.taken)", "np.stack(self.taken[-1:] * 5)", "attention"),
    "attention waits where its step is enough": Fault("if not program.waits:", "if step < 0:", "staa"),
    "clock a step late": Fault("frame[step] = 1", "frame[step - 1] = 1"),
    "window a step early": Fault(
        "population.sends(network.steps) + n * network.period",
        "population.sends(network.steps) - 1 + n * network.period",
    ),
}


def with_fault(fault: Fault) -> ModuleType:
    """The reference as a module of its own, with the fault in it."""
    source = inspect.getsource(reference)
    assert source.count(fault.old) == fault.times, f"not in the reference any more: {fault.old}"
    module = ModuleType(reference.__name__)
    exec(compile(source.replace(fault.old, fault.new), "faulty reference", "exec"), module.__dict__)
    return module


@pytest.mark.parametrize("name", NETWORKS)
def test_without_a_fault_the_engines_are_equal_and_lively(name: str) -> None:
    network = NETWORKS[name]()
    inputs = inputs_of(network)
    good = fast.run(network, inputs)
    result = equivalence.compare(network, good, reference.run(network, inputs), inputs)
    assert result.equal, result.divergence
    for spikes in good.spikes.values():
        assert 0.01 < spikes.mean() < 0.9


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_caught(fault: str) -> None:
    network = NETWORKS[FAULTS[fault].network]()
    inputs = inputs_of(network)
    bad = with_fault(FAULTS[fault]).run(network, inputs)
    assert not equivalence.compare(network, fast.run(network, inputs), bad, inputs).equal
