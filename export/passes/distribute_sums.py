"""A linear operation on a sum becomes a sum of operations: after this pass sums only feed sums and neurons.

Identity: L(a + b) = L a + L b for every linear node; what is added once (a bias, an offset) stays with the first part.
A scale without an offset (a neuron's gain) commutes with temporal shift, g (x + alpha z) = (g x) + alpha (g z), so that
it meets the sum behind it. And scale s + offset, for spikes s that become a current, is a 1 x 1 convolution in as many
groups as channels. Promise: exact in real arithmetic.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from export.graph import (
    Add,
    Affine,
    AveragePool,
    Convolution,
    Delay,
    Dense,
    Driven,
    Flatten,
    Graph,
    Node,
    Spiking,
    TemporalShift,
    fresh,
    summands,
)
from export.passes.unused import without_unused

LINEAR = (Affine, AveragePool, Convolution, Delay, Dense, Flatten, TemporalShift)


def distribute_sums(graph: Graph) -> Graph:
    """Every linear operation reads something else than a sum; its parts are `<id>`, `<id>.1`, `<id>.2`, ..."""
    nodes: dict[str, Node] = {}
    taken = set(graph.shapes)
    values: dict[str, str] = {}  # id -> what has its value now
    for node in graph.nodes:
        values[node.id] = _place(nodes, replace(node, inputs=tuple(values[name] for name in node.inputs)), taken)
    plain = without_unused(graph.with_nodes(list(nodes.values())))
    return plain.with_nodes([_of_spikes(plain, node) for node in plain.nodes])


def _place(nodes: dict[str, Node], node: Node, taken: set[str]) -> str:
    """Add a node, or what takes its place; the id of its value."""
    source = nodes[node.inputs[0]] if node.inputs else None
    if isinstance(node, Affine) and not node.shift.any() and isinstance(source, TemporalShift):
        earlier = _place(nodes, replace(node, id=_new(f"{node.id}.ahead", taken), inputs=source.inputs), taken)
        return _place(nodes, replace(source, id=node.id, inputs=(earlier,)), taken)
    if isinstance(node, LINEAR) and isinstance(source, Add):
        names = summands(nodes, source)
        parts = tuple(_place(nodes, _part(node, index, name, taken), taken) for index, name in enumerate(names))
        node = Add(_new(f"{node.id}.sum", taken), source.origin, parts)
    nodes[node.id] = node
    return node.id


def _new(name: str, taken: set[str]) -> str:
    name = fresh(name, taken)
    taken.add(name)
    return name


def _part(node: Node, index: int, source: str, taken: set[str]) -> Node:
    if index == 0:
        return replace(node, inputs=(source,))
    part = replace(node, id=_new(f"{node.id}.{index}", taken), inputs=(source,))
    if isinstance(part, Convolution | Dense):
        return replace(part, bias=None)
    return replace(part, shift=np.zeros_like(part.shift)) if isinstance(part, Affine) else part


def _of_spikes(graph: Graph, node: Node) -> Node:
    """An affine map of spikes that becomes a current, as a convolution; any other node as it is."""
    if not isinstance(node, Affine) or len(graph.shapes[node.id]) != 3:
        return node
    source = graph[node.inputs[0]]
    while isinstance(source, AveragePool):
        source = graph[source.inputs[0]]
    current = Add | Driven | TemporalShift
    if not isinstance(source, Spiking) or not all(isinstance(n, current) for n in graph.consumers(node.id)):
        return node
    weight = node.scale[:, None, None, None]
    origin = f"{_sum_of(graph, node)}.shortcut"
    return Convolution(node.id, origin, node.inputs, weight, node.shift, groups=len(weight))


def _sum_of(graph: Graph, node: Node) -> str:
    """Where the sum stands that a node is part of, its own place where there is none."""
    after = graph.only_consumer(node)
    while isinstance(after, TemporalShift):
        after = graph.only_consumer(after)
    return after.origin if isinstance(after, Add) else node.origin
