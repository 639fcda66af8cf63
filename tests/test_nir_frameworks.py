"""Files that other frameworks write, and ours read by them: the same spikes, counted.

Each framework is a witness of its own and needs only itself; whatever is not installed is skipped.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nir
import numpy as np
import pytest
import torch
from torch import nn

from export import graph as g
from export.formats.nir_presets import Meaning
from export.formats.nir_reader import read_nir
from export.formats.nir_writer import write_nir
from export.graph import Graph, Neuron
from export.interpret import interpret
from export.passes.retime import retime
from export.pipeline import lower_graph
from train.errors import UserError

pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # theirs
]

STEPS, BATCH = 25, 8


def spikes(shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    """Random binary inputs [T, B, *shape]."""
    return (torch.rand(STEPS, BATCH, *shape, generator=torch.Generator().manual_seed(seed)) < 0.4).float()


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    """A model whose layers fire now and then."""
    torch.manual_seed(3)
    model = make()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d):
                module.weight *= 3
    return model.eval()


def ours(path: Path, x: torch.Tensor, **meaning: Any) -> tuple[Graph, dict[str, np.ndarray]]:
    """What we read, and the spikes [T, B, *shape] of its neurons by id."""
    graph = read_nir(path, Meaning(**meaning).discretisation(STEPS, 1))
    shape = graph.shapes[graph.nodes[0].id]
    final = list(lower_graph(graph).values())[-1]
    values = interpret(final, x.double().numpy().reshape(STEPS, BATCH, *shape)).values
    return graph, {node.id: values[node.id] for node in graph.nodes if isinstance(node, Neuron)}


def theirs(model: nn.Module, kinds: tuple[type, ...], run: Callable[[], object]) -> list[np.ndarray]:
    """What modules of `kinds` sent while `run()` went through all steps: one [T, B, ...] each, in order of modules."""
    sent: dict[str, list[np.ndarray]] = {}
    hooks = []
    for name, module in model.named_modules():
        if isinstance(module, kinds):
            sent[name] = []

            def keep(_: nn.Module, __: object, out: Any, name: str = name) -> None:
                value = out[0] if isinstance(out, tuple) else out
                sent[name].append(value.detach().numpy().copy())

            hooks.append(module.register_forward_hook(keep))
    with torch.no_grad():
        run()
    for hook in hooks:
        hook.remove()
    return [np.stack(values) for values in sent.values()]


def equal(mine: dict[str, np.ndarray], other: list[np.ndarray], least: int = 50) -> int:
    """All spikes of all layers are equal; how many there were."""
    assert len(mine) == len(other)
    total = 0
    for (name, found), expected in zip(mine.items(), other, strict=True):
        np.testing.assert_array_equal(found.reshape(expected.shape), expected, err_msg=name)
        assert found.any(), f"{name} is silent"
        assert not found.all(), f"{name} fires always"
        total += int(found.sum())
    assert total >= least
    print(f"{total} spikes of {sum(f.size for f in mine.values())} values equal")
    return total


# SpikingJelly


@pytest.fixture
def jelly() -> Any:
    pytest.importorskip("spikingjelly")
    from loguru import logger

    logger.disable("spikingjelly")
    from spikingjelly.activation_based import neuron

    return neuron


JELLY: dict[str, Callable[[Any, Any], list[nn.Module]]] = {
    "LIF": lambda n, a: [a.Linear(6, 20), n.LIFNode(tau=2.0), a.Linear(20, 9), n.LIFNode(tau=3.0, decay_input=False)],
    "v_reset": lambda n, a: [
        a.Linear(6, 20),
        n.LIFNode(tau=2.0, v_threshold=0.6, v_reset=-0.3),
        a.Linear(20, 9, bias=False),
        n.IFNode(v_threshold=0.8, v_reset=0.1),
    ],
    "PLIF": lambda n, a: [a.Linear(6, 20), n.ParametricLIFNode(init_tau=2.5), a.Linear(20, 9), n.IFNode()],
    "CUBA": lambda n, a: [
        a.Linear(6, 20, bias=False),
        n.CUBALIFNode(c_decay=0.6, v_decay=0.7),
        a.Linear(20, 9),
        n.CUBALIFNode(c_decay=0.3, v_decay=0.9),
    ],
    "images": lambda n, a: [
        a.Conv2d(2, 5, 3, stride=1, padding=2, dilation=2),
        n.LIFNode(tau=2.0, v_threshold=0.5),
        a.AvgPool2d(3, 2, 1),
        a.Conv2d(5, 4, 3, padding=1),
        n.IFNode(),
        a.AvgPool2d(2),
        a.Flatten(),
        a.Linear(4 * 2 * 2, 7),
        n.LIFNode(tau=1.5, v_threshold=0.1),
    ],
    "rows": lambda n, a: [
        a.Conv1d(3, 6, 3, stride=2, padding=1),
        n.LIFNode(tau=2.0, v_threshold=0.5),
        a.Flatten(),
        a.Linear(36, 5),
        n.LIFNode(tau=2.0, v_threshold=0.2),
    ],
}
SHAPES = {"images": (2, 8, 8), "rows": (3, 12)}


def jelly_model(name: str, neuron: Any) -> nn.Module:
    from spikingjelly.activation_based import layer

    return seeded(lambda: nn.Sequential(*JELLY[name](neuron, layer)))


@pytest.mark.parametrize("name", JELLY)
@pytest.mark.parametrize("dt", [1e-4, 1e-3])
def test_spikingjelly_writes(name: str, dt: float, jelly: Any, tmp_path: Path) -> None:
    from spikingjelly.activation_based.nir_exchange import export_to_nir

    model = jelly_model(name, jelly)
    x = spikes(SHAPES.get(name, (6,)))
    export_to_nir(model, x[0], tmp_path / "theirs.nir", dt=dt)
    _, mine = ours(tmp_path / "theirs.nir", x, dt=dt, writer="spikingjelly")
    equal(mine, theirs(model, (jelly.BaseNode, jelly.CUBALIFNode), lambda: [model(frame) for frame in x]))


# snnTorch


@pytest.fixture
def snn() -> Any:
    return pytest.importorskip("snntorch")


def snn_neuron(snn: Any, kind: str, size: int) -> nn.Module:
    common = {"init_hidden": True, "reset_mechanism": "zero", "threshold": torch.full((size,), 0.9)}
    beta = torch.linspace(0.3, 0.9, size)
    if kind == "Leaky":
        return snn.Leaky(beta=beta, **common)
    common["reset_delay"] = False
    if kind == "Synaptic":
        return snn.Synaptic(alpha=torch.linspace(0.7, 0.2, size), beta=beta, **common)
    return snn.RLeaky(beta=beta, linear_features=size, **common)


def snn_model(snn: Any, kind: str) -> nn.Module:
    bias = kind != "Synaptic"
    return seeded(
        lambda: nn.Sequential(
            nn.Linear(6, 20, bias=bias), snn_neuron(snn, kind, 20), nn.Linear(20, 9), snn_neuron(snn, "Leaky", 9)
        )
    )


@pytest.mark.parametrize("kind", ["Leaky", "Synaptic", "RLeaky"])
def test_snntorch_writes(kind: str, snn: Any, tmp_path: Path) -> None:
    from snntorch.export_nir import export_to_nir

    model = snn_model(snn, kind)
    x = spikes((6,))
    nir.write(tmp_path / "theirs.nir", export_to_nir(model, x[0][:1], ignore_dims=[0]))
    from snntorch import utils

    utils.reset(model)
    if kind != "Leaky":
        with pytest.raises(UserError, match="in the step after the spike"):
            ours(tmp_path / "theirs.nir", x, dt=1e-4, writer="snntorch")
    once = {} if kind == "Leaky" else {"reset_at": "once"}
    _, mine = ours(tmp_path / "theirs.nir", x, dt=1e-4, writer="snntorch", **once)
    equal(mine, theirs(model, (snn.Leaky, snn.Synaptic, snn.RLeaky), lambda: [model(frame) for frame in x]))


# norse


@pytest.fixture
def norse() -> Any:
    found = pytest.importorskip("norse.torch")
    logging.getLogger().setLevel(logging.ERROR)
    return found


def norse_neuron(norse: Any, kind: str, size: int) -> nn.Module:
    zero, tau = torch.zeros(size), torch.linspace(100.0, 400.0, size)
    if kind == "LIFBox":
        from norse.torch.module.lif_box import LIFBoxCell, LIFBoxParameters

        return LIFBoxCell(LIFBoxParameters(tau_mem_inv=tau, v_th=zero + 0.3, v_leak=zero, v_reset=zero))
    if kind == "LIF":
        p = norse.LIFParameters(
            tau_syn_inv=2 * tau, tau_mem_inv=tau, v_leak=zero, v_th=zero + 0.3, v_reset=zero, method="super"
        )
        return norse.LIFCell(p)
    return norse.IAFCell(norse.IAFParameters(v_th=zero + 0.8, v_reset=zero))


@pytest.mark.parametrize("kind", ["LIFBox", "LIF", "IAF"])
def test_norse_writes(kind: str, norse: Any, tmp_path: Path) -> None:
    model = seeded(
        lambda: norse.SequentialState(
            nn.Linear(6, 20), norse_neuron(norse, kind, 20), nn.Linear(20, 9), norse_neuron(norse, "LIFBox", 9)
        )
    )
    x = spikes((6,))
    nir.write(tmp_path / "theirs.nir", norse.to_nir(model, x[0][:1], dt=1e-3))
    _, mine = ours(tmp_path / "theirs.nir", x, dt=1e-3, writer="norse")

    def run() -> None:
        state = None
        for frame in x:
            _, state = model(frame, state)

    cells = tuple(type(module) for module in model.children() if not isinstance(module, nn.Linear))
    equal(mine, theirs(model, cells, run))


# Our files, read by them


def matrices(kind: str) -> Graph:
    """Two layers and a read-out, as the compiler writes them to NIR."""
    rng = np.random.default_rng(1)
    more: dict[str, Any] = {"current_leak": np.array([0.5])} if kind == "CubaLIF" else {}
    leak = 1.0 if kind == "IF" else 0.75

    def weights(*shape: int) -> np.ndarray:
        return rng.normal(0.1, 1.5 / np.sqrt(shape[1]), shape)

    nodes = [
        g.Input("input", "", (), (6,), 1),
        g.Dense("fc1", "", ("input",), weights(20, 6), rng.normal(0, 0.2, 20)),
        g.Neuron("lif1", "", ("fc1",), leak, 0.8, **more),
        g.Dense("fc2", "", ("lif1",), weights(9, 20), None),
        g.Neuron("lif2", "", ("fc2",), leak, 0.7, **more),
        g.Dense("head", "", ("lif2",), weights(3, 9), rng.normal(0, 0.2, 3)),
        g.Accumulate("readout", "", ("head",)),
    ]
    if kind == "recurrent":
        nodes[1:2] = [
            nodes[1],
            g.Feedback("again", "", (), "lif1", (20,)),
            g.Delay("late", "", ("again",), np.ones(20, dtype=np.int64)),
            g.Dense("rec", "", ("late",), weights(20, 20), None),  # they add its bias from the second step on
            g.Add("both", "", ("fc1", "rec")),
        ]
        nodes[6] = g.Neuron("lif1", "", ("both",), leak, 0.8)
    return Graph(kind, tuple(nodes), STEPS)


def images() -> Graph:
    """Convolutions, pooling, a dense layer."""
    rng = np.random.default_rng(2)

    def weights(*shape: int) -> np.ndarray:
        return rng.normal(0.1, 1.5 / np.sqrt(np.prod(shape[1:])), shape)

    nodes = (
        g.Input("input", "", (), (2, 8, 8), 1),
        g.Convolution("conv1", "", ("input",), weights(5, 2, 3, 3), rng.normal(0, 0.1, 5), (1, 1), (1, 1)),
        g.Neuron("lif1", "", ("conv1",), 0.5, 0.7),
        g.AveragePool("pool", "", ("lif1",), (2, 2), (2, 2)),
        g.Convolution("conv2", "", ("pool",), weights(4, 5, 3, 3), rng.normal(0, 0.1, 4), (2, 2), (1, 1)),
        g.Neuron("lif2", "", ("conv2",), 0.75, 0.4),
        g.Flatten("flat", "", ("lif2",)),
        g.Dense("fc", "", ("flat",), weights(7, 16), rng.normal(0, 0.2, 7)),
        g.Neuron("lif3", "", ("fc",), 0.75, 0.5),
        g.Dense("head", "", ("lif3",), weights(3, 7), None),
        g.Accumulate("readout", "", ("head",)),
    )
    return Graph("images", nodes, STEPS)


def written(graph: Graph, path: Path) -> Any:
    """Our file, as the NIR library reads it."""
    write_nir(path, retime(lower_graph(graph)["gather_currents"], 0))
    return nir.read(path)


def ending_at(found: Any, name: str) -> Any:
    """The part of a NIR graph that `name` depends on, with `name` as its output."""
    needed = {name}
    while more := {a for a, b in found.edges if b in needed} - needed:
        needed |= more
    nodes = {key: node for key, node in found.nodes.items() if key in needed}
    nodes["output"] = nir.Output({"output": np.array(nodes[name].v_threshold.shape)})
    edges = [(a, b) for a, b in found.edges if a in needed and b in needed]
    return nir.NIRGraph(nodes, [*edges, (name, "output")], type_check=False)


def check_read(graph: Graph, path: Path, run: Callable[[Any, torch.Tensor], np.ndarray], least: int = 50) -> None:
    """Every neuron of ours fires with them as with us, sample by sample, and our own reader reads the same."""
    found = written(graph, path)
    x = spikes(graph.shapes["input"])
    expected = interpret(graph, x.double().numpy()).values
    neurons = [node.id for node in graph.nodes if isinstance(node, Neuron)]
    _, again = ours(path, x, dt=1e-4)
    assert list(again) == neurons
    other = []
    for name in neurons:
        part = ending_at(found, name)
        other.append(np.stack([run(part, x[:, sample]) for sample in range(BATCH)], axis=1))
    equal({name: expected[name] for name in neurons}, other, least)
    equal(again, [expected[name] for name in neurons], least)


@pytest.mark.parametrize("kind", ["LIF", "IF", "CubaLIF", "recurrent", "images"])
def test_spikingjelly_reads(kind: str, jelly: Any, tmp_path: Path) -> None:
    from spikingjelly.activation_based.nir_exchange import import_from_nir

    def run(part: Any, x: torch.Tensor) -> np.ndarray:
        model = import_from_nir(part, dt=1e-4, dtype=torch.float64)
        state, out = None, []
        with torch.no_grad():
            for frame in x.double():
                value, state = model(frame[None], state) if state else model(frame[None])
                out.append(value[0].numpy())
        return np.stack(out)

    check_read(images() if kind == "images" else matrices(kind), tmp_path / "ours.nir", run)


@pytest.mark.parametrize("kind", ["LIF", "CubaLIF", "images"])
def test_snntorch_reads(kind: str, snn: Any, tmp_path: Path) -> None:
    from snntorch.import_nir import import_from_nir

    def run(part: Any, x: torch.Tensor) -> np.ndarray:
        model = import_from_nir(part)
        state, out = None, []
        with torch.no_grad():
            for frame in x:
                value, state = model(frame, state) if state else model(frame)
                out.append(value.numpy())
        return np.stack(out)

    check_read(images() if kind == "images" else matrices(kind), tmp_path / "ours.nir", run)


@pytest.mark.parametrize("kind", ["LIF", "CubaLIF", "images"])
def test_norse_reads(kind: str, norse: Any, tmp_path: Path) -> None:
    def run(part: Any, x: torch.Tensor) -> np.ndarray:
        model = norse.from_nir(part, dt=1e-4)
        state, out = None, []
        with torch.no_grad():
            for frame in x:
                value, state = model(frame, state)
                out.append(value.numpy())
        return np.stack(out)

    check_read(images() if kind == "images" else matrices(kind), tmp_path / "ours.nir", run)


# sinabs


def test_sinabs_writes(tmp_path: Path) -> None:
    pytest.importorskip("sinabs")
    import sinabs.layers as sl
    from sinabs.activation import MembraneSubtract, SingleSpike
    from sinabs.nir import to_nir

    def cell(size: int, tau: float) -> nn.Module:
        return sl.LIF(
            tau_mem=torch.full((size,), tau),
            spike_threshold=torch.full((size,), 0.4),
            spike_fn=SingleSpike,
            reset_fn=MembraneSubtract(),
        )

    model = seeded(lambda: nn.Sequential(nn.Linear(6, 20), cell(20, 4.0), nn.Linear(20, 9), cell(9, 7.0)))
    x = spikes((6,))
    nir.write(tmp_path / "theirs.nir", to_nir(model, x.swapaxes(0, 1)[:1, :1]))
    for layer in (model[1], model[3]):
        layer.reset_states()
    meaning = {"dt": 1.0, "writer": "sinabs", "reset": "subtract"}
    with pytest.raises(UserError, match="fire several times in one step"):
        ours(tmp_path / "theirs.nir", x, **meaning)
    _, mine = ours(tmp_path / "theirs.nir", x, **meaning, spikes="single")
    sent = theirs(model, (sl.LIF,), lambda: model(x.swapaxes(0, 1)))
    equal(mine, [values[0].swapaxes(0, 1) for values in sent])
