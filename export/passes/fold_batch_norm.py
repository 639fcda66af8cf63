"""Fold batch norm into the weights before it.

Identity: scale (W x + b) + shift = (scale W) x + (scale b + shift), channel by channel. Promise: exact in real
arithmetic. Applies to an Affine that is the only consumer of a convolution, a dense layer or another Affine.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from export.graph import Affine, Convolution, Dense, Graph, Node, rewire


def fold_batch_norm(graph: Graph) -> Graph:
    """Every Affine behind a convolution, a dense layer or an Affine is gone; what is before it keeps its id."""
    nodes: list[Node] = []
    moved: dict[str, str] = {}
    for original in graph.nodes:
        node = original
        for old in original.inputs:
            node = rewire(node, old, moved.get(old, old))
        before = next((n for n in nodes if n.id == node.inputs[0]), None) if isinstance(node, Affine) else None
        if (
            isinstance(node, Affine)
            and isinstance(before, Affine | Convolution | Dense)
            and graph.only_consumer(graph[original.inputs[0]]) is original
        ):
            nodes[nodes.index(before)] = _scaled(before, node)
            moved[node.id] = before.id
        else:
            nodes.append(node)
    return graph.with_nodes(nodes)


def _scaled(synapse: Affine | Convolution | Dense, affine: Affine) -> Affine | Convolution | Dense:
    if isinstance(synapse, Affine):
        return replace(synapse, scale=synapse.scale * affine.scale, shift=synapse.shift * affine.scale + affine.shift)
    rows = (-1,) + (1,) * (synapse.weight.ndim - 1)
    bias = np.zeros(len(affine.shift)) if synapse.bias is None else synapse.bias
    column = (-1,) + (1,) * (bias.ndim - 1)
    return replace(
        synapse,
        weight=synapse.weight * affine.scale.reshape(rows),
        bias=bias * affine.scale.reshape(column) + affine.shift.reshape(column),
    )
