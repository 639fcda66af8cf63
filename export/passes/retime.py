"""Retiming: give every population its start and every connection the delays that make all paths into it agree.

A spike of p at window step i, through a synapse that takes k steps and a relative delay r (negative looks ahead),
must meet q at window step i + r. With windows starting at s_p and s_q and a real delay d >= 0:
    s_p + i + k + d = s_q + i + r,   so   d = s_q - s_p - k + r   and   s_q = max over inputs of (s_p + k - r).
Starts are the longest paths, also in a recurrent network. Around a loop the starts cancel out, so the k of its synapses
must not add up to more than its delays r: recurrence that is one step late (r = 1) just fits one synapse (k = 1).
Attention that waits for its window sends T steps after it started, and s_p is then that step.
A clock may start when it likes, so it starts when the first population that it drives needs it.
Promise: exact. The graph before and after give the same values in every window.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from export import limits
from export.graph import Clock, Delay, Gating, Graph, Node, Spiking, Windowed, rewire, sends
from export.network import Ints
from export.terms import Term, terms
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
    return node.start - sends(source) - graph.synapse_steps


@dataclass(frozen=True)
class _Plan:
    starts: dict[str, int]
    delays: dict[str, Ints]  # synapse id -> delays of its source's channels


def retime(graph: Graph, synapse_steps: int) -> Graph:
    """Windows and causal delays for synapses that take `synapse_steps` (1 on Loihi, 0 in NIR).

    Raises:
        UserError: a delay beyond what a Loihi synapse can hold, or a loop whose synapses take longer than it may; the
            message names the layer or the loop.
    """
    plan = _plan(graph, synapse_steps)
    nodes: list[Node] = []
    for node in graph.nodes:
        if isinstance(node, Delay):
            continue
        if isinstance(node, Windowed):
            start = plan.starts[node.id]
            timed = replace(node, sends=start + _waits(graph, node)) if isinstance(node, Gating) else node
            nodes.append(replace(timed, start=start))
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
    starts = _starts(graph, k)
    delays: dict[str, Ints] = {}
    for node in graph.windowed():
        for term in terms(graph, node):
            delay = starts[node.id] - _sends(graph, starts, term.source) - k + term.delay
            if int(delay.max()) > limits.DELAY_LIMIT:
                raise UserError(
                    f"needs a delay of {int(delay.max())} steps, limit {limits.DELAY_LIMIT}",
                    where=term.synapse.where,
                    hint="the shortcut skips too many layers, or attention, which takes a window; split the block",
                )
            delays[term.synapse.id] = delay
    return _Plan(starts, delays)


def _starts(graph: Graph, k: int) -> dict[str, int]:
    """Longest paths by relaxation: one round for a feed-forward graph, at most as many as populations for any."""
    nodes = tuple(node for node in graph.windowed() if not isinstance(node, Clock))
    lead = guard_steps(graph)  # a layer that looks back past its window's edge must find silence there
    starts = {node.id: lead for node in nodes}
    driver: dict[str, str] = {}
    for _ in range(len(nodes) + 1):
        late = ""
        for node in nodes:
            for term in _timed(graph, node):
                earliest = _sends(graph, starts, term.source) + k - int(term.delay.min())
                if earliest > starts[node.id]:
                    starts[node.id], driver[node.id], late = earliest, term.source.id, node.id
        if not late:
            return starts | _clocks(graph, starts, k)
    raise _endless(graph, nodes, driver, late, k)


def _waits(graph: Graph, node: Windowed) -> int:
    """Steps from what a node takes to what it sends of it, its synapses apart."""
    return graph.steps if isinstance(node, Gating) and node.waits else 0


def _sends(graph: Graph, starts: dict[str, int], source: Spiking) -> int:
    return starts[source.id] + _waits(graph, source)


def _timed(graph: Graph, node: Windowed) -> list[Term]:
    """The terms whose sources cannot start when they like."""
    return [term for term in terms(graph, node) if not isinstance(term.source, Clock)]


def _clocks(graph: Graph, starts: dict[str, int], k: int) -> dict[str, int]:
    """For each clock the latest start that still reaches all that it drives."""
    latest: dict[str, int] = {}
    for node in graph.windowed():
        for term in terms(graph, node):
            if isinstance(term.source, Clock):
                start = starts[node.id] - k + int(term.delay.min())
                latest[term.source.id] = min(start, latest.get(term.source.id, start))
    return latest


def _endless(graph: Graph, nodes: tuple[Windowed, ...], driver: dict[str, str], late: str, k: int) -> UserError:
    """The loop that pushes its own start on for ever, found by going back along what pushed last."""
    for _ in nodes:
        late = driver[late]  # surely on the loop now
    loop = [late]
    while driver[loop[-1]] != late:
        loop.append(driver[loop[-1]])
    given = sum(
        min(int(term.delay.min()) for term in _timed(graph, _windowed(nodes, target)) if term.source.id == source)
        for target, source in ((name, driver[name]) for name in loop)
    )
    names = " -> ".join([*reversed(loop), loop[-1]])
    return UserError(
        f"its synapses take {k * len(loop)} steps, and the network gives them {given}",
        where=f"loop {names}",
        hint="a spike needs one step for every synapse; give a connection of this loop a longer delay",
    )


def _windowed(nodes: tuple[Windowed, ...], name: str) -> Windowed:
    return next(node for node in nodes if node.id == name)
