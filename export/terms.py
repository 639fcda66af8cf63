"""What drives each population of a graph in its final form: weighted, delayed spikes of others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from export.graph import Add, Clock, Delay, Feedback, Floats, Graph, Input, Spiking, Synapse, Windowed
from export.network import Ints
from export.quantise import rows


@dataclass(frozen=True, eq=False)
class Term:
    """One synapse node into a population: delay int64 (C,) of its source's channels."""

    synapse: Synapse
    delay: Ints
    source: Spiking


def terms(graph: Graph, node: Windowed) -> tuple[Term, ...]:
    """The terms whose sum is the current of `node`; the graph has been through `gather_currents`."""
    if isinstance(node, Input | Clock):
        return ()
    current = graph[node.inputs[0]]
    names = current.inputs if isinstance(current, Add) else node.inputs
    return tuple(_term(graph, name) for name in names)


def _term(graph: Graph, name: str) -> Term:
    synapse = graph[name]
    before = graph[synapse.inputs[0]]
    delay = before.steps if isinstance(before, Delay) else np.zeros(graph.shapes[before.id][0], dtype=np.int64)
    source = graph[before.inputs[0]] if isinstance(before, Delay) else before
    source = graph[source.of] if isinstance(source, Feedback) else source
    assert isinstance(synapse, Synapse) and isinstance(source, Spiking)  # noqa: PT018 - held by gather_currents
    return Term(synapse, delay, source)


def total_bias(inputs: Sequence[Term], channels: int) -> Floats:
    """The sum of their biases, (C,) or (C, H, W), in units of the float membrane potential."""
    bias: Floats = np.zeros(channels)
    for term in inputs:
        if term.synapse.bias is not None:
            extra = term.synapse.bias
            ndim = max(bias.ndim, extra.ndim)
            bias = rows(bias, ndim) + rows(extra, ndim)
    return bias
