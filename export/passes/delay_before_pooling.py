"""Delays move ahead of pooling, to the spikes.

Identity: a delay moves whole channels in time and pooling sums within a channel and a step, so they commute:
delay(pool(x)) = pool(delay(x)). Promise: exact.
"""

from __future__ import annotations

from dataclasses import replace

from export.graph import AveragePool, Delay, Graph, Node
from export.passes.unused import without_unused


def delay_before_pooling(graph: Graph) -> Graph:
    """No Delay reads a pooled map; the pool behind a moved one takes its id."""
    nodes: dict[str, Node] = {}
    for node in graph.nodes:
        for moved in _moved(node, nodes):
            nodes[moved.id] = moved
    return without_unused(graph.with_nodes(list(nodes.values())))


def _moved(node: Node, nodes: dict[str, Node]) -> list[Node]:
    pool = nodes[node.inputs[0]] if node.inputs else None
    if not isinstance(node, Delay) or not isinstance(pool, AveragePool):
        return [node]
    earlier = _moved(replace(node, id=f"{node.id}.spikes", inputs=pool.inputs), nodes)
    return [*earlier, replace(pool, id=node.id, inputs=(earlier[-1].id,))]
