"""Scales, exponents and proofs: properties over the whole range, and the promise of the overflow proof."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_passes import graphs, random_inputs

from export import graph as g
from export import limits, proof, quantise
from export.network import LIF, Network, Source
from export.pipeline import compile_graph, left_out, lower_graph
from export.quantise import PerChannel, PerLayer, Signed
from sim import equivalence, fast, reference
from train.errors import UserError


@given(bits=st.integers(2, 8), seed=st.integers(0, 1000), exponent=st.integers(-6, 5))
def test_weights_land_on_the_grid_no_further_than_half_a_step(bits: int, seed: int, exponent: int) -> None:
    grid, rng = Signed(bits), np.random.default_rng(seed)
    exponent = max(exponent, grid.smallest_exponent)
    weight, scale = rng.normal(0, 1, (3, 4)), rng.uniform(10, 200, 3)
    found = quantise.quantise_weights(weight, scale, exponent, grid)
    assert found.exponent == max(exponent, 0)
    values = (found.values << found.exponent) / 2.0**exponent
    assert not (values % grid.step).any()
    assert not (found.values % 2).any()
    assert values.min() >= -256
    assert values.max() <= grid.largest
    assert len(np.unique(found.values)) <= 1 << bits
    exact = weight * scale[:, None] / 2.0**exponent
    inside = (exact <= grid.largest) & (exact >= -256)
    assert np.abs(values - exact)[inside].max(initial=0) <= grid.step / 2
    assert found.saturated <= np.count_nonzero(~inside)


@given(bits=st.integers(2, 7), exponent=st.integers(-6, -1), seed=st.integers(0, 1000))
def test_a_negative_exponent_loses_nothing_to_the_floor(bits: int, exponent: int, seed: int) -> None:
    """Lava: a = (W s) >> -exponent with W at the top of the range. The network's small even weights give the same."""
    grid, rng = Signed(bits), np.random.default_rng(seed)
    exponent = max(exponent, grid.smallest_exponent)
    spikes = rng.integers(-100, 100, (6, 50))
    steps = rng.integers(-(1 << (bits - 1)), 1 << (bits - 1), (4, 6))
    exact = (steps * grid.step) @ spikes >> -exponent
    found = quantise.quantise_weights(steps * grid.unit(exponent), np.ones(4), exponent, grid)
    np.testing.assert_array_equal(found.values @ spikes, exact)
    assert found.saturated == 0


@given(peak=st.floats(0.01, 60000), bits=st.integers(2, 8))
def test_finest_exponent_is_the_smallest_that_holds_the_peak(peak: float, bits: int) -> None:
    grid = Signed(bits)
    exponent = quantise.finest_exponent(peak, grid)
    assert exponent is not None
    one = np.array([1.0])
    assert quantise.quantise_weights(np.array([[peak]]), one, exponent, grid).saturated == 0
    if exponent > grid.smallest_exponent:
        assert quantise.quantise_weights(np.array([[peak]]), one, exponent - 1, grid).saturated == 1


@given(bias=st.lists(st.floats(-520_000, 520_000), min_size=1, max_size=5))
def test_bias_is_exact_to_half_a_unit_of_its_exponent(bias: list[float]) -> None:
    encoded = quantise.quantise_bias(np.array(bias), quantise.Signed())
    assert encoded is not None
    mantissa, exponent = encoded
    assert np.abs((mantissa << exponent) - np.array(bias)).max() <= (1 << exponent) / 2
    assert mantissa.min() >= -4096
    assert mantissa.max() <= 4095


def test_bias_beyond_the_range_is_not_encoded() -> None:
    assert quantise.quantise_bias(np.array([4096.0 * 128]), quantise.Signed()) is None


@pytest.mark.parametrize(("leak", "dv"), [(0.25, 3072), (1.0, 0), (0.5, 2048), (0.9, 410)])
def test_decay(leak: float, dv: int) -> None:
    assert quantise.quantise_decay(leak) == dv


@given(graph=graphs(), layer=st.booleans(), seed=st.integers(0, 100))
@settings(max_examples=25, deadline=None)
def test_compiled_networks_run_equal_in_machine_and_engine_and_never_leave_the_proof(
    graph: g.Graph, layer: bool, seed: int
) -> None:
    """Random networks: the stepwise machine equals the layer-wise engine, and no current leaves its proved bounds."""
    inputs = random_inputs(graph, seed, samples=3)
    try:
        granularity = PerLayer() if layer else PerChannel()
        network = compile_graph(lower_graph(graph), inputs, granularity=granularity).network
    except UserError as error:
        assert "24 bits" in str(error) or "every weight" in str(error)
        return
    x = inputs.swapaxes(0, 1).astype(np.int64)
    worst = np.where(np.random.default_rng(seed).random(x.shape) < 0.5, 0, 15)
    for batch in (x, worst):
        machine = reference.simulate(network, batch)
        for record in network.records:
            current = machine.current[record.population]
            assert record.current_bound[0] <= current.min()
            assert current.max() <= record.current_bound[1]
            assert max(abs(record.current_bound[0]), record.current_bound[1]) < limits.CURRENT_LIMIT
        slow, quick = reference.run(network, batch), fast.run(network, batch)
        if any(spikes.any() for spikes in slow.spikes.values()):  # in its windows
            assert equivalence.compare(network, quick, slow, batch).equal
        silent_readout = machine.spikes[network.readout.id] if network.readout else np.zeros(1)
        assert not silent_readout.any()


@given(seed=st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_proved_bounds_are_reached(seed: int) -> None:
    """The bounds are tight: an input that drives exactly the positive (negative) synapses of a neuron reaches them."""
    rng = np.random.default_rng(seed)
    weight = 2 * rng.integers(-128, 128, (3, 6))
    node = g.Dense("d", "", ("x",), weight.astype(np.float64), None)
    low, high = proof.current_bounds([proof.Driver(node, weight, 2, (6,), proof.payload(Source(3), 6))])
    np.testing.assert_array_equal(high, [(w[w > 0].sum() * 7) << 2 for w in weight])
    np.testing.assert_array_equal(low, [(w[w < 0].sum() * 7) << 2 for w in weight])


@given(
    high=st.integers(0, 100_000),
    bias=st.integers(-500_000, 500_000),
    vth=st.integers(0, 131_071),
    dv=st.integers(0, 4095),
)
def test_gate_holds_the_neuron_silent_from_any_state(high: int, bias: int, vth: int, dv: int) -> None:
    gate = proof.gate_for(np.array([high]), np.array([bias]))
    if gate is None:
        return
    assert gate.weight % 2 == 0
    for v in (vth << 6, 0, -(1 << 22)):
        decayed = int(np.sign(v)) * ((abs(v) * (4096 - dv)) >> 12)
        assert decayed + ((high - gate.current) << 6) + bias <= vth << 6


def test_a_layer_that_must_overflow_is_refused_by_name() -> None:
    rng = np.random.default_rng(0)
    nodes = (
        g.Input("input", "", (), (40_000,), 255),
        g.Dense("big", "stage.big", ("input",), rng.choice([-1.0, 1.0], (2, 40_000)), np.zeros(2)),
        g.Neuron("lif", "stage.lif", ("big",), 0.25, 0.5),
        g.Dense("head", "head", ("lif",), np.eye(2), None),
        g.Accumulate("readout", "readout", ("head",)),
    )
    graph = g.Graph("big", nodes, 1)
    with pytest.raises(UserError, match=r"stage\.lif: its current can leave the 24 bits"):
        compile_graph(lower_graph(graph), np.ones((1, 1, 40_000)))


def test_dead_weights_are_named() -> None:
    nodes = (
        g.Input("input", "", (), (3,), 255),
        g.Dense("zero", "", ("input",), np.zeros((2, 3)), np.ones(2)),
        g.Neuron("lif", "stage.lif", ("zero",), 0.25, 0.5),
        g.Dense("head", "head", ("lif",), np.eye(2), None),
        g.Accumulate("readout", "readout", ("head",)),
    )
    with pytest.raises(UserError, match=r"stage\.lif: every weight into it is zero"):
        compile_graph(lower_graph(g.Graph("dead", nodes, 1)), np.ones((1, 1, 3)))


@pytest.mark.parametrize("bits", [8, 6, 4])
def test_search_beats_taking_the_largest_weight(bits: int) -> None:
    """What the search chooses agrees with the float model at least as well as the fixed factor 1 does."""
    from export import search

    graph = _classifier()
    inputs = random_inputs(graph, 1, samples=64)
    stages = lower_graph(graph)
    found = compile_graph(stages, inputs, Signed(bits)).network
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search, "FACTORS", (1.0,))
        fixed = compile_graph(stages, inputs, Signed(bits)).network
    assert agreement(found)[0] >= agreement(fixed)[0]
    assert agreement(found)[0] > 0.97 - 0.04 * (8 - bits)


def agreement(network: Network) -> list[float]:
    return [record.spike_agreement for record in network.records]


def _classifier() -> g.Graph:
    rng = np.random.default_rng(5)
    nodes = (
        g.Input("input", "", (), (2, 6, 6), 15),
        g.Convolution("conv", "", ("input",), rng.normal(0, 0.1, (8, 2, 3, 3)), rng.normal(0, 0.2, 8), (1, 1), (1, 1)),
        g.Neuron("lif", "", ("conv",), 0.25, 0.5),
        g.Dense("head", "", ("lif",), rng.normal(0, 0.1, (4, 288)), None),
        g.Accumulate("readout", "", ("head",)),
    )
    return g.Graph("classifier", nodes, 4)


def test_per_channel_scales_use_thresholds_of_their_own() -> None:
    graph = _classifier()
    inputs = random_inputs(graph, 1, samples=8)
    program = compile_graph(lower_graph(graph), inputs).network.population("lif").program
    assert isinstance(program, LIF)
    assert len(np.unique(program.vth)) > 1
    one = compile_graph(lower_graph(graph), inputs, granularity=PerLayer()).network.population("lif").program
    assert isinstance(one, LIF)
    assert len(np.unique(one.vth)) == 1


def test_synapses_whose_weights_all_become_zero_are_named() -> None:
    rng = np.random.default_rng(0)
    nodes = (
        g.Input("input", "", (), (5,), 3),
        g.Dense("first", "", ("input",), rng.normal(0.3, 0.3, (6, 5)), None),
        g.Neuron("lif0", "", ("first",), np.array([0.5]), np.array([0.7])),
        g.Dense("large", "", ("lif0",), rng.normal(0.3, 0.5, (6, 6)), None),
        g.Dense("small", "block.shortcut", ("lif0",), 1e-6 * np.eye(6), None),
        g.Add("sum", "", ("large", "small")),
        g.Neuron("lif1", "", ("sum",), np.array([0.5]), np.array([0.7])),
        g.Dense("head", "", ("lif1",), rng.normal(0, 0.4, (3, 6)), None),
        g.Accumulate("readout", "", ("head",)),
    )
    x = rng.integers(0, 4, (4, 20, 5)).astype(np.float64)
    compiled = compile_graph(lower_graph(g.Graph("small", nodes, 4)), x)
    (where,) = left_out(compiled)
    assert "block.shortcut" in where
    assert "small" not in {c.id for c in compiled.network.connections}
