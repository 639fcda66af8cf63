"""Scale and shift of a current go into what it is a sum of, so that they can be folded into weights.

Identities: scale (a + b) + shift = (scale a + shift) + scale b; and scale s + shift, for spikes s, is a 1 x 1
convolution of s in as many groups as channels. It is how a neuron's gain (N of adaptive LIF, alpha of DA-LIF) reaches
the weights of a residual block, its shortcut included. Promise: exact in real arithmetic.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from export.graph import Accumulate, Add, Affine, Convolution, Graph, Neuron, Node, Spiking


def affine_into_sums(graph: Graph) -> Graph:
    """No Affine takes a sum that nobody else takes, and none makes a current of spikes."""
    while (affine := _of_sum(graph)) is not None:
        total = graph[affine.inputs[0]]
        nodes: list[Node] = []
        for node in graph.nodes:
            if node is affine:
                parts = _parts(affine, total)
                nodes += [*parts, replace(total, id=affine.id, inputs=tuple(part.id for part in parts))]
            elif node is not total:
                nodes.append(node)
        graph = graph.with_nodes(nodes)
    return graph.with_nodes([_of_spikes(node, graph) for node in graph.nodes])


def _of_sum(graph: Graph) -> Affine | None:
    for node in graph.nodes:
        if isinstance(node, Affine):
            source = graph[node.inputs[0]]
            if isinstance(source, Add) and graph.only_consumer(source) is node:
                return node
    return None


def _parts(affine: Affine, total: Node) -> list[Affine]:
    """The shift goes with the first summand."""
    return [
        replace(affine, id=f"{affine.id}.{i}", inputs=(name,), shift=affine.shift if i == 0 else 0 * affine.shift)
        for i, name in enumerate(total.inputs)
    ]


def _of_spikes(node: Node, graph: Graph) -> Node:
    """An Affine between spikes and a neuron as a convolution."""
    if not isinstance(node, Affine) or len(graph.shapes[node.id]) != 3:
        return node
    current = all(isinstance(consumer, Add | Neuron | Accumulate) for consumer in graph.consumers(node.id))
    if not current or not isinstance(graph[node.inputs[0]], Spiking):
        return node
    weight, bias = node.scale.reshape(-1, 1, 1, 1), node.shift if node.shift.any() else None
    return Convolution(node.id, node.origin, node.inputs, weight.astype(np.float64), bias, groups=len(weight))
