"""The layer-by-layer integer engine against the obvious machine, on random networks and at the corners."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import digits_like_inputs, ints, recurrent_network, temporal_shift_network
from hypothesis import given, settings
from hypothesis import strategies as st

from export import execute, limits
from export.network import LIF, Connection, Convolution, Dense, Gate, Network, Population, Source
from sim import equivalence, fast, reference
from sim.pytest_plugin import assert_spikes_equal
from train.errors import UserError
from train.kernels import fixed_point


@given(seed=st.integers(0, 10_000), steps=st.integers(1, 6), samples=st.integers(1, 4))
@settings(max_examples=25, deadline=None)
def test_temporal_shift_networks_are_equal(seed: int, steps: int, samples: int) -> None:
    network = temporal_shift_network(seed, steps)
    inputs = digits_like_inputs(samples, network, seed)
    slow, quick = reference.run(network, inputs), fast.run(network, inputs)
    for name in slow.spikes:
        np.testing.assert_array_equal(slow.spikes[name], quick.spikes[name])
    np.testing.assert_array_equal(slow.membrane["readout"], quick.membrane["readout"])


@given(seed=st.integers(0, 10_000), steps=st.integers(1, 6), samples=st.integers(1, 3))
@settings(max_examples=25, deadline=None)
def test_recurrent_networks_are_equal(seed: int, steps: int, samples: int) -> None:
    """Loops of one and of two populations, with delays: the machine, back to back, against the engine of windows."""
    network = recurrent_network(seed, steps)
    assert [tuple(p.id for p in run) for run in network.loops()] == [("input",), ("a", "b"), ("readout",)]
    inputs = ints(np.random.default_rng(seed).integers(0, 8, (samples, steps, 2, 4, 4)))
    slow, quick = reference.run(network, inputs), fast.run(network, inputs)
    for name in slow.spikes:
        np.testing.assert_array_equal(slow.spikes[name], quick.spikes[name])
    np.testing.assert_array_equal(slow.membrane["readout"], quick.membrane["readout"])


@pytest.mark.parametrize("fault", ["a-a", "b-b", "b-a"])
@pytest.mark.parametrize("kind", ["missing", "one weight", "late"])
def test_a_fault_in_a_loop_is_caught(fault: str, kind: str) -> None:
    network = recurrent_network(3)
    (loop,) = (c for c in network.connections if c.id == fault)
    weight = loop.synapses.weight.copy()
    weight[0] = -weight[0].clip(-254)
    changed = {
        "missing": (),
        "one weight": (replace(loop, synapses=replace(loop.synapses, weight=weight)),),
        "late": (replace(loop, delay=1 - loop.delay.clip(0, 1)) if fault != "b-a" else replace(loop, weight_exp=1),),
    }[kind]
    inputs = ints(np.random.default_rng(0).integers(0, 8, (8, 4, 2, 4, 4)))
    good = fast.run(network, inputs)
    assert all(spikes.any() for spikes in good.spikes.values())
    faulty = replace(network, connections=(*(c for c in network.connections if c is not loop), *changed))
    for engine in (fast, reference):
        assert not equivalence.compare(network, good, engine.run(faulty, inputs), inputs).equal


def test_a_loop_without_its_gates_disturbs_the_next_sample() -> None:
    """In guard steps a bias alone would go round the loop and into the next window: the gates are what prevents it."""
    network = recurrent_network(3)

    def gated(gate: Gate) -> Network:
        populations = [
            replace(p, program=replace(p.program, gate=gate, bias_mant=ints(2000)))
            if isinstance(p.program, LIF) and not p.readout
            else p
            for p in network.populations
        ]
        return replace(network, populations=tuple(populations))

    inputs = ints(np.random.default_rng(0).integers(0, 8, (8, 4, 2, 4, 4)))
    strong, weak = gated(Gate(256, 8)), gated(Gate(2, 0))
    good = fast.run(strong, inputs)
    assert_spikes_equal(strong, good, reference.run(strong, inputs), inputs)
    assert not equivalence.compare(strong, good, reference.run(weak, inputs), inputs).equal


def test_recurrence_without_a_guard_step_is_refused() -> None:
    """The last spikes of a window must not meet the next sample."""
    with pytest.raises(
        UserError, match="reaches 3 steps beyond its window into the neighbouring sample, guard steps 2"
    ):
        replace(recurrent_network(0), period=6)


@st.composite
def neurons(draw: st.DrawFn) -> LIF:
    """One LIF program anywhere in its legal ranges."""
    return LIF(
        du=draw(st.integers(*limits.DU_RANGE)),
        dv=draw(st.integers(*limits.DV_RANGE)),
        vth=ints(draw(st.lists(st.integers(0, limits.VTH_LIMIT - 1), min_size=3, max_size=3))),
        bias_mant=ints(draw(st.lists(st.integers(*limits.BIAS_MANT_RANGE), min_size=3, max_size=3))),
        bias_exp=draw(st.integers(*limits.BIAS_EXP_RANGE)),
    )


@given(program=neurons(), seed=st.integers(0, 10_000), exponent=st.integers(0, 9))
@settings(max_examples=150, deadline=None)
def test_neurons_are_equal_over_all_parameters_wraps_and_clips(program: LIF, seed: int, exponent: int) -> None:
    """Weights and payloads large enough to wrap the current and clip the potential: engines must agree all the same."""
    rng = np.random.default_rng(seed)
    network = Network(
        name="corner",
        steps=6,
        period=6,
        populations=(
            Population("input", "", (5,), 0, Source(payload_bits=8)),
            Population("neurons", "", (3,), 1, program),
        ),
        connections=(
            Connection(
                "c",
                "",
                "input",
                "neurons",
                Dense(ints(2 * rng.integers(-128, 128, (3, 5)) + 0)),
                exponent,
                ints([0] * 5),
            ),
        ),
    )
    inputs = ints(rng.integers(0, 256, (2, 6, 5)))
    slow, quick = reference.run(network, inputs), fast.run(network, inputs)
    np.testing.assert_array_equal(slow.spikes["neurons"], quick.spikes["neurons"])
    stream = reference.simulate(network, inputs)
    window = reference.windows(stream.current["neurons"], network.populations[1], network)
    current = torch.from_numpy(np.moveaxis(window, 1, 0).copy())
    spikes, _ = fixed_point.loihi_lif(
        current, torch.from_numpy(program.vth), torch.from_numpy(program.bias), program.dv, program.du
    )
    np.testing.assert_array_equal(np.moveaxis(spikes.numpy(), 0, 1), slow.spikes["neurons"])


def test_convolution_geometry_against_torch() -> None:
    """Strides, padding, dilation, groups, crops, non-square kernels: the reference's definition and PyTorch's agree."""
    rng = np.random.default_rng(0)
    for stride, padding, dilation, groups, crop in [
        ((1, 2), (0, 1), (1, 1), 1, ((0, 0), (0, 0))),
        ((2, 1), (2, 1), (2, 1), 2, ((1, 2), (0, 3))),
        ((3, 2), (1, 0), (1, 2), 2, ((0, 1), (2, 0))),
    ]:
        weight = ints(2 * rng.integers(-9, 9, (4, 4 // groups, 3, 2)))
        synapses = Convolution(weight, stride, padding, dilation, groups, crop)
        x = ints(rng.integers(0, 9, (4, 9, 8)))
        inside = np.zeros_like(x)
        (top, bottom), (left, right) = crop
        inside[:, top : 9 - bottom, left : 8 - right] = x[:, top : 9 - bottom, left : 8 - right]
        expected = torch.nn.functional.conv2d(
            torch.from_numpy(inside).double()[None],
            torch.from_numpy(synapses.weight).double(),
            None,
            stride,
            padding,
            dilation,
            groups,
        )[0]
        np.testing.assert_array_equal(reference._convolve(synapses, x), expected.long().numpy())
        assert synapses.output_shape(x.shape) == expected.shape  # a crop leaves the sizes as they are
        target = Population("b", "", tuple(expected.shape), 1, Source(1))
        connection = Connection("c", "", "a", "b", synapses, 0, ints([0] * 4))
        channels_last = torch.from_numpy(x).movedim(0, -1)[None, None]
        found = execute._weighted(connection, target, channels_last, torch.from_numpy(weight).double())
        np.testing.assert_array_equal(found[0, 0].movedim(-1, 0).numpy(), expected.numpy())


def test_float32_is_left_when_sums_could_reach_its_limit() -> None:
    """A sum of 2^24 + 2 is odd in units of 2 only beyond float32's whole numbers: the wide path must be taken."""
    wide = Network(
        name="wide",
        steps=1,
        period=1,
        populations=(
            Population("input", "", (600,), 0, Source(payload_bits=8)),
            Population("neurons", "", (1,), 1, LIF(4095, 0, ints(limits.VTH_LIMIT - 1), ints(0), 0)),
        ),
        connections=(Connection("c", "", "input", "neurons", Dense(ints(np.full((1, 600), 254))), 0, ints([0] * 600)),),
    )
    inputs = ints(np.full((1, 1, 600), 255))
    inputs[0, 0, 0] = 1
    slow, quick = reference.run(wide, inputs), fast.run(wide, inputs)
    np.testing.assert_array_equal(slow.spikes["neurons"], quick.spikes["neurons"])
    assert execute._exact(wide.connections[0], wide, torch.device("cpu")) is torch.float64


def faulty(network: Network, fault: str) -> Network:
    """The network with one planted fault."""
    populations, connections = list(network.populations), list(network.connections)
    conv2 = populations[2].program
    assert isinstance(conv2, LIF)
    match fault:
        case "one weight":
            weight = connections[1].synapses.weight.copy()
            weight[1, 2, 1, 1] ^= 64
            connections[1] = replace(connections[1], synapses=replace(connections[1].synapses, weight=weight))
        case "a delay off by one":
            connections[2] = replace(connections[2], delay=ints([1, 1, 2, 1]))
        case "weight exponent":
            connections[1] = replace(connections[1], weight_exp=connections[1].weight_exp + 1)
        case "one bias":
            populations[2] = replace(populations[2], program=replace(conv2, bias_mant=conv2.bias_mant + ints(300)))
        case "threshold off by one":
            populations[2] = replace(populations[2], program=replace(conv2, vth=conv2.vth - 1))
        case "decay off by a quarter":
            populations[2] = replace(populations[2], program=replace(conv2, dv=conv2.dv - 1024))
    return replace(network, populations=tuple(populations), connections=tuple(connections))


@pytest.mark.parametrize(
    "fault",
    [
        "one weight",
        "a delay off by one",
        "weight exponent",
        "one bias",
        "threshold off by one",
        "decay off by a quarter",
    ],
)
def test_the_check_catches_planted_faults(fault: str, shift_network: Network) -> None:
    inputs = digits_like_inputs(20, shift_network)
    good = fast.run(shift_network, inputs)
    result = equivalence.compare(shift_network, good, reference.run(faulty(shift_network, fault), inputs), inputs)
    assert not result.equal
    assert result.divergence is not None
    assert result.divergence.population in ("conv2", "readout")


def test_a_gate_that_is_too_weak_shows(shift_network: Network) -> None:
    """Neurons that their bias alone makes fire: without working gates, guard-step spikes reach the next windows."""

    def with_conv1(bias: int, gate: Gate) -> Network:
        populations = list(shift_network.populations)
        program = populations[1].program
        assert isinstance(program, LIF)
        populations[1] = replace(populations[1], program=replace(program, bias_mant=ints(bias), gate=gate))
        return replace(shift_network, populations=tuple(populations))

    inputs = digits_like_inputs(20, shift_network)
    strong, weak = with_conv1(999, Gate(256, 8)), with_conv1(999, Gate(2, 0))
    good = fast.run(strong, inputs)
    assert_spikes_equal(strong, good, reference.run(strong, inputs), inputs)
    assert not equivalence.compare(strong, good, reference.run(weak, inputs), inputs).equal
