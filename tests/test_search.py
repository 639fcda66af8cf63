"""The scale search: its compiled arithmetic against the obvious one, its rounds against an exhaustive search."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_passes import graphs, random_inputs

from export import candidate, limits, quantise, search
from export import graph as g
from export.calibration import FEWEST, MOST, affordable_samples, multiply_accumulates
from export.interpret import delayed, interpret, walk
from export.layer import describe
from export.network import Reset, Source
from export.pipeline import compile_graph, final, lower_graph
from export.quantise import PerChannel, PerLayer, Signed
from train.kernels import fixed_point, loihi, scores


@given(
    steps=st.integers(1, 5),
    samples=st.integers(1, 3),
    neurons=st.sampled_from([1, 7, 511, 512, 513, 1500]),
    dv=st.sampled_from([0, 1, 410, 3072, 4095]),
    du=st.sampled_from([-1, 0, 700, 4095]),
    reach=st.sampled_from([40, 3000, 131_000, 131_072]),
    subtract=st.booleans(),
    seed=st.integers(0, 1000),
)
@settings(max_examples=60, deadline=None)
def test_the_compiled_neuron_is_the_plain_one(
    steps: int, samples: int, neurons: int, dv: int, du: int, reach: int, subtract: bool, seed: int
) -> None:
    """Also where the current wraps and the membrane potential clips."""
    rng = np.random.default_rng(seed)
    current = rng.integers(-reach, reach + 1, (steps, samples, neurons))
    vth = rng.integers(0, min(2 * reach, limits.VTH_LIMIT), neurons)
    bias = rng.integers(-64 * reach, 64 * reach + 1, neurons)
    found = loihi.spikes(current.astype(np.float32), vth, bias, dv, du, subtract=subtract)
    plain = (torch.from_numpy(x) for x in (current, vth, bias))
    expected, _ = fixed_point.loihi_lif(*plain, dv, du, subtract=subtract)
    np.testing.assert_array_equal(found, expected.numpy())


def test_the_compiled_neuron_takes_decays_of_its_own_for_each_neuron() -> None:
    rng = np.random.default_rng(0)
    current = rng.integers(-900, 1800, (6, 2, 3, 4, 4))
    vth, dv = rng.integers(500, 3000, (3, 1, 1)), np.array([0, 1000, 4095]).reshape(3, 1, 1)
    du = np.array([4095, -1, 2000]).reshape(3, 1, 1)
    found = loihi.spikes(current.astype(np.float32), vth, np.zeros((3, 1, 1), dtype=np.int64), dv, du)
    for channel in range(3):
        own = torch.from_numpy(current[:, :, channel])
        arguments = torch.tensor(int(vth[channel, 0, 0])), torch.tensor(0), int(dv[channel, 0, 0])
        expected, _ = fixed_point.loihi_lif(own, *arguments, int(du[channel, 0, 0]))
        assert expected.any()
        np.testing.assert_array_equal(found[:, :, channel], expected.numpy())


@pytest.mark.parametrize("shape", [(3, 2, 5), (4, 3, 7, 6, 5), (1, 40, 130, 9, 9)])
def test_differences_are_counted_by_channel(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    first, second = rng.random(shape) < 0.3, rng.random(shape) < 0.3
    expected = [np.count_nonzero(first[:, :, c] != second[:, :, c]) for c in range(shape[2])]
    np.testing.assert_array_equal(scores.differing(first, second), expected)


@given(bits=st.integers(2, 8), exponent=st.integers(-6, 9), spread=st.floats(0.01, 3), seed=st.integers(0, 1000))
@settings(max_examples=60, deadline=None)
def test_candidates_are_rounded_as_the_chosen_weights_are(bits: int, exponent: int, spread: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    grid = Signed(bits)
    weight = rng.normal(0, spread, (5, 3, 3, 3))
    exponent = max(exponent, grid.smallest_exponent)
    scale = rng.uniform(1, 300, 5) * 2.0**exponent
    expected = quantise.quantise_weights(weight, scale, exponent, grid)
    values, error = candidate.rounded(weight, scale, exponent, grid)
    np.testing.assert_array_equal(values, expected.values << expected.exponent)
    back = values.astype(np.float64) / scale.reshape(-1, 1, 1, 1)
    np.testing.assert_allclose(error, np.square(back - weight).reshape(5, -1).sum(1), rtol=1e-9)


@given(seed=st.integers(0, 1000), steps=st.integers(1, 5))
@settings(max_examples=30, deadline=None)
def test_delays_move_each_channel_by_its_own_steps(seed: int, steps: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.random((steps, 2, 4, 3)) < 0.5
    delay = rng.integers(-3, 4, 4)
    found = delayed(x, delay)
    for t in range(steps):
        for channel, d in enumerate(delay):
            expected = x[t - d, :, channel] if 0 <= t - d < steps else np.zeros((2, 3))
            np.testing.assert_array_equal(found[t, :, channel], expected)


@given(graph=graphs(), seed=st.integers(0, 100))
@settings(max_examples=15, deadline=None)
def test_single_precision_finds_the_float_models_spikes(graph: g.Graph, seed: int) -> None:
    """The search's targets: float32 throughout, and equal to float64 but for potentials at the threshold itself."""
    inputs = random_inputs(graph, seed, samples=2)
    exact = interpret(graph, inputs).values
    for node, value in walk(graph, inputs.astype(np.float32)):
        assert value.dtype == np.float32
        if isinstance(node, g.Neuron):
            assert np.mean((value > 0) != (exact[node.id] > 0)) < 0.01
            break  # a spike that differs goes on to the layers behind


@pytest.mark.parametrize("reset", ["zero", "subtract"])
@pytest.mark.parametrize("start", ["float model", "silence", "noise"])
def test_a_recurrent_layer_answers_to_its_own_spikes(reset: Reset, start: str) -> None:
    """Against one step after the other in plain integers, whatever spikes of its own it is first given."""
    rng = np.random.default_rng(3)
    late = np.array([1, 1, 2, 1, 3, 1])
    lif = g.Neuron("lif", "", ("sum",), 0.5, 0.5, current_leak=np.linspace(0, 0.5, 6), reset=reset)
    nodes = (
        g.Input("input", "", (), (4,), 15),
        g.Dense("in", "", ("input",), rng.normal(0, 0.08, (6, 4)), rng.normal(0.2, 0.1, 6)),
        g.Feedback("again", "", (), "lif", (6,)),
        g.Delay("late", "", ("again",), late),
        g.Dense("own", "", ("late",), rng.normal(0, 0.6, (6, 6)), None),
        g.Add("sum", "", ("in", "own")),
        lif,
        g.Dense("head", "", ("lif",), rng.normal(0, 0.3, (2, 6)), None),
        g.Accumulate("readout", "", ("head",)),
    )
    graph = g.Graph("loop", nodes, 8)
    values = {node.id: x for node, x in walk(graph, random_inputs(graph, 4, samples=5).astype(np.float32))}
    fed = {"float model": values["again"], "silence": values["again"] * 0, "noise": rng.random((8, 5, 6)) < 0.5}[start]
    sources = {"input": values["input"], "lif": fed}
    layer = describe(graph, lif, sources, {"input": Source(4)}, {}, values["lif"], gated=True)
    scale = np.full(6, 500.0)
    found = candidate.integers(layer, scale, scale, Signed(8))
    assert found is not None
    weights = [w.values << w.exponent for w in found.weights]
    singles = [w.astype(np.float32) for w in weights]
    output = candidate.respond(layer, singles, found.program, layer.inputs)

    expected, program = np.zeros((8, 5, 6), dtype=bool), found.program
    current = np.rint(values["input"] @ weights[0].T).astype(np.int64)
    constants = [torch.from_numpy(x) for x in (program.vth, program.bias, program.dv, program.du)]
    for t in range(8):
        fed_back = [expected[t - d, :, c] if t >= d else np.zeros(5) for c, d in enumerate(late)]
        current[t] += np.stack(fed_back, 1).astype(np.int64) @ weights[1].T
        expected[t] = fixed_point.loihi_lif(torch.from_numpy(current), *constants, subtract=reset == "subtract")[0][t]
    assert 0.1 < expected.mean() < 0.9
    np.testing.assert_array_equal(output, expected)
    alone = candidate.respond(layer, [singles[0], singles[1] * 0], found.program, layer.inputs)
    assert (alone != expected).any(), "what it feeds back matters"


@pytest.mark.parametrize("granularity", [PerChannel(), PerLayer()])
@pytest.mark.parametrize("bits", [8, 4])
def test_rounds_find_what_looking_at_everything_finds(
    bits: int, granularity: quantise.Granularity, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first layer, where both searches see the same inputs: nearly the same spikes and silences are lost."""
    graph = classifier()
    stages = lower_graph(graph)
    inputs = random_inputs(graph, 1, samples=128)
    monkeypatch.setattr(search, "ROUNDS", ((1 << 9, 5), (1 << 11, 1)))  # 4 and 15 of the 128 samples
    quick = compile_graph(stages, inputs, Signed(bits), granularity).network.records[0]
    monkeypatch.setattr(search, "ROUNDS", ((1 << 62, 1),))
    thorough = compile_graph(stages, inputs, Signed(bits), granularity).network.records[0]
    assert thorough.spike_agreement >= quick.spike_agreement
    assert 1 - quick.spike_agreement < 1.3 * (1 - thorough.spike_agreement)


def test_each_channel_gets_the_factor_that_is_best_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against one search for every factor, beside the largest one, which decides what can be proved."""
    graph = final(lower_graph(classifier()))
    inputs = random_inputs(graph, 2, samples=16)
    (_, x), (node, target) = list(walk(graph, inputs.astype(np.float32)))[:2]
    assert isinstance(node, g.Neuron)

    def lost() -> np.ndarray:
        layer = describe(graph, node, {"input": x}, {"input": Source(4)}, {}, target, gated=True)
        _, output = search.search(layer, Signed(4), PerChannel())
        return np.asarray((output != (target > 0)).sum(axis=(0, 1, 3, 4)))

    together, factors = lost(), search.FACTORS
    alone = []
    for factor in factors:
        monkeypatch.setattr(search, "FACTORS", (factor, factors[-1]))
        alone.append(lost())
    np.testing.assert_array_equal(together, np.min(alone, axis=0))
    assert len(np.unique(np.argmin(alone, axis=0))) > 2, "channels differ in the factor that is best"


@pytest.mark.parametrize(("side", "expected"), [(8, MOST), (256, 14), (1024, FEWEST)])
def test_large_networks_take_fewer_samples(side: int, expected: int) -> None:
    rng = np.random.default_rng(0)
    weight = rng.normal(0, 1, (64, 64, 3, 3))
    weight[:, 32:] = 0
    nodes = (
        g.Input("input", "", (), (64, side, side), 15),
        g.Convolution("conv", "", ("input",), weight, None, (1, 1), (1, 1)),
        g.Neuron("lif", "", ("conv",), 0.25, 0.5),
    )
    graph = g.Graph("large", nodes, 8)
    assert multiply_accumulates(graph) == 64 * 32 * 9 * side * side * 8
    assert affordable_samples(graph) == expected


def classifier() -> g.Graph:
    rng = np.random.default_rng(5)
    nodes = (
        g.Input("input", "", (), (2, 6, 6), 15),
        g.Convolution("conv", "", ("input",), rng.normal(0, 0.1, (8, 2, 3, 3)), rng.normal(0, 0.2, 8), (1, 1), (1, 1)),
        g.Neuron("lif", "", ("conv",), 0.25, 0.5),
        g.Dense("head", "", ("lif",), rng.normal(0, 0.1, (4, 288)), None),
        g.Accumulate("readout", "", ("head",)),
    )
    return g.Graph("classifier", nodes, 4)


def test_read_out_of_few_bits_keeps_its_weights() -> None:
    """4096 inputs over 8 steps leave a weight about 40 units of a_in: steps of 32, the coarsest of 4 bits, lose it."""
    rng = np.random.default_rng(0)
    shape, steps = (4, 32, 32), 8
    nodes = (
        g.Input("input", "input", (), shape, 1),
        g.Dense("head", "head", ("input",), rng.normal(0, 0.05, (10, 4096)), None),
        g.Accumulate("readout", "readout", ("head",)),
    )
    x = (rng.random((steps, 4, *shape)) < 0.3).astype(np.float64)
    network = compile_graph(lower_graph(g.Graph("few", nodes, steps)), x, Signed(4)).network
    assert len(np.unique(network.connections[0].synapses.weight)) > 8
    assert network.records[0].weight_error < 0.35


def test_channels_without_room_are_levelled_with_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of many positive weights have no room for scales at which the others fill a grid of 4 bits."""
    rng = np.random.default_rng(0)
    weight = np.zeros((6, 2304))
    weight[:3] = rng.uniform(0.2, 1, (3, 2304))
    weight[3:, :8] = rng.normal(0, 1, (3, 8))
    threshold = np.array([0.3 * weight[0].sum()] * 3 + [0.5] * 3)
    nodes = (
        g.Input("input", "input", (), (1, 48, 48), 1),
        g.Dense("dense", "dense", ("input",), weight, None),
        g.Neuron("lif", "lif", ("dense",), np.array([0.25]), threshold),
        g.Dense("head", "head", ("lif",), rng.normal(0, 1, (2, 6)), None),
        g.Accumulate("readout", "readout", ("head",)),
    )
    graph = g.Graph("levels", nodes, 4)
    x = (rng.random((4, 32, 1, 48, 48)) < 0.3).astype(np.float64)
    levelled = compile_graph(lower_graph(graph), x, Signed(4)).network.records[0]
    monkeypatch.setattr(search, "_levelled", lambda *arguments: ())
    alone = compile_graph(lower_graph(graph), x, Signed(4)).network.records[0]
    assert levelled.weight_error < 0.8 * alone.weight_error
    assert levelled.spike_agreement >= alone.spike_agreement
