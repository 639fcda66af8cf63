"""Files of older NIR versions: the same network as today's file of the same graph, value for value."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import nir
import nir_layouts
import numpy as np
import pytest

from export.formats import nir_file
from export.formats.nir_presets import Discretisation
from export.formats.nir_reader import read_nir
from export.graph import Graph, Neuron
from export.hdf5_tree import read_here
from export.interpret import interpret
from train.errors import UserError

DT, STEPS, SAMPLES = 1e-4, 8, 5
RNG = np.random.default_rng(2)


@pytest.fixture(autouse=True)
def _in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """These files are sound: no process of their own for each of them."""
    monkeypatch.setattr(nir_file, "read_tree", read_here)


def weights(*shape: int) -> np.ndarray:
    return RNG.normal(0.1, 1.5 / np.sqrt(np.prod(shape[1:])), shape)


def neuron(kind: type, *shape: int, **more: Any) -> Any:
    """Without v_reset, which is 0 then, as it was."""
    one = np.ones(shape)
    if kind is nir.IF:
        return nir.IF(one / DT, one)
    if kind is nir.CubaLIF:
        return nir.CubaLIF(2 * DT * one, 3 * DT * one, 3 * one, 0.1 * one, one, **more)
    return nir.LIF(3 * DT * one, 2 * one, 0.1 * one, one)


def chain(*nodes: Any) -> nir.NIRGraph:
    names = ["input", *(f"n{i}" for i in range(1, len(nodes) - 1)), "output"]
    return nir.NIRGraph(dict(zip(names, nodes, strict=True)), list(pairwise(names)), type_check=False)


def ends(shape: tuple[int, ...], out: tuple[int, ...]) -> tuple[nir.Input, nir.Output]:
    return nir.Input({"input": np.array(shape)}), nir.Output({"output": np.array(out)})


def matrices(**more: Any) -> nir.NIRGraph:
    first, last = ends((6,), (3,))
    nodes = (nir.Affine(weights(8, 6), weights(8)), neuron(nir.CubaLIF, 8, **more), nir.Scale(np.full(8, 1.5)))
    nodes += (nir.Linear(weights(5, 8)), neuron(nir.LIF, 5), nir.Delay(np.full(5, 2 * DT)), nir.Linear(weights(3, 5)))
    return chain(first, *nodes, nir.LI(np.full(3, 3 * DT), np.full(3, 3.0), np.zeros(3)), last)


def images() -> nir.NIRGraph:
    first, last = ends((2, 6, 6), (3,))
    one = nir.Conv2d((6, 6), weights(4, 2, 3, 3), 1, 1, 1, 1, weights(4))
    two = nir.Conv2d((6, 6), weights(4, 2, 3, 3), (2, 1), "valid", 1, 2, weights(4))
    three = nir.Conv2d((2, 4), weights(2, 4, 3, 3), 1, "same", 1, 1, weights(2))
    layers = (one, neuron(nir.IF, 4, 6, 6), two, neuron(nir.LIF, 4, 2, 4), three, neuron(nir.IF, 2, 2, 4))
    flat = nir.Flatten({"input": np.array([2, 2, 4])}, 0, -1)
    return chain(first, *layers, flat, nir.Affine(weights(3, 16), weights(3)), neuron(nir.LIF, 3), last)


def signals() -> nir.NIRGraph:
    first, last = ends((2, 8), (3, 8))
    return chain(first, nir.Conv1d(8, weights(3, 2, 3), 1, 1, 1, 1, weights(3)), neuron(nir.IF, 3, 8), last)


def nested() -> nir.NIRGraph:
    """A subgraph with a loop in it."""
    inside, outside = ends((6,), (5,)), ends((6,), (4,))
    block = {"input": inside[0], "fc": nir.Linear(weights(5, 6)), "lif": neuron(nir.LIF, 5)}
    block |= {"rec": nir.Linear(weights(5, 5)), "output": inside[1]}
    edges = [("input", "fc"), ("fc", "lif"), ("lif", "rec"), ("rec", "lif"), ("lif", "output")]
    return chain(
        outside[0],
        nir.NIRGraph(block, edges, type_check=False),
        nir.Linear(weights(4, 5)),
        nir.Threshold(np.full(4, 0.2)),
        outside[1],
    )


GRAPHS = {"matrices": matrices, "images": images, "signals": signals, "nested": nested}


def read(path: Path) -> Graph:
    return read_nir(path, Discretisation(DT, STEPS, 2))


def assert_same(found: Graph, expected: Graph) -> None:
    """Nodes, shapes and all values, spikes among them.

    Raises:
        AssertionError: one differs, or no neuron fires.
    """
    assert [node.id for node in found.nodes] == [node.id for node in expected.nodes]
    assert found.shapes == expected.shapes
    shape = found.shapes[found.nodes[0].id]
    x = np.random.default_rng(0).integers(0, 3, (STEPS, SAMPLES, *shape)).astype(np.float64)
    ours, theirs = interpret(found, x).values, interpret(expected, x).values
    assert ours.keys() == theirs.keys()
    for name, values in theirs.items():
        np.testing.assert_array_equal(ours[name], values, err_msg=name)
    assert sum(ours[node.id].sum() for node in found.nodes if isinstance(node, Neuron)) > 20


@pytest.mark.parametrize("version", nir_layouts.VERSIONS)
@pytest.mark.parametrize("name", GRAPHS)
def test_old_files_are_the_same_network(name: str, version: str, tmp_path: Path) -> None:
    graph = GRAPHS[name]()
    nir.write(tmp_path / "new.nir", graph)
    nir_layouts.write(tmp_path / "old.nir", graph, version)
    assert_same(read(tmp_path / "old.nir"), read(tmp_path / "new.nir"))


@pytest.mark.parametrize("version", nir_layouts.VERSIONS)
def test_an_old_file_has_lost_its_w_in(version: str, tmp_path: Path) -> None:
    """0.1 and 0.2 had w_in, and did not write it: a file's 1 is all that is left, which shows; 1.0 wrote it."""
    graph = matrices(w_in=np.full(8, 1.7))
    nir.write(tmp_path / "new.nir", graph)
    nir_layouts.write(tmp_path / "old.nir", graph, version)
    if version == "1.0.0":
        assert_same(read(tmp_path / "old.nir"), read(tmp_path / "new.nir"))
        return
    with pytest.raises(AssertionError):
        assert_same(read(tmp_path / "old.nir"), read(tmp_path / "new.nir"))


def test_sizes_that_are_numbers_and_single_nodes(tmp_path: Path) -> None:
    """0.1 declared an Output's shape as one number, and wrote graphs and nodes alike."""
    import h5py

    graph = matrices()
    nir.write(tmp_path / "new.nir", graph)
    nir_layouts.write(tmp_path / "old.nir", graph, "0.1.0")
    with h5py.File(tmp_path / "old.nir", "r+") as file:
        for end in ("input", "output"):
            shape = int(file[f"node/nodes/{end}/shape"][0])
            del file[f"node/nodes/{end}/shape"]
            file[f"node/nodes/{end}/shape"] = shape
    assert_same(read(tmp_path / "old.nir"), read(tmp_path / "new.nir"))
    with h5py.File(tmp_path / "one.nir", "w") as file:
        nir_layouts._write_group(file.create_group("node"), nir_layouts._fields(neuron(nir.LIF, 3), 0))
    with pytest.raises(UserError, match="a single node of type 'LIF'"):
        read(tmp_path / "one.nir")
