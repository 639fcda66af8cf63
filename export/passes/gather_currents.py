"""The normal form that retiming and quantisation read: a population adds up synapses on spikes, some delayed.

Identity: sums of sums are one sum. Then what drives a population is what `export.terms` lists. Promise: exact.
"""

from __future__ import annotations

from dataclasses import replace

from export.graph import Convolution, Delay, Dense, Driven, Feedback, Graph, Node, Spiking, summands
from export.passes.unused import without_unused
from train.errors import UserError


def gather_currents(graph: Graph) -> Graph:
    """Bring the graph into its normal form.

    Raises:
        UserError: a layer takes something else than spikes; it is named.
    """
    nodes: dict[str, Node] = {}
    for node in graph.nodes:
        if isinstance(node, Driven):
            names = summands(nodes, nodes[node.inputs[0]])
            for name in names:
                _check(nodes, nodes[name])
            if len(names) > 1:
                total = replace(nodes[node.inputs[0]], id=f"{node.id}.current", inputs=tuple(names))
                nodes[total.id] = total
                names = [total.id]
            nodes[node.id] = replace(node, inputs=tuple(names))
        else:
            nodes[node.id] = node
    return without_unused(graph.with_nodes(list(nodes.values())))


def _check(nodes: dict[str, Node], synapse: Node) -> None:
    if not isinstance(synapse, Convolution | Dense):
        raise UserError("its output cannot be added to a current", where=synapse.where)
    source = nodes[synapse.inputs[0]]
    if isinstance(source, Delay):
        source = nodes[source.inputs[0]]
    if not isinstance(source, Spiking | Feedback):
        raise UserError(
            f"takes the output of {source.where}, which is not spikes",
            where=synapse.where,
            hint="every convolution and linear layer must read spikes (put a neuron in between)",
        )
