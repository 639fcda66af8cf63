"""The bias of a layer before a neuron with a synaptic current becomes synapses from a clock.

Loihi adds a neuron's bias to v, behind the synaptic current; the bias of a layer goes through it:
    I[t] = current_leak I[t - 1] + W s[t] + b,   and   b = sum over k of b c[k][t],   c[k][t] = 1 where k = t
where c is a clock, so a weight b from each of its steps gives the same I. Promise: exact.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from export.graph import Accumulate, Add, Clock, Convolution, Dense, Floats, Graph, Neuron, Node, Shape
from export.terms import terms
from train.errors import UserError


def bias_to_clock(graph: Graph) -> Graph:
    """No layer that drives a neuron with a synaptic current has a bias.

    Raises:
        UserError: a bias that differs from place to place; the message names the neuron.
    """
    for neuron in graph.nodes:
        if isinstance(neuron, Neuron | Accumulate) and neuron.has_current:
            biased = {t.synapse.id: t.synapse.bias for t in terms(graph, neuron) if t.synapse.bias is not None}
            if any(bias.any() for bias in biased.values()):
                graph = _clocked(graph, neuron, biased)
    return graph


def _clocked(graph: Graph, neuron: Neuron | Accumulate, biased: dict[str, Floats]) -> Graph:
    if any(bias.ndim > 1 for bias in biased.values()):
        raise UserError(
            "a bias that differs from place to place cannot go through a synaptic current",
            where=neuron.where,
            hint="no normalisation before a convolution with padding",
        )
    clock, synapse = _bias(neuron, np.sum(list(biased.values()), axis=0), graph.shapes[neuron.id], graph.steps)
    before = graph[neuron.inputs[0]]
    summands = before.inputs if isinstance(before, Add) else neuron.inputs
    total = Add(f"{neuron.id}.current", neuron.origin, (*summands, synapse.id))
    nodes: list[Node] = []
    for node in graph.nodes:
        if node is neuron:
            nodes += [clock, synapse, total, replace(neuron, inputs=(total.id,))]
        elif isinstance(node, Convolution | Dense) and node.id in biased:
            nodes.append(replace(node, bias=None))
        elif node is not before or not isinstance(before, Add):
            nodes.append(node)
    return graph.with_nodes(nodes)


def _bias(neuron: Neuron | Accumulate, bias: Floats, shape: Shape, steps: int) -> tuple[Clock, Convolution | Dense]:
    """A clock and the synapses that give every neuron of `shape` its bias (C,) at each step."""
    clock = Clock(f"{neuron.id}.clock", neuron.origin, (), (steps, *shape[1:]))
    weight = np.repeat(bias[:, None], steps, axis=1)
    name = f"{neuron.id}.bias"
    if len(shape) == 1:
        return clock, Dense(name, neuron.origin, (clock.id,), weight, None)
    return clock, Convolution(name, neuron.origin, (clock.id,), weight[:, :, None, None], None)
