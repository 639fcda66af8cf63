"""network.onnx and model.onnx: onnxruntime against the reference machine and the float interpreter."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import digits_like_inputs, ints, temporal_shift_network
from hypothesis import given, settings
from hypothesis import strategies as st
from random_networks import networks, payloads

from export import graph as g
from export.connections import Crop
from export.graph import Graph
from export.interpret import interpret
from export.network import LIF, Connection, Convolution, Dense, Network, Population, Source
from export.pipeline import PASSES, lower_graph
from sim import equivalence, onnx_engine, reference
from sim.recording import Recording
from train.errors import UserError

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

from export.formats import onnx_float, onnx_integer, onnx_tape  # noqa: E402 - needs onnx


def assert_equal(network: Network, inputs: np.ndarray) -> tuple[int, int]:
    """onnxruntime and the reference machine agree everywhere; (values compared, spikes among them)."""
    found, expected = onnx_engine.run(network, inputs), reference.run(network, inputs)
    compared = spikes = 0
    for name, values in {**expected.spikes, **expected.membrane}.items():
        got = {**found.spikes, **found.membrane}[name]
        assert got.dtype == values.dtype
        np.testing.assert_array_equal(got, values, err_msg=name)
        compared += values.size
    spikes = sum(int(values.sum()) for values in expected.spikes.values())
    return compared, spikes


def test_random_networks_are_equal_and_fire() -> None:
    compared = spikes = 0

    @given(network=networks(), seed=st.integers(0, 1000))
    @settings(max_examples=25, deadline=None)
    def equal(network: Network, seed: int) -> None:
        nonlocal compared, spikes
        found = assert_equal(network, payloads(network, 3, seed))
        compared, spikes = compared + found[0], spikes + found[1]

    equal()
    assert 1000 < spikes < 0.9 * compared, (spikes, compared)


@given(network=networks(wild=True), seed=st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_neurons_that_wrap_and_clip_are_equal(network: Network, seed: int) -> None:
    assert_equal(network, payloads(network, 3, seed))


def test_sums_beyond_float32_are_taken_apart() -> None:
    """600 inputs of weight 254 and 8-bit payloads pass 2^24 by far; a bit lost there would move a threshold by one."""
    rng = np.random.default_rng(0)
    x = ints(rng.integers(200, 256, (6, 1, 600)))
    weight = ints(2 * rng.integers(100, 128, (1, 600)))
    sums = (x[:, 0] @ weight[0]).tolist()
    assert min(sums) > 1 << 24
    synapses, zero = Dense(weight), ints([0] * 600)
    wide = Network(
        "wide",
        (
            Population("input", "", (600,), 0, Source(8)),
            Population("readout", "", (1,), 1, LIF(4095, 0, ints(131071), ints(0), 0), readout=True),
        ),
        (Connection("c", "", "input", "readout", synapses, 0, zero),),
        1,
        1,
    )
    assert onnx_integer._bits_at_once(wide.connections[0]) < 8
    assert_equal(wide, x)


@pytest.mark.parametrize(("offset", "low_bits"), [((100, 17), 0), ((), 3), ((200, 3), 4)])
def test_coded_inputs_are_coded_in_the_file(offset: tuple[int, ...], low_bits: int) -> None:
    """Centred values are negative, sliced ones are two channels for one; wide weights take negative ones apart too."""
    program = Source(8, offset, low_bits)
    shape = program.sent_shape((2, 5, 6))
    rng = np.random.default_rng(low_bits)
    weight = ints(2 * rng.integers(-20, 21, (4, shape[0], 3, 3)))
    kernel = Convolution(weight, (1, 1), (1, 1))
    network = Network(
        "coded",
        (
            Population("input", "", shape, 0, program),
            Population("conv", "", (4, 5, 6), 1, LIF(3000, 500, ints(2000), ints(50), 0)),
        ),
        (Connection("c", "", "input", "conv", kernel, 1, ints([0] * shape[0])),),
        3,
        3,
    )
    inputs = ints(rng.integers(0, 256, (4, 3, 2, 5, 6)))
    assert assert_equal(network, inputs)[1] > 100
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx_integer, "_bits_at_once", lambda connection: 3)
        assert assert_equal(network, inputs)[1] > 100


def equal(network: Network, other: Network, inputs: np.ndarray) -> bool:
    return equivalence.compare(network, onnx_engine.run(other, inputs), reference.run(network, inputs), inputs).equal


@pytest.mark.parametrize("fault", ["weight", "threshold", "decay", "delay", "bias"])
def test_planted_faults_are_caught(fault: str, shift_network: Network) -> None:
    """The file of a network with one fault differs from the network without it."""
    inputs = digits_like_inputs(20, shift_network)
    assert equal(shift_network, shift_network, inputs)
    populations, connections = list(shift_network.populations), list(shift_network.connections)
    program = populations[2].program
    assert isinstance(program, LIF)
    match fault:
        case "weight":
            weight = connections[1].synapses.weight.copy()
            weight[1, 2, 1, 1] ^= 64
            connections[1] = replace(connections[1], synapses=replace(connections[1].synapses, weight=weight))
        case "delay":
            connections[2] = replace(connections[2], delay=ints([1, 1, 2, 1]))
        case "threshold":
            populations[2] = replace(populations[2], program=replace(program, vth=program.vth - 1))
        case "decay":
            populations[2] = replace(populations[2], program=replace(program, dv=program.dv - 1024))
        case "bias":
            populations[2] = replace(populations[2], program=replace(program, bias_mant=program.bias_mant + 300))
    faulty = replace(shift_network, populations=tuple(populations), connections=tuple(connections))
    assert not equal(shift_network, faulty, inputs)


def test_rounding_the_decay_the_other_way_would_show(monkeypatch: pytest.MonkeyPatch) -> None:
    """Decays round toward zero; a floor, which differs below zero only, is seen."""
    network = temporal_shift_network()
    inputs = digits_like_inputs(20, network)
    original = onnx_integer._decayed

    def floored(tape: onnx_tape.Tape, state: str, keep: int) -> str:
        negative = tape("Less", state, tape.number(0, np.int64))
        lower = tape("Sub", original(tape, state, keep), tape.number(1, np.int64))
        return tape("Where", negative, lower, original(tape, state, keep))

    monkeypatch.setattr(onnx_integer, "_decayed", floored)
    found: Recording = onnx_engine.run(network, inputs)
    assert not equivalence.compare(network, found, reference.run(network, inputs), inputs).equal


def test_file_is_a_checked_model_of_the_stated_opset(tmp_path: Path, shift_network: Network) -> None:
    onnx_integer.write_onnx(tmp_path / "network.onnx", shift_network)
    made = onnx.load(tmp_path / "network.onnx")
    onnx.checker.check_model(made, full_check=True)
    assert [(entry.domain, entry.version) for entry in made.opset_import] == [("", 17)]
    assert {entry.key: entry.value for entry in made.metadata_props}["network"] == shift_network.digest
    inputs = digits_like_inputs(3, shift_network)
    values = onnx_engine.run_model(ort, (tmp_path / "network.onnx").read_bytes(), shift_network, inputs)
    np.testing.assert_array_equal(values["conv1"], reference.run(shift_network, inputs).spikes["conv1"])


def test_what_a_runtime_cannot_load_is_refused(monkeypatch: pytest.MonkeyPatch, shift_network: Network) -> None:
    monkeypatch.setattr(onnx_tape, "MAX_NODES", 60)
    with pytest.raises(UserError, match="more than 60 nodes"):
        onnx_integer.to_onnx(shift_network)
    monkeypatch.setattr(onnx_tape, "MAX_NODES", 1000)
    monkeypatch.setattr(onnx_tape, "MAX_BYTES", 500)
    with pytest.raises(UserError, match="more than 500 bytes"):
        onnx_integer.to_onnx(shift_network)


def test_recurrent_networks_are_refused(shift_network: Network) -> None:
    back = Connection("back", "", "conv2", "conv1", Dense(ints(np.full((256, 64), 2))), 0, ints([0] * 4))
    network = replace(shift_network, period=12, connections=(*shift_network.connections, back))
    with pytest.raises(UserError, match="connection back: its source conv2 comes later"):
        onnx_integer.to_onnx(network)


# --- the float model ---


def dyadic(seed: int) -> Graph:
    """A network whose sums are exact in float32: weights and leaks are small fractions of powers of two."""
    rng = np.random.default_rng(seed)

    def fractions(*shape: int) -> np.ndarray:
        return rng.integers(-8, 9, shape) / 8

    shift = g.TemporalShift("shift", "", ("lif1",), 0.5, 1, 3)
    nodes = (
        g.Input("input", "", (), (2, 5, 6), 7),
        g.Convolution("conv1", "", ("input",), fractions(4, 1, 3, 3), fractions(4), (1, 2), (1, 1), (1, 1), 2),
        g.Neuron("lif1", "", ("conv1",), 0.5, 1.0),
        shift,
        g.Convolution("conv2", "", ("shift",), fractions(4, 4, 3, 3), None, (1, 1), (1, 1), crop=((1, 0), (0, 1))),
        g.Add("join", "", ("conv2", "lif1")),
        g.Neuron("lif2", "", ("join",), 0.25, 0.5),
        g.AveragePool("pool", "", ("lif2",), (1, 1), (1, 1)),
        g.Dense("head", "", ("pool",), fractions(3, 60), fractions(3)),
        g.Accumulate("readout", "", ("head",)),
    )
    return lower_graph(Graph("dyadic", nodes, 5))[PASSES[-1].__name__]


def run_float(graph: Graph, inputs: np.ndarray) -> dict[str, np.ndarray]:
    """Every output [T, B, ...] for inputs of the same layout."""
    session = ort.InferenceSession(
        onnx_float.to_float_onnx(graph).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    values = session.run(names, {graph.nodes[0].id: inputs.swapaxes(0, 1).astype(np.float32)})
    return {name: value.swapaxes(0, 1) for name, value in zip(names, values, strict=True)}


@pytest.mark.parametrize("seed", range(4))
def test_float_model_equals_the_interpreter(seed: int) -> None:
    graph = dyadic(seed)
    inputs = np.random.default_rng(seed).integers(0, 8, (graph.steps, 3, 2, 5, 6)).astype(np.float64)
    found, expected = run_float(graph, inputs), interpret(graph, inputs).values
    assert set(found) == {"lif1", "lif2", "readout"}
    for name, values in found.items():
        assert np.ptp(values) > 0, f"{name}: nothing to compare"
        np.testing.assert_array_equal(values, expected[name], err_msg=name)


def test_a_node_that_should_be_gone_is_refused() -> None:
    nodes = (
        g.Input("input", "", (), (2, 4, 4), 7),
        g.AveragePool("pool", "", ("input",), (2, 2), (2, 2)),
        g.Accumulate("readout", "", ("pool",)),
    )
    with pytest.raises(UserError, match="AveragePool pool: ONNX has no such node"):
        onnx_float.to_float_onnx(Graph("pool", nodes, 2))


@pytest.mark.parametrize("crop", [((0, 0), (0, 0)), ((1, 2), (0, 3))])
def test_geometry_of_convolutions(crop: Crop) -> None:
    """Strides, padding, dilation, groups and rows without synapses that differ by axis."""
    rng = np.random.default_rng(0)
    kernel = Convolution(ints(2 * rng.integers(-9, 9, (4, 2, 3, 2))), (2, 1), (2, 1), (2, 1), 2, crop)
    network = Network(
        "geometry",
        (
            Population("input", "", (4, 9, 8), 0, Source(4)),
            Population("conv", "", kernel.output_shape((4, 9, 8)), 1, LIF(4095, 0, ints(200), ints(50), 0)),
        ),
        (Connection("c", "", "input", "conv", kernel, 1, ints([0] * 4)),),
        3,
        3,
    )
    assert assert_equal(network, payloads(network, 4, 0))[1] > 100
