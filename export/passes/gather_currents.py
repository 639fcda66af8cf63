"""The normal form that retiming and quantisation read: a population adds up synapses on spikes, some delayed.

Identity: sums of sums are one sum, and a layer without weights is its bias, which another layer of the sum can add.
Then what drives a population is what `export.terms` lists. Promise: exact.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from export.graph import Convolution, Delay, Dense, Driven, Feedback, Graph, Node, Spiking, summands
from export.passes.unused import without_unused
from export.quantise import rows
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
            names = _without_constants(nodes, names, node.id)
            if len(names) > 1:
                total = replace(nodes[node.inputs[0]], id=f"{node.id}.current", inputs=tuple(names))
                nodes.pop(total.id, None)  # behind what it adds up
                nodes[total.id] = total
                names = [total.id]
            nodes[node.id] = replace(node, inputs=tuple(names))
        else:
            nodes[node.id] = node
    return without_unused(graph.with_nodes(list(nodes.values())))


def _without_constants(nodes: dict[str, Node], names: list[str], target: str) -> list[str]:
    """The layers that have weights; a copy of the first of them, for this target, has the biases of the others."""
    layers = [node for node in (nodes[name] for name in names) if isinstance(node, Convolution | Dense)]
    constant = [layer for layer in layers if not layer.weight.any()]
    weighted = [layer for layer in layers if layer.weight.any()]
    biases = [layer.bias for layer in constant if layer.bias is not None]
    if not weighted or not constant:
        return names
    first = replace(weighted[0], id=f"{target}.biased")
    for bias in biases:
        own = np.zeros(1) if first.bias is None else first.bias
        ndim = max(own.ndim, bias.ndim)
        first = replace(first, bias=rows(own, ndim) + rows(bias, ndim))
    nodes[first.id] = first
    return [first.id, *(layer.id for layer in weighted[1:])]


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
