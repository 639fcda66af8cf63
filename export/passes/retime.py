"""Retiming: give every population its start and every connection the delays that make all paths into it agree.

A spike of p at window step i, through a synapse that takes k steps and a relative delay r (negative looks ahead),
must meet q at window step i + r. With windows starting at s_p and s_q and a real delay d >= 0:
    s_p + i + k + d = s_q + i + r,   so   d = s_q - s_p - k + r   and   s_q = max over inputs of (s_p + k - r).
A clock may start when it likes, so it starts when the first population that it drives needs it.
Promise: exact. The graph before and after give the same values in every window.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from export import limits
from export.graph import Clock, Delay, Graph, Node, Spiking, Windowed, rewire
from export.network import Ints
from export.terms import terms
from train.errors import UserError


def guard_steps(graph: Graph) -> int:
    """Silent steps that must separate two samples: the furthest that any layer looks outside its own time step."""
    reach = [0]
    for node in graph.windowed():
        for term in terms(graph, node):
            offset = term.delay if graph.synapse_steps == 0 else term.delay - _slack(graph, node, term.source)
            reach.append(int(np.abs(offset).max(initial=0)))
    return max(reach)


def _slack(graph: Graph, node: Windowed, source: Spiking) -> int:
    return node.start - source.start - graph.synapse_steps


@dataclass(frozen=True)
class _Plan:
    starts: dict[str, int]
    delays: dict[str, Ints]  # synapse id -> delays of its source's channels


def retime(graph: Graph, synapse_steps: int) -> Graph:
    """Windows and causal delays for synapses that take `synapse_steps` (1 on Loihi, 0 in NIR).

    Raises:
        UserError: a delay beyond what a Loihi synapse can hold; the message names the layer.
    """
    plan = _plan(graph, synapse_steps)
    nodes: list[Node] = []
    for node in graph.nodes:
        if isinstance(node, Delay):
            continue
        if isinstance(node, Windowed):
            nodes.append(replace(node, start=plan.starts[node.id]))
        elif node.id in plan.delays:
            source = graph[node.inputs[0]]
            origin = source.inputs[0] if isinstance(source, Delay) else source.id
            delay = plan.delays[node.id]
            if delay.any():
                nodes.append(Delay(f"{node.id}.delay", node.origin, (origin,), delay))
                origin = f"{node.id}.delay"
            nodes.append(rewire(node, node.inputs[0], origin))
        else:
            nodes.append(node)
    return replace(graph, nodes=tuple(nodes), synapse_steps=synapse_steps)


def _plan(graph: Graph, k: int) -> _Plan:
    starts: dict[str, int] = {}
    clocks: dict[str, int] = {}
    delays: dict[str, Ints] = {}
    lead = guard_steps(graph)  # a layer that looks back past its window's edge must find silence there
    nodes = [node for node in graph.windowed() if not isinstance(node, Clock)]
    for node in nodes:
        inputs = terms(graph, node)
        ready = [starts.get(t.source.id, 0) + k - int(t.delay.min(initial=0)) for t in inputs]
        starts[node.id] = max([lead, *ready])
        for term in inputs:
            if isinstance(term.source, Clock):
                latest = starts[node.id] - k + int(term.delay.min(initial=0))
                clocks[term.source.id] = min(latest, clocks.get(term.source.id, latest))
    starts |= {node.id: clocks.get(node.id, lead) for node in graph.windowed() if isinstance(node, Clock)}
    for node in nodes:
        for term in terms(graph, node):
            delay = starts[node.id] - starts[term.source.id] - k + term.delay
            if int(delay.max(initial=0)) > limits.DELAY_LIMIT:
                raise UserError(
                    f"needs a delay of {int(delay.max())} steps, limit {limits.DELAY_LIMIT}",
                    where=term.synapse.where,
                    hint="the shortcut skips too many layers; split the block",
                )
            delays[term.synapse.id] = delay
    return _Plan(starts, delays)
