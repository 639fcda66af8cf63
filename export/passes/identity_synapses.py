"""A shortcut that adds spikes to a current becomes a synapse of weight 1 for each neuron.

Identity: x = I x, with I a 1 x 1 convolution in as many groups as channels. Sums of sums become one sum. After this
pass every input of a neuron is a convolution or dense, whose input is a neuron, the network's input, or a delay of
one. Promise: exact.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from export.graph import Accumulate, Add, Convolution, Delay, Dense, Graph, Neuron, Node, Shape, Spiking
from train.errors import UserError


def identity_synapses(graph: Graph) -> Graph:
    """Bring the graph into the form that retiming and quantisation read; `export.terms` lists the result.

    Raises:
        UserError: a value that is neither a spike nor a weighted sum of spikes reaches a neuron, or a layer takes it.
    """
    nodes: list[Node] = []
    for node in graph.nodes:
        if isinstance(node, Add):
            continue
        if isinstance(node, Neuron | Accumulate):
            inputs: list[str] = []
            for name in _summands(graph, node.inputs):
                source = graph[name]
                if not isinstance(source, Convolution | Dense):
                    source = _identity(f"{name}-{node.id}", node.origin, name, graph.shapes[name], source)
                    nodes.append(source)
                inputs.append(source.id)
            nodes.append(replace(node, inputs=tuple(inputs[:1])) if len(inputs) == 1 else _sum(nodes, node, inputs))
        else:
            _check(graph, node)
            nodes.append(node)
    return graph.with_nodes(nodes)


def _summands(graph: Graph, names: tuple[str, ...]) -> list[str]:
    flat: list[str] = []
    for name in names:
        node = graph[name]
        flat += _summands(graph, node.inputs) if isinstance(node, Add) else [name]
    return flat


def _sum(nodes: list[Node], node: Node, inputs: list[str]) -> Node:
    total = Add(f"{node.id}.current", node.origin, tuple(inputs))
    nodes.append(total)
    return replace(node, inputs=(total.id,))


def _identity(name: str, origin: str, source: str, shape: Shape, node: Node) -> Convolution:
    if not isinstance(node, Spiking | Delay) or len(shape) != 3:
        raise UserError(f"its output {shape} cannot be added to a current", where=node.where)
    return Convolution(name, origin, (source,), np.ones((shape[0], 1, 1, 1)), None, groups=shape[0])


def _check(graph: Graph, node: Node) -> None:
    if isinstance(node, Convolution | Dense | Delay):
        source = graph[node.inputs[0]]
        if not isinstance(source, Spiking if isinstance(node, Delay) else Spiking | Delay):
            raise UserError(
                f"takes the output of {source.where}, which is not spikes",
                where=node.where,
                hint="every convolution and linear layer must read spikes (put a neuron in between)",
            )
