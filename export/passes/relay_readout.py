"""A read-out that adds up graded spikes of step attention gets their sum from a relay.

Identity: V <- V + W x is V <- V + y with y = W x. W x has the 24 bits of an accumulator in a relay, the shifted current
of a neuron has 17 of them left, and the sum over T takes its share: too few for weights times gains. Promise: exact.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from export.attention import Relay, StepAttention
from export.graph import Accumulate, Dense, Graph, Node, fresh
from export.terms import terms


def relay_readout(graph: Graph) -> Graph:
    """Where step attention drives the read-out, one relay does, through one synapse for each neuron."""
    nodes: list[Node] = []
    for node in graph.nodes:
        if isinstance(node, Accumulate) and any(isinstance(t.source, StepAttention) for t in terms(graph, node)):
            relay = Relay(fresh(f"{node.id}.sum", graph.shapes), _layer(graph, node), node.inputs)
            size = graph.shapes[node.id][0]
            origin = f"{node.origin or node.id}.shortcut"
            synapse = Dense(fresh(origin, graph.shapes), origin, (relay.id,), np.eye(size), None)
            nodes += [relay, synapse, replace(node, inputs=(synapse.id,))]
        else:
            nodes.append(node)
    return graph.with_nodes(nodes)


def _layer(graph: Graph, node: Accumulate) -> str:
    """The place of the layer whose output it is: that of its first synapse."""
    return terms(graph, node)[0].synapse.origin
