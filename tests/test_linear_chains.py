"""Layers without a neuron between them, and delays behind layers: the same values after they were composed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from export import graph as g
from export.graph import Graph
from export.interpret import interpret
from export.passes.compose_synapses import compose_synapses
from export.passes.delays_on_spikes import delays_on_spikes
from export.pipeline import lower_graph
from train.errors import UserError

STEPS = 4


def closed(nodes: list[g.Node], last: str) -> Graph:
    """A graph whose read-out adds up `last`, so that all its values are compared."""
    return Graph("chain", (*nodes, g.Accumulate("readout", "", (last,))), STEPS)


def same(graph: Graph, after: Graph) -> None:
    shape = graph.shapes["input"]
    x = np.random.default_rng(0).integers(0, 4, (STEPS, 2, *shape)).astype(np.float64)
    first, second = interpret(graph, x).values["readout"], interpret(after, x).values["readout"]
    assert first.any()
    np.testing.assert_allclose(first, second, atol=1e-9)


@st.composite
def chains(draw: st.DrawFn) -> Graph:
    """Two or three convolutions in a row, sometimes with a dense layer behind them."""
    rng = np.random.default_rng(draw(st.integers(0, 1 << 30)))
    channels = draw(st.sampled_from([1, 2, 4]))
    nodes: list[g.Node] = [g.Input("input", "", (), (channels, 9, 8), 3)]
    last = "input"
    pointwise = draw(st.booleans())  # then the next one may pad
    for index in range(draw(st.integers(2, 3))):
        groups = draw(st.sampled_from([1, channels]))
        outputs = groups * draw(st.integers(1, 2))
        kernel = (1, 1) if pointwise and index == 0 else (draw(st.integers(1, 3)), draw(st.integers(1, 2)))
        padding = (
            (draw(st.integers(0, 1)), draw(st.integers(0, 1))) if index == 0 or (index == 1 and pointwise) else (0, 0)
        )
        stride = (draw(st.integers(1, 2)), draw(st.integers(1, 2))) if kernel != (1, 1) else (1, 1)
        dilation = (draw(st.integers(1, 2)), draw(st.integers(1, 2)))
        bias = rng.normal(0, 0.3, outputs) if draw(st.booleans()) and not (pointwise and index == 0) else None
        if pointwise and index == 0:
            padding = (0, 0)
        weight = rng.normal(0, 1, (outputs, channels // groups, *kernel))
        node = g.Convolution(f"conv{index}", "", (last,), weight, bias, stride, padding, dilation, groups)
        try:
            Graph("fits", (*nodes, node), STEPS)
        except UserError:  # nothing is left
            break
        nodes.append(node)
        last, channels = node.id, outputs
    if draw(st.booleans()):
        size = int(np.prod(Graph("so far", tuple(nodes), STEPS).shapes[last]))
        nodes.append(g.Dense("fc", "", (last,), rng.normal(0, 1, (3, size)), rng.normal(0, 1, 3)))
        nodes.append(g.Dense("fd", "", ("fc",), rng.normal(0, 1, (2, 3)), None))
        last = "fd"
    return closed(nodes, last)


@given(graph=chains())
@settings(max_examples=80, deadline=None)
def test_layers_in_a_row_are_one(graph: Graph) -> None:
    after = compose_synapses(graph)
    for node in after.nodes:
        if isinstance(node, g.Convolution | g.Dense):
            assert isinstance(after[node.inputs[0]], g.Input)
    same(graph, after)


def padded(bias: bool) -> Graph:
    nodes: list[g.Node] = [
        g.Input("input", "", (), (1, 5, 5), 3),
        g.Convolution("first", "stage.first", ("input",), np.ones((2, 1, 3, 3)), np.ones(2) if bias else None),
        g.Convolution("second", "stage.second", ("first",), np.ones((1, 2, 3, 3)), None, (1, 1), (1, 1)),
    ]
    return closed(nodes, "second")


@pytest.mark.parametrize("bias", [False, True])
def test_a_padded_layer_behind_a_wide_one_is_refused_by_name(bias: bool) -> None:
    with pytest.raises(UserError, match=r"stage\.second: .*stage\.first.* not one convolution"):
        compose_synapses(padded(bias))


def test_a_wrong_padding_would_show(monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison has teeth: composed all the same, the edges differ."""
    monkeypatch.setattr("export.passes.compose_synapses._is_one_convolution", lambda *_: True)
    with pytest.raises(AssertionError):
        same(padded(False), compose_synapses(padded(False)))


@pytest.mark.parametrize("flat", [False, True])
def test_delays_move_to_the_spikes(flat: bool) -> None:
    rng = np.random.default_rng(3)
    shape = (3,) if flat else (3, 4, 4)
    weight = rng.normal(0, 1, (4, 3) if flat else (4, 3, 2, 2))
    steps = np.array([0, 2, 1, 2])
    bias = np.array([0.5, 0, 0, 0])
    layer: g.Node = g.Dense("w", "", ("input",), weight, bias)
    if not flat:
        layer = g.Convolution("w", "", ("input",), weight, bias)
    nodes = [
        g.Input("input", "", (), shape, 3),
        layer,
        g.Delay("late", "", ("w",), steps),
        g.Affine("scaled", "", ("late",), np.array([1.0, 2.0, 0.5, 1.0]), np.zeros(4)),
        g.Delay("later", "", ("scaled",), np.array([1, 0, 0, 1])[[1, 0, 2, 3]]),
    ]
    graph = closed(nodes, "later")
    after = delays_on_spikes(graph)
    assert all(isinstance(after[n.inputs[0]], g.Input) for n in after.nodes if isinstance(n, g.Delay))
    same(graph, after)
    same(graph, list(lower_graph(graph).values())[-1])


def test_a_late_bias_is_refused_by_name() -> None:
    nodes: list[g.Node] = [
        g.Input("input", "", (), (2,), 3),
        g.Dense("w", "stage.fc", ("input",), np.ones((2, 2)), np.array([0.0, 1.0])),
        g.Delay("late", "stage.delay", ("w",), np.array([0, 1])),
    ]
    with pytest.raises(UserError, match=r"stage\.delay: delays the bias of Dense stage\.fc"):
        delays_on_spikes(closed(nodes, "late"))
