"""A delay behind a layer becomes a delay in front of it, where the chip has one: on spikes.

Identity: with D the delays of the output channels, D W x = sum over the delays d of (rows with delay d of W) (x delayed
by d). A bias would start late with its rows, which is not the same from the first step on, so it is refused. Pooling
and scales work channel by channel, as delays do, and change places with them; delays behind each other add up.
Promise: exact.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from export.graph import Add, Affine, AveragePool, Convolution, Delay, Dense, Graph, Node, fresh, rewire
from export.passes.distribute_sums import distribute_sums
from export.passes.unused import without_unused
from train.errors import UserError

LINEAR = (Affine, AveragePool, Convolution, Delay, Dense)


def delays_on_spikes(graph: Graph) -> Graph:
    """No Delay reads a convolution, a dense layer, pooling, a scale or another Delay.

    Raises:
        UserError: a delayed bias.
    """
    while True:
        graph = distribute_sums(graph)
        found = next(
            (
                (node, before)
                for node in graph.nodes
                if isinstance(node, Delay) and isinstance(before := graph[node.inputs[0]], LINEAR)
            ),
            None,
        )
        if found is None:
            return without_unused(graph)
        delay, before = found
        split = isinstance(before, Convolution | Dense)
        made = _split(delay, before, graph) if split else _swapped(delay, before, graph)
        nodes: list[Node] = []
        for node in graph.nodes:
            nodes += made if node is delay else [rewire(node, delay.id, made[-1].id)]
        graph = graph.with_nodes(nodes)


def _swapped(delay: Delay, before: Node, graph: Graph) -> list[Node]:
    """The delay first, channel by channel."""
    if isinstance(before, Delay):
        return [replace(delay, inputs=before.inputs, steps=delay.steps + before.steps)]
    if isinstance(before, Affine) and (before.shift.astype(bool) & (delay.steps != 0)).any():
        raise _late_bias(delay, before)
    first = replace(delay, inputs=before.inputs)
    return [first, replace(before, id=fresh(f"{before.id}.{delay.id}", graph.shapes), inputs=(first.id,))]


def _late_bias(delay: Delay, before: Node) -> UserError:
    return UserError(
        f"delays the bias of {before.where}, which would then start late",
        where=delay.where,
        hint="put the delay before the layer, or drop its bias",
    )


def _split(delay: Delay, before: Node, graph: Graph) -> list[Node]:
    """One synapse for each delay, its rows alone, and their sum."""
    assert isinstance(before, Convolution | Dense)
    if before.bias is not None and (_rows_with_bias(before) & (delay.steps != 0)).any():
        raise _late_bias(delay, before)
    channels, axes = graph.shapes[before.inputs[0]][0], before.weight.ndim
    made: list[Node] = []
    parts: list[str] = []
    for steps in np.unique(delay.steps):
        name = fresh(f"{delay.id}.rows{steps}", graph.shapes)
        moved = fresh(f"{delay.id}.spikes{steps}", graph.shapes)
        late = Delay(moved, delay.origin, before.inputs, np.full(channels, steps))
        rows = before.weight * (delay.steps == steps).reshape(-1, *(1,) * (axes - 1))
        made += [late, replace(before, id=name, inputs=(late.id,), weight=rows, bias=None if steps else before.bias)]
        parts.append(name)
    return [*made, Add(fresh(f"{delay.id}.rows", graph.shapes), delay.origin, tuple(parts))]


def _rows_with_bias(synapse: Convolution | Dense) -> np.ndarray:
    assert synapse.bias is not None
    return np.asarray(synapse.bias.reshape(len(synapse.bias), -1).any(axis=1))
