"""What drives each population of a graph in its final form: weighted, delayed spikes of others."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from export.graph import Add, Delay, Graph, Input, Neuron, Synapse, Windowed
from export.network import Ints


@dataclass(frozen=True, eq=False)
class Term:
    """One synapse node into a population: delay int64 (C,) of its source's channels."""

    synapse: Synapse
    delay: Ints
    source: Input | Neuron


def terms(graph: Graph, node: Windowed) -> tuple[Term, ...]:
    """The terms whose sum is the current of `node`; the graph has been through `identity_synapses`."""
    if isinstance(node, Input):
        return ()
    current = graph[node.inputs[0]]
    names = current.inputs if isinstance(current, Add) else node.inputs
    return tuple(_term(graph, name) for name in names)


def _term(graph: Graph, name: str) -> Term:
    synapse = graph[name]
    before = graph[synapse.inputs[0]]
    delay = before.steps if isinstance(before, Delay) else np.zeros(graph.shapes[before.id][0], dtype=np.int64)
    source = graph[before.inputs[0]] if isinstance(before, Delay) else before
    assert isinstance(synapse, Synapse) and isinstance(source, Input | Neuron)  # noqa: PT018 - held by identity_synapses
    return Term(synapse, delay, source)
