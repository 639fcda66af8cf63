"""The order in which a NIR graph runs, and which of its edges are one step late.

NIR allows loops and does not say where time passes in them. The convention of its paper and of the frameworks: nodes
run from the inputs on, and what goes back to a neuron that has already run arrives one step later. Here: between
neurons, depth is the number of neurons on the shortest way from an input; an edge out of a neuron is late when all
that it reaches before the next neuron lies in the same loop and not deeper than where it starts.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from export.formats.nir_file import NirGraph
from train.errors import UserError

SPIKING = ("LIF", "IF", "CubaLIF", "Threshold")
STATEFUL = (*SPIKING, "I", "LI", "CubaLI")


@dataclass(frozen=True)
class Wiring:
    """Node names, sources before targets but for late edges, which carry the spikes of the step before."""

    order: tuple[str, ...]
    late: frozenset[tuple[str, str]]


def wire(graph: NirGraph) -> Wiring:
    """Put the nodes into order.

    Raises:
        UserError: a node that nothing reaches, or that reaches no output; a loop in which no neuron, or not exactly
            one edge, can be the late one.
    """
    _check_reached(graph)
    loop_of = _loops(graph)
    late = _late_edges(graph, loop_of) if loop_of else frozenset()
    return Wiring(tuple(_order(graph, late)), late)


def _check_reached(graph: NirGraph) -> None:
    for kind in ("Input", "Output"):
        if not any(node.kind == kind for node in graph.nodes.values()):
            raise UserError(f"has no {kind} node")
    sources: dict[str, list[str]] = {name: [] for name in graph.nodes}
    targets: dict[str, list[str]] = {name: [] for name in graph.nodes}
    for a, b in graph.edges:
        targets[a].append(b)
        sources[b].append(a)
    for name, node in graph.nodes.items():
        if node.kind == "Input" and sources[name]:
            raise UserError(f"is an input, and gets something from {sources[name][0]}", where=node.where)
        if node.kind == "Output" and targets[name]:
            raise UserError(f"is an output, and feeds {targets[name][0]}", where=node.where)
    from_inputs = _reach([n for n, node in graph.nodes.items() if node.kind == "Input"], targets)
    to_outputs = _reach([n for n, node in graph.nodes.items() if node.kind == "Output"], sources)
    for name, node in graph.nodes.items():
        if name not in from_inputs:
            raise UserError("no input reaches it", where=node.where, hint="connect it, or take it out of the file")
        if name not in to_outputs:
            raise UserError("it reaches no output", where=node.where, hint="connect it, or take it out of the file")


def _reach(starts: list[str], edges: dict[str, list[str]]) -> set[str]:
    seen, waiting = set(starts), deque(starts)
    while waiting:
        for name in edges[waiting.popleft()]:
            if name not in seen:
                seen.add(name)
                waiting.append(name)
    return seen


def _loops(graph: NirGraph) -> dict[str, int]:
    """Which loop (strongly connected component) a node is in; nodes in none are left out. Kosaraju's algorithm."""
    targets: dict[str, list[str]] = {name: [] for name in graph.nodes}
    sources: dict[str, list[str]] = {name: [] for name in graph.nodes}
    for a, b in graph.edges:
        targets[a].append(b)
        sources[b].append(a)
    finished: list[str] = []
    seen: set[str] = set()
    for root in graph.nodes:
        if root in seen:
            continue
        seen.add(root)
        stack = [(root, iter(targets[root]))]
        while stack:
            name, following = stack[-1]
            new = next((n for n in following if n not in seen), None)
            if new is None:
                finished.append(name)
                stack.pop()
            else:
                seen.add(new)
                stack.append((new, iter(targets[new])))
    component: dict[str, int] = {}
    sizes: list[int] = []
    for root in reversed(finished):
        if root in component:
            continue
        members, waiting = [root], [root]
        component[root] = len(sizes)
        while waiting:
            for name in sources[waiting.pop()]:
                if name not in component:
                    component[name] = len(sizes)
                    members.append(name)
                    waiting.append(name)
        sizes.append(len(members))
    return {n: c for n, c in component.items() if sizes[c] > 1 or (n, n) in graph.edges}


def _late_edges(graph: NirGraph, loop_of: dict[str, int]) -> frozenset[tuple[str, str]]:
    targets: dict[str, list[str]] = {name: [] for name in graph.nodes}
    for a, b in graph.edges:
        targets[a].append(b)
    stops = {name for name, node in graph.nodes.items() if node.kind in STATEFUL or node.kind == "Output"}
    depth = _depths(graph, targets, stops)
    late: set[tuple[str, str]] = set()
    for name, loop in loop_of.items():
        if graph.nodes[name].kind in SPIKING:
            for target in targets[name]:
                ends = _next_stops(target, targets, stops)
                back = {e for e in ends if loop_of.get(e) == loop and depth[e] <= depth[name]}
                if not back:
                    continue
                where = graph.nodes[target].where
                if back != ends:
                    raise UserError(
                        f"leads back to {min(back)} (one step late) and on to {min(ends - back)} (at once)",
                        where=where,
                        hint="give each way a node of its own",
                    )
                side = [e for e in back if e != name and depth[e] == depth[name]]
                if side:
                    raise UserError(
                        f"{name} and {side[0]} drive each other and are equally far from the input: NIR does not say "
                        "which of the two is one step late",
                        where=where,
                        hint="put both into one population with one recurrent matrix",
                    )
                late.add((name, target))
    return frozenset(late)


def _depths(graph: NirGraph, targets: dict[str, list[str]], stops: set[str]) -> dict[str, int]:
    """The number of neurons on the shortest way from an input to each neuron or output."""
    depth: dict[str, int] = {}
    frontier = {n for n, node in graph.nodes.items() if node.kind == "Input"}
    level = 0
    while frontier:
        reached = {end for name in frontier for t in targets[name] for end in _next_stops(t, targets, stops)}
        level += 1
        frontier = reached - depth.keys()
        depth.update(dict.fromkeys(frontier, level))
    return depth


def _next_stops(start: str, targets: dict[str, list[str]], stops: set[str]) -> set[str]:
    """The neurons and outputs that `start` is, or reaches without passing another one."""
    found: set[str] = set()
    seen, waiting = {start}, [start]
    while waiting:
        name = waiting.pop()
        if name in stops:
            found.add(name)
            continue
        for target in targets[name]:
            if target not in seen:
                seen.add(target)
                waiting.append(target)
    return found


def _order(graph: NirGraph, late: frozenset[tuple[str, str]]) -> list[str]:
    """Sources before targets; what waits for nothing but late spikes comes last, when shapes are known."""
    missing = dict.fromkeys(graph.nodes, 0)
    targets: dict[str, list[str]] = {name: [] for name in graph.nodes}
    for a, b in graph.edges:
        if (a, b) not in late:
            missing[b] += 1
            targets[a].append(b)
    fed_back = {b for _, b in late}
    ready = deque(sorted((n for n, count in missing.items() if count == 0), key=lambda n: n in fed_back))
    order: list[str] = []
    while ready:
        name = ready.popleft()
        order.append(name)
        for target in targets[name]:
            missing[target] -= 1
            if missing[target] == 0:
                if target in fed_back:
                    ready.append(target)
                else:
                    ready.appendleft(target)
    if len(order) < len(graph.nodes):
        stuck = min(name for name, count in missing.items() if count > 0)
        raise UserError("it is in a loop without a spiking neuron", where=graph.nodes[stuck].where)
    return order
