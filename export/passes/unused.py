"""Drop what nothing reads: the rest of what other passes have rewired."""

from __future__ import annotations

from export.graph import Driven, Feedback, Graph, Input


def without_unused(graph: Graph) -> Graph:
    """The graph without nodes whose output goes nowhere; input, neurons and read-out stay. Promise: exact."""
    read: set[str] = {graph.nodes[-1].id}
    for node in reversed(graph.nodes):
        if node.id in read or isinstance(node, Input | Driven):
            read |= {node.id, *node.inputs}
            if isinstance(node, Feedback):
                read.add(node.of)
    return graph.with_nodes([node for node in graph.nodes if node.id in read])
