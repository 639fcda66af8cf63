"""Flattening goes: a dense layer reads its source in C order anyway.

Identity: W flatten(x) + b is what `Dense` does with x of any shape. Promise: exact.
"""

from __future__ import annotations

from export.graph import Dense, Flatten, Graph, rewire
from train.errors import UserError


def drop_flatten(graph: Graph) -> Graph:
    """No Flatten is left.

    Raises:
        UserError: something else than dense layers reads a flattened map.
    """
    for flatten in graph.nodes:
        if isinstance(flatten, Flatten):
            for node in graph.consumers(flatten.id):
                if not isinstance(node, Dense | Flatten):
                    raise UserError(f"takes flattened input from {flatten.where}", where=node.where)
            source = graph[flatten.id].inputs[0]
            graph = graph.with_nodes([rewire(n, flatten.id, source) for n in graph.nodes if n.id != flatten.id])
    return graph
