"""Temporal shift of currents becomes a shift of the spikes before their layer.

Identity, for a layer W x + b with as many outputs as the shift has channels (TS-SNN, arXiv 2505.04165, equation 7):
    channels [0, future):    (W x[t] + b) + alpha (W x[t + 1] + b)
    channels [future, past): (W x[t] + b) + alpha (W x[t - 1] + b)
    channels [past, C):      (1 + alpha) (W x[t] + b)
so the layer's rows are read at three times. A neighbour outside the window is zero, and then its b is missing too: the
bias is (1 + alpha) b, and a clock's synapses take alpha b away at the last step for the first group, at the first step
for the second. Promise: exact in real arithmetic.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from export.graph import Add, Clock, Convolution, Delay, Dense, Floats, Graph, Node, TemporalShift, fresh, rewire
from export.passes.unused import without_unused
from train.errors import UserError


def shift_of_currents(graph: Graph) -> Graph:
    """No TemporalShift is left behind a convolution or dense layer; that becomes `<id>`, `<id>.future`, `<id>.past`.

    Raises:
        UserError: the layer has a bias for each neuron.
    """
    for shift in graph.nodes:
        if isinstance(shift, TemporalShift):
            synapse = graph[shift.inputs[0]]
            if isinstance(synapse, Convolution | Dense):
                graph = _expand(graph, shift, synapse)
    return graph


def _expand(graph: Graph, shift: TemporalShift, synapse: Convolution | Dense) -> Graph:
    parts = _parts(graph, shift, synapse)
    inner = [node for node in parts if isinstance(node, Convolution | Dense)]
    total = Add(fresh(f"{shift.id}.sum", graph.shapes), shift.origin, tuple(node.id for node in inner))
    nodes: list[Node] = []
    alone = graph.only_consumer(synapse) is shift
    for node in graph.nodes:
        if node.id == shift.id:
            nodes += [*parts, total]
        elif not alone or node.id != synapse.id:
            nodes.append(rewire(node, shift.id, total.id))
    return without_unused(graph.with_nodes(nodes))


def _parts(graph: Graph, shift: TemporalShift, synapse: Convolution | Dense) -> list[Node]:
    source, alpha = synapse.inputs[0], shift.alpha
    name = synapse.id if graph.only_consumer(synapse) is shift else f"{synapse.id}.shifted"
    channel = np.arange(len(synapse.weight))
    future, past = channel < shift.future, (channel >= shift.future) & (channel < shift.past)
    main = replace(_scaled(synapse, np.where(future | past, 1.0, 1.0 + alpha)), id=name)
    bias = synapse.bias
    parts: list[Node] = [main if bias is None else replace(main, bias=bias * (1 + alpha))]
    for rows, side, steps in ((future, "future", -1), (past, "past", 1)):
        if rows.any():
            delay = np.full(graph.shapes[source][0], steps, dtype=np.int64)
            late = Delay(f"{shift.id}.{side}", shift.origin, (source,), delay)
            part = replace(
                _scaled(synapse, np.where(rows, alpha, 0.0)), id=f"{name}.{side}", inputs=(late.id,), bias=None
            )
            parts += [late, part]
    if bias is not None:
        if bias.ndim > 1:
            raise UserError(f"its bias differs from neuron to neuron, before {shift.where}", where=synapse.where)
        missing = np.zeros((len(bias), graph.steps))
        missing[future, -1] = missing[past, 0] = 1
        parts += _clocked(graph, shift, name, -alpha * bias[:, None] * missing)
    return parts


def _clocked(graph: Graph, shift: TemporalShift, name: str, weight: Floats) -> list[Node]:
    """A current that depends on the step in the window alone: weight (C, T)."""
    sides = graph.shapes[shift.id][1:]
    clock = Clock(f"{shift.id}.clock", shift.origin, (), (graph.steps, *sides))
    if sides:
        return [clock, Convolution(f"{name}.edges", shift.origin, (clock.id,), weight[:, :, None, None], None)]
    return [clock, Dense(f"{name}.edges", shift.origin, (clock.id,), weight, None)]


def _scaled(synapse: Convolution | Dense, rows: Floats) -> Convolution | Dense:
    return replace(synapse, weight=synapse.weight * rows.reshape(-1, *(1,) * (synapse.weight.ndim - 1)))
