"""NIR networks all the way: the integer network in two engines, our own file read back, options that must matter."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import nir
import nir_machine
import numpy as np
import pytest

from export import graph as g
from export.formats import nir_file
from export.formats.nir_presets import WRITERS, Discretisation, Meaning
from export.formats.nir_reader import read_nir
from export.formats.nir_writer import write_nir
from export.graph import Graph
from export.hdf5_tree import read_here
from export.interpret import interpret
from export.passes.gather_currents import gather_currents
from export.passes.retime import retime
from export.pipeline import PASSES, compile_graph, lower_graph
from sim import fast, reference
from sim.pytest_plugin import assert_spikes_equal
from train.errors import UserError

STEPS, BATCH, DT = 8, 6, 1e-4


@pytest.fixture(autouse=True)
def _in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """These files are sound: no process of their own for each of them."""
    monkeypatch.setattr(nir_file, "read_tree", read_here)


def neuron(kind: str, size: int, rng: np.random.Generator) -> Any:
    tau, theta, zero = DT * rng.uniform(1.5, 5, size), rng.uniform(0.5, 1, size), np.zeros(size)
    if kind == "CubaLIF":
        return nir.CubaLIF(DT * rng.uniform(1.2, 3, size), tau, tau / DT, zero + 0.1, theta, zero, zero + 1)
    if kind == "IF":
        return nir.IF(zero + 1 / DT, theta, zero)
    return nir.LIF(tau, tau / DT, zero + 0.1, theta, zero - 0.1)


def network(kind: str, end: str, loop: bool = False) -> Any:
    rng = np.random.default_rng(5)
    last = {
        "I": nir.I(np.full(3, 1 / DT)),
        "LI": nir.LI(np.full(3, 3 * DT), np.full(3, 3.0), np.zeros(3)),
        "CubaLI": nir.CubaLI(np.full(3, 2 * DT), np.full(3, 3 * DT), np.full(3, 3.0), np.zeros(3), np.full(3, 2.0)),
    }
    nodes = {
        "input": nir.Input({"input": np.array([5])}),
        "fc1": nir.Affine(rng.normal(0.1, 0.6, (12, 5)), rng.normal(0, 0.1, 12)),
        "lif1": neuron(kind, 12, rng),
        "fc2": nir.Affine(rng.normal(0.1, 0.5, (8, 12)), rng.normal(0, 0.1, 8)),
        "lif2": neuron("LIF", 8, rng),
        "fc3": nir.Affine(rng.normal(0, 0.5, (3, 8)), rng.normal(0, 0.1, 3)),
        "end": last[end],
        "output": nir.Output({"output": np.array([3])}),
    }
    names = list(nodes)
    edges = list(pairwise(names))
    if loop:
        nodes["rec"] = nir.Affine(rng.normal(0, 0.4, (12, 12)), rng.normal(0, 0.1, 12))
        edges += [("lif1", "rec"), ("rec", "lif1")]
    return nir.NIRGraph(nodes, edges, type_check=False)


def inputs() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 3, (STEPS, BATCH, 5)).astype(np.float64)


def read(found: Any, path: Path, **meaning: Any) -> Graph:
    nir.write(path, found)
    return read_nir(path, Meaning(DT, **meaning).discretisation(STEPS, 2))


@pytest.mark.parametrize("loop", [False, True])
@pytest.mark.parametrize("reset", ["zero", "subtract"])
@pytest.mark.parametrize(("kind", "end"), [("LIF", "I"), ("IF", "LI"), ("CubaLIF", "CubaLI")])
def test_the_integer_network_is_the_same_in_two_engines(
    kind: str, end: str, reset: str, loop: bool, tmp_path: Path
) -> None:
    found = network(kind, end, loop)
    if reset == "subtract":
        for node in found.nodes.values():
            if hasattr(node, "v_reset"):
                node.v_reset = np.zeros_like(node.v_threshold)
    compiled = compile_graph(lower_graph(read(found, tmp_path / "a.nir", reset=reset)), inputs())
    x = inputs().swapaxes(0, 1).astype(np.int64)
    one, other = fast.run(compiled.network, x), reference.run(compiled.network, x)
    assert_spikes_equal(compiled.network, one, other, x)
    assert all(spikes.any() for spikes in one.spikes.values())
    agreement = [record.spike_agreement for record in compiled.network.records]
    assert min(agreement) > 0.8


@pytest.mark.parametrize(
    "other",
    [
        {"dt": 5e-5},
        {"reset": "subtract"},
        {"writer": replace(WRITERS["nir"], integrator="exponential")},
        {"writer": replace(WRITERS["nir"], tau="steps", integrator="exponential")},
        {"writer": replace(WRITERS["nir"], unit_synapse=True)},
    ],
)
def test_every_option_changes_the_spikes(other: dict[str, Any], tmp_path: Path) -> None:
    """What a file leaves open decides what it does; a reader that ignored an option would be seen."""
    found = network("CubaLIF", "I")
    found.nodes["lif2"].v_reset *= 0
    nir.write(tmp_path / "a.nir", found)
    how = Discretisation(DT, STEPS, 2)
    first, second = (
        interpret(read_nir(tmp_path / "a.nir", choice), inputs()).values for choice in (how, replace(how, **other))
    )
    assert (first["lif1"] != second["lif1"]).any() or (first["lif2"] != second["lif2"]).any()


@pytest.mark.parametrize(("writer", "fired"), [("nir", False), ("spikingjelly", True)])
def test_a_threshold_that_is_just_reached(writer: str, fired: bool, tmp_path: Path) -> None:
    nodes = {
        "input": nir.Input({"input": np.array([1])}),
        "fc": nir.Linear(np.array([[0.5]])),
        "lif": nir.IF(np.array([1 / DT]), np.array([0.5]), np.zeros(1)),
        "output": nir.Output({"output": np.array([1])}),
    }
    graph = read(
        nir.NIRGraph(nodes, [("input", "fc"), ("fc", "lif"), ("lif", "output")]), tmp_path / "a.nir", writer=writer
    )
    x = np.zeros((STEPS, 1, 1))
    x[2] = 1
    assert interpret(graph, x).values["lif"][2, 0, 0] == fired


def test_our_file_comes_back(tmp_path: Path) -> None:
    """A pool with something left over, before a padded convolution, leaves a crop; the file says it, and we read it."""
    rng = np.random.default_rng(1)
    nodes = (
        g.Input("input", "", (), (2, 7, 7), 2),
        g.Convolution("conv", "", ("input",), rng.normal(0.1, 0.4, (3, 2, 3, 3)), None, (1, 1), (1, 1)),
        g.Neuron("lif", "", ("conv",), np.array([0.5]), np.array([0.7])),
        g.AveragePool("pool", "", ("lif",), (2, 2), (2, 2)),
        g.Convolution("next", "", ("pool",), rng.normal(0.1, 0.6, (4, 3, 3, 3)), rng.normal(0, 0.1, 4), (1, 1), (1, 1)),
        g.Neuron("end", "", ("next",), np.array([0.75, 0.5, 0.25, 0.5]), np.array([0.3])),
        g.Flatten("flat", "", ("end",)),
        g.Dense("head", "", ("flat",), rng.normal(0, 0.4, (3, 36)), rng.normal(0, 0.1, 3)),
        g.Accumulate("readout", "", ("head",)),
    )
    graph = Graph("ours", nodes, STEPS)
    final = list(lower_graph(graph).values())[-1]
    assert any(isinstance(n, g.Convolution) and n.crop != ((0, 0), (0, 0)) for n in final.nodes)
    write_nir(tmp_path / "model.nir", retime(final, 0))
    again = read_nir(tmp_path / "model.nir", Discretisation(DT, STEPS, 2))
    x = np.random.default_rng(0).integers(0, 3, (STEPS, BATCH, 2, 7, 7)).astype(np.float64)
    first, second = interpret(graph, x), interpret(again, x)
    for name in ("lif", "end"):
        assert first.values[name].any()
        np.testing.assert_array_equal(first.values[name], second.values[name])
    np.testing.assert_allclose(first.logits, second.logits, atol=1e-9)


def normal_form(graph: Graph) -> Graph:
    """As far as NIR needs it: a synaptic current cannot have such a bias on the chip."""
    for step in PASSES[: PASSES.index(gather_currents) + 1]:
        graph = step(graph)
    return graph


@pytest.mark.parametrize("kind", ["LIF", "IF", "CubaLIF"])
def test_a_bias_that_differs_from_place_to_place_comes_back(kind: str, tmp_path: Path) -> None:
    """Normalised images under padding give one; only a LIF has a parameter for it."""
    rng = np.random.default_rng(1)
    leak, current_leak = np.array([1.0 if kind == "IF" else 0.5]), np.array([0.5 if kind == "CubaLIF" else 0.0])
    geometry = ((2, 1), (1, 1), (1, 2))
    nodes = (
        g.Input("input", "", (), (2, 7, 7), 2),
        g.Affine("norm", "", ("input",), np.array([0.7, 0.5]), np.array([0.4, -0.6])),
        g.Convolution("conv", "", ("norm",), rng.normal(0.1, 0.4, (3, 2, 3, 3)), rng.normal(0, 0.1, 3), *geometry),
        g.Convolution("too", "", ("input",), rng.normal(0.1, 0.4, (3, 2, 3, 3)), None, *geometry),
        g.Add("sum", "", ("conv", "too")),
        g.Neuron("lif", "", ("sum",), leak, np.array([0.7]), current_leak=current_leak),
        g.Flatten("flat", "", ("lif",)),
        g.Dense("head", "", ("flat",), rng.normal(0, 0.4, (3, 60)), rng.normal(0, 0.1, 3)),
        g.Accumulate("readout", "", ("head",)),
    )
    graph = Graph("ours", nodes, STEPS)
    write_nir(tmp_path / "model.nir", retime(normal_form(graph), 0))
    x = np.random.default_rng(0).integers(0, 3, (STEPS, BATCH, 2, 7, 7)).astype(np.float64)
    spikes = interpret(graph, x).values["lif"]
    assert spikes.any()
    assert {"LIF": 0, "IF": 1, "CubaLIF": 1}[kind] == sum(
        isinstance(node, nir.Scale) for node in nir.read(tmp_path / "model.nir").nodes.values()
    )
    outputs = nir_machine.run(tmp_path / "model.nir", x.swapaxes(0, 1))
    np.testing.assert_array_equal(outputs["lif"].swapaxes(0, 1), spikes)
    again = read_nir(tmp_path / "model.nir", Discretisation(DT, STEPS, 2))
    np.testing.assert_array_equal(interpret(again, x).values["lif"], spikes)
    normal = normal_form(again)
    np.testing.assert_array_equal(interpret(normal, x).values["lif"], spikes)
    assert all(node.weight.any() for node in normal.nodes if isinstance(node, g.Convolution))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"lif1": nir.LI(np.full(12, 3e-4), np.ones(12), np.zeros(12))},
            "node lif1: hands its membrane potential on to",
        ),
        ({"end": nir.Delay(np.full(3, 1.5e-4))}, r"node end: a delay of 0\.00015 s is 1\.5 steps"),
        ({"end": nir.Delay(np.full(3, -1e-4))}, "node end: delays of -1 to -1 steps"),
        ({"end": nir.I(np.zeros(3))}, "node end: its gain is 0, must be positive"),
        ({"end": nir.Threshold(np.full(3, -0.5))}, r"node end: a threshold of -0\.5 is negative"),
        ({"end": nir.Scale(np.ones(4))}, r"node end: scale of shape \(4,\) for values of shape \(3,\)"),
        ({"fc2": nir.Linear(np.ones((2, 8, 12)))}, r"node fc2: weight of shape \(2, 8, 12\)"),
        ({"fc2": nir.Conv1d(12, np.ones((8, 1, 1)), 1, 0, 1, 1, np.zeros(8))}, "node fc2: gets an input of shape"),
        (
            {"input": nir.Input({"input": np.array([32, 5])})},
            "node fc1: .*write the file with a sample of batch size 1",
        ),
    ],
)
def test_what_is_refused_by_name(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    found = network("LIF", "I")
    found.nodes.update(change)
    with pytest.raises(UserError, match=message):
        read(found, tmp_path / "a.nir")


def test_neurons_that_drive_each_other_are_refused_by_name(tmp_path: Path) -> None:
    found = network("LIF", "I")
    rng = np.random.default_rng(0)
    found.nodes["twin"] = neuron("LIF", 12, rng)
    found.nodes["there"], found.nodes["back"] = (nir.Linear(np.eye(12)) for _ in range(2))
    found.edges += [("fc1", "twin"), ("twin", "there"), ("there", "lif1"), ("lif1", "back"), ("back", "twin")]
    with pytest.raises(UserError, match="drive each other and are equally far from the input"):
        read(found, tmp_path / "a.nir")
