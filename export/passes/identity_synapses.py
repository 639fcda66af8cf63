"""A shortcut that adds spikes to a current becomes a synapse of weight 1 for each neuron.

Identity: x = I x, with I a 1 x 1 convolution in as many groups as channels, or a diagonal matrix. Sums of sums become
one sum. After this pass all that a neuron adds up are convolutions and dense layers. Promise: exact.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np

from export.graph import Add, Convolution, Dense, Driven, Graph, Node, Shape, fresh
from export.passes.unused import without_unused


def identity_synapses(graph: Graph) -> Graph:
    """Every population's current is one synapse node or an Add of them."""
    nodes: dict[str, Node] = {}
    for node in graph.nodes:
        if isinstance(node, Driven):
            current, place = nodes[node.inputs[0]], node.origin or node.id
            inputs = tuple(_synapse(nodes, graph, name, sum_at) for name, sum_at in _summands(nodes, current, place))
            if len(inputs) > 1:
                place = (current.origin if isinstance(current, Add) else "") or place
                total = Add(f"{node.id}.current", place, inputs)
                nodes[total.id] = total
                inputs = (total.id,)
            nodes[node.id] = replace(node, inputs=inputs)
        else:
            nodes[node.id] = node
    return without_unused(graph.with_nodes(list(nodes.values())))


def _summands(nodes: Mapping[str, Node], node: Node, place: str) -> Iterator[tuple[str, str]]:
    """What `node` adds up, sums of sums taken apart, each with the place of its own sum, else `place`."""
    if not isinstance(node, Add):
        yield node.id, place
        return
    for name in node.inputs:
        yield from _summands(nodes, nodes[name], node.origin or place)


def _synapse(nodes: dict[str, Node], graph: Graph, name: str, place: str) -> str:
    """The id of a synapse node with the value of `name`: its own, or that of a new one."""
    if isinstance(nodes[name], Convolution | Dense):
        return name
    origin = f"{place}.shortcut"
    free = fresh(origin, nodes)
    nodes[free] = _identity(free, origin, name, graph.shapes[name])
    return free


def _identity(name: str, origin: str, source: str, shape: Shape) -> Convolution | Dense:
    if len(shape) == 1:
        return Dense(name, origin, (source,), np.eye(shape[0]), None)
    return Convolution(name, origin, (source,), np.ones((shape[0], 1, 1, 1)), None, groups=shape[0])
