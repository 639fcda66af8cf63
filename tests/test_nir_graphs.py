"""Generated NIR graphs: the float graph does what an obvious executor of the file does, at every neuron and step."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nir
import nir_reference
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from export.formats import nir_file
from export.formats.nir_presets import Discretisation, Writer
from export.formats.nir_reader import read_nir
from export.graph import Graph, Neuron
from export.hdf5_tree import read_here
from export.interpret import interpret
from export.pipeline import lower_graph

STEPS, BATCH = 6, 3


@dataclass
class Drawing:
    """A NIR graph while it is drawn; `last` is its open end, `shape` that one's shape."""

    rng: np.random.Generator
    options: nir_reference.Options
    nodes: dict[str, Any] = field(default_factory=dict)
    edges: list[tuple[str, str]] = field(default_factory=list)
    inputs: dict[str, tuple[int, ...]] = field(default_factory=dict)
    late: set[tuple[str, str]] = field(default_factory=set)

    def add(self, name: str, node: Any, *sources: str) -> str:
        self.nodes[name] = node
        self.edges += [(source, name) for source in sources]
        return name

    def input(self, name: str, *shape: int) -> str:
        self.inputs[name] = shape
        return self.add(name, nir.Input({"input": np.array(shape)}))

    def each(self, shape: tuple[int, ...], low: float, high: float) -> np.ndarray:
        """One value for each channel, at every place of it."""
        values = self.rng.uniform(low, high, shape[0]).reshape(-1, *(1,) * (len(shape) - 1))
        return np.broadcast_to(values, shape).copy()

    def neuron(self, kind: str, shape: tuple[int, ...]) -> Any:
        dt = self.options.dt
        base = 0 if self.options.subtract else self.rng.choice([0.0, 0.0, -0.3])
        v_reset = np.full(shape, float(base))
        theta = self.each(shape, 0.3, 0.9)
        if kind == "Threshold":
            return nir.Threshold(theta)
        if kind == "IF":
            return nir.IF(self.each(shape, 0.5, 1.5) / dt, theta, v_reset)
        tau = dt * self.each(shape, 1.1, 6)
        v_leak = self.each(shape, -0.2, 0.3)
        r = tau / dt * self.each(shape, 0.5, 1.5)
        if kind == "LIF":
            return nir.LIF(tau, r, v_leak, theta, v_reset)
        tau_syn = dt * self.each(shape, 1.1, 4)
        w_in = tau_syn / dt * self.each(shape, 0.5, 1.5)
        return nir.CubaLIF(tau_syn, tau, r, v_leak, theta, v_reset, w_in)

    def weights(self, *shape: int) -> np.ndarray:
        fan_in = int(np.prod(shape[1:]))
        return self.rng.normal(0.3 / np.sqrt(fan_in), 1.3 / np.sqrt(fan_in), shape)

    def graph(self) -> Any:
        return nir.NIRGraph(self.nodes, self.edges, type_check=False)


@dataclass(frozen=True, eq=False)
class Case:
    graph: Any
    inputs: dict[str, np.ndarray]
    options: nir_reference.Options


KINDS = st.sampled_from(["LIF", "LIF", "IF", "CubaLIF", "Threshold"])


@st.composite
def start(draw: st.DrawFn) -> Drawing:
    options = nir_reference.Options(
        dt=draw(st.sampled_from([1e-4, 1e-3])),
        exponential=draw(st.booleans()),
        reached=draw(st.booleans()),
        subtract=draw(st.booleans()),
    )
    return Drawing(np.random.default_rng(draw(st.integers(0, 1 << 30))), options)


def finish(draw: st.DrawFn, d: Drawing, ends: list[tuple[str, int]]) -> Case:
    """Close the open ends, flat ones of some size, with outputs: spikes, a sum, or weighted sums."""
    for index, (last, size) in enumerate(ends):
        how = draw(st.sampled_from(["spikes", "linear", "I", "LI", "CubaLI"]))
        if len(ends) > 1 and how in ("LI", "CubaLI"):
            how = "I"
        if how != "spikes":
            last, size = d.add(f"head{index}", nir.Linear(d.weights(3, size)), last), 3
        ones = np.ones(size)
        tau = d.options.dt * d.rng.uniform(1.5, 4, size)
        if how == "I":
            last = d.add(f"sum{index}", nir.I(ones / d.options.dt), last)
        elif how == "LI":
            last = d.add(f"sum{index}", nir.LI(tau, tau / d.options.dt, 0 * ones), last)
        elif how == "CubaLI":
            last = d.add(f"sum{index}", nir.CubaLI(tau[::-1].copy(), tau, tau / d.options.dt, 0 * ones, ones), last)
        d.add(f"output{index}", nir.Output({"output": np.array([size])}), last)
    inputs = {name: d.rng.integers(0, 3, (STEPS, BATCH, *shape)) for name, shape in d.inputs.items()}
    options = nir_reference.Options(**{**vars(d.options), "late": frozenset(d.late)})
    return Case(d.graph(), inputs, options)


@st.composite
def flat_cases(draw: st.DrawFn) -> Case:
    """Matrices: chains, joins, loops, delays, scales, subgraphs, several inputs and outputs."""
    d = draw(start())
    size = draw(st.integers(2, 5))
    open_ends = [(d.input(f"in{i}", size), size) for i in range(draw(st.integers(1, 2)))]
    for layer in range(draw(st.integers(1, 3))):
        source, width = open_ends[-1]
        outputs = draw(st.integers(2, 5))
        kind = draw(KINDS)
        if draw(st.booleans()):
            source = d.add(f"delay{layer}", nir.Delay(d.options.dt * d.rng.integers(0, 3, width)), source)
        if draw(st.booleans()):
            source = d.add(f"scale{layer}", nir.Scale(d.rng.uniform(0.5, 2, width)), source)
        linear = nir.Linear(d.weights(outputs, width))
        if draw(st.booleans()):
            linear = nir.Affine(linear.weight, d.rng.normal(0, 0.3, outputs))
        if draw(st.integers(0, 3)) == 0 and kind != "Threshold":  # a subgraph
            inside = {
                "way_in": nir.Input({"input": np.array([width])}),
                "fc": linear,
                "lif": d.neuron(kind, (outputs,)),
                "way_out": nir.Output({"output": np.array([outputs])}),
            }
            inner_edges = [("way_in", "fc"), ("fc", "lif"), ("lif", "way_out")]
            if draw(st.booleans()):
                inside["rec"] = nir.Affine(d.weights(outputs, outputs), d.rng.normal(0, 0.2, outputs))
                inner_edges += [("lif", "rec"), ("rec", "lif")]
                d.late.add((f"block{layer}.lif", f"block{layer}.rec"))
            last = d.add(f"block{layer}", nir.NIRGraph(inside, inner_edges, type_check=False), source)
            open_ends.append((last, outputs))
            continue
        last = d.add(f"fc{layer}", linear, source)
        if draw(st.booleans()):  # two matrices without a neuron between them
            last = d.add(f"fd{layer}", nir.Linear(d.weights(outputs, outputs)), last)
        into = [last]
        if len(open_ends) > 1 and draw(st.booleans()):  # a join with an earlier layer
            other, other_width = open_ends[-2]
            into.append(d.add(f"skip{layer}", nir.Linear(d.weights(outputs, other_width)), other))
        last = d.add(f"lif{layer}", d.neuron(kind, (outputs,)), *into)
        if draw(st.booleans()):
            d.add(f"rec{layer}", nir.Linear(d.weights(outputs, outputs)), last)
            d.edges.append((f"rec{layer}", last))
            d.late.add((last, f"rec{layer}"))
        open_ends.append((last, outputs))
    used = {a for a, _ in d.edges}
    return finish(draw, d, [end for end in open_ends if end[0] not in used or end == open_ends[-1]])


@st.composite
def image_cases(draw: st.DrawFn) -> Case:
    """Convolutions of one and two dimensions, pooling, shortcuts, flattening."""
    d = draw(start())
    axes = draw(st.integers(1, 2))
    channels, sides = draw(st.sampled_from([1, 2, 4])), (7, 6)[:axes]
    last = d.input("in", channels, *sides)
    for layer in range(draw(st.integers(1, 2))):
        groups = draw(st.sampled_from([1, channels]))
        outputs = groups * draw(st.integers(1, 2))
        kernel = tuple(draw(st.integers(1, 3)) for _ in range(axes))
        padding: Any = draw(st.sampled_from(["same", "valid", 0, 1]))
        stride = tuple(1 if padding == "same" else draw(st.integers(1, 2)) for _ in range(axes))
        dilation = tuple(draw(st.sampled_from([1, 1, 2])) for _ in range(axes))
        weight, bias = d.weights(outputs, channels // groups, *kernel), d.rng.normal(0, 0.2, outputs)
        if axes == 1:
            node: Any = nir.Conv1d(sides[0], weight, stride[0], padding, dilation[0], groups, bias)
        else:
            padding = padding if isinstance(padding, str) else (padding, padding)
            node = nir.Conv2d(sides, weight, stride, padding, dilation, groups, bias)
        made = nir_reference.run_one(node, np.zeros((1, channels, *sides)))
        if min(made.shape) < 1:
            break
        source = last
        last = d.add(f"conv{layer}", node, last)
        channels, sides = outputs, made.shape[2:]
        shape = (channels, *sides)
        into = [last]
        if made.shape[1:] == tuple(d.inputs["in"]) and layer == 0 and draw(st.booleans()):
            into.append(source)  # a shortcut
        last = d.add(f"lif{layer}", d.neuron(draw(KINDS), shape), *into)
        if axes == 2 and min(sides) >= 2 and draw(st.booleans()):
            pool = draw(st.sampled_from([nir.SumPool2d, nir.AvgPool2d]))
            stride, padding = draw(st.integers(1, 2)), draw(st.integers(0, 1))
            node = pool(np.array([2, 2]), np.array([stride, stride]), np.array([padding, padding]))
            last = d.add(f"pool{layer}", node, last)
            sides = nir_reference.run_one(node, np.zeros((1, channels, *sides))).shape[2:]
        if draw(st.booleans()):
            last = d.add(f"scale{layer}", nir.Scale(d.each((channels, *sides), 0.5, 2)), last)
    size = channels * int(np.prod(sides))
    last = d.add("flatten", nir.Flatten({"input": np.array([channels, *sides])}, 0, -1), last)
    last = d.add("fc", nir.Affine(d.weights(4, size), d.rng.normal(0, 0.2, 4)), last)
    last = d.add("lif", d.neuron(draw(KINDS), (4,)), last)
    return finish(draw, d, [(last, 4)])


def check(case: Case, folder: Path) -> int:
    """Compare the reader's graph, before and after the compiler's exact passes, with the reference; spikes compared."""
    path = folder / "drawn.nir"
    nir.write(path, case.graph)
    expected = nir_reference.run(case.graph, case.inputs, case.options)
    writer = Writer(
        "drawn",
        "exponential" if case.options.exponential else "euler",
        "reached" if case.options.reached else "above",
    )
    how = Discretisation(case.options.dt, STEPS, 2, "subtract" if case.options.subtract else "zero", writer)
    graph = read_nir(path, how)
    inputs = np.concatenate([case.inputs[name] for name in sorted(case.inputs)], axis=2).astype(np.float64)
    inputs = inputs.reshape(*inputs.shape[:2], *graph.shapes[graph.nodes[0].id])
    stages = lower_graph(graph)
    spikes = 0
    for stage in (graph, list(stages.values())[-1]):
        found = interpret(stage, inputs)
        names = [node.id for node in stage.nodes if isinstance(node, Neuron)]
        assert names
        spikes = sum(same_spikes(name, found.values[name], expected[name]) for name in names)
    same_answer(case, graph, interpret(graph, inputs).values[graph.nodes[-1].id], expected)
    return spikes


def same_spikes(name: str, found: np.ndarray, expected: np.ndarray) -> int:
    np.testing.assert_array_equal(found.reshape(expected.shape), expected, err_msg=name)
    return int(expected.sum())


def same_answer(case: Case, graph: Graph, found: np.ndarray, expected: dict[str, np.ndarray]) -> None:
    """The read-out: outputs side by side, those that are no integrator summed over the window; gains are not kept."""
    outputs = []
    for name, node in sorted(case.graph.nodes.items()):
        if isinstance(node, nir.Output):
            (source,) = [a for a, b in case.graph.edges if b == name]
            values = expected[name].reshape(STEPS, BATCH, -1)
            kind = case.graph.nodes[source]
            if isinstance(kind, nir.I):
                values = values / (case.options.dt * kind.r)
            elif isinstance(kind, nir.LI | nir.CubaLI):
                return  # its gains differ between channels: those are kept, and tested by themselves
            else:
                values = values.cumsum(0)
            outputs.append(values)
    np.testing.assert_allclose(found.reshape(STEPS, BATCH, -1), np.concatenate(outputs, axis=2), atol=1e-9)


@pytest.fixture(autouse=True)
def _in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """These files are sound: no process of their own for each of them."""
    monkeypatch.setattr(nir_file, "read_tree", read_here)


COMPARED: dict[str, int] = {}


@given(case=flat_cases())
@settings(max_examples=80, deadline=None)
def test_graphs_of_matrices(case: Case, tmp_path_factory: pytest.TempPathFactory) -> None:
    spikes = check(case, tmp_path_factory.mktemp("flat"))
    assume(spikes > 0)
    COMPARED["flat"] = COMPARED.get("flat", 0) + spikes


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@given(case=image_cases())
@settings(max_examples=80, deadline=None)
def test_graphs_of_convolutions(case: Case, tmp_path_factory: pytest.TempPathFactory) -> None:
    spikes = check(case, tmp_path_factory.mktemp("image"))
    assume(spikes > 0)
    COMPARED["image"] = COMPARED.get("image", 0) + spikes


def test_something_was_compared() -> None:
    if COMPARED:
        assert min(COMPARED.values()) > 1000, COMPARED
