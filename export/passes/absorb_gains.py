"""Static gains become part of the thresholds and weights around them.

Identities, G > 0 and the same at every step:
* currents: a neuron with hard reset to zero is scale invariant, so V <- leak V + G x against a threshold is
  V' <- leak V' + x with V' = V / G against threshold / G, neuron by neuron. The bias is part of x and stays as it is;
* spikes s: the layers behind see the graded value G s, and W (G s) = (W G) s, the gain of a source's channel (of its
  place too, for a dense layer) on the weights that read it;
* F (G x) = G (F x) for temporal shift, delay, average pooling where G is the same at every place, and scaling by
  channel: a gain moves behind them until it meets one of the above;
* currents with a shortcut: a + G x = a + W x, W a 1 x 1 convolution in as many groups as channels: a synapse of weight
  G for each neuron where x are spikes, and one of two linear layers in a row where it is a current;
* sums of spikes: W (a + G x) = W a + (W G) x, which is the second case once the sum is distributed.
Promise: exact in real arithmetic.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from export.attention import Gain
from export.graph import (
    Add,
    Affine,
    AveragePool,
    Convolution,
    Delay,
    Dense,
    Driven,
    Floats,
    Graph,
    Neuron,
    Node,
    Shape,
    TemporalShift,
    fresh,
    rewire,
)
from export.passes.distribute_sums import distribute_sums
from export.quantise import rows
from train.errors import UserError


def absorb_gains(graph: Graph) -> Graph:
    """No Gain is left.

    Raises:
        UserError: a gain that is not positive, differs by place in front of a convolution, or stands where no
            threshold or weight can take it.
    """
    while (node := next((n for n in _gains(graph) if not _in_sum_of_spikes(graph, n)), None)) is not None:
        graph = _without_gain(graph, node)
    if _gains(graph):
        graph = distribute_sums(graph)
    while gains := _gains(graph):
        graph = _without_gain(graph, gains[0])
    return graph


def _gains(graph: Graph) -> list[Gain]:
    return [node for node in graph.nodes if isinstance(node, Gain)]


def _in_sum_of_spikes(graph: Graph, gain: Gain) -> bool:
    return any(isinstance(node, Add) and not _is_current(graph, node) for node in graph.consumers(gain.id))


def _is_current(graph: Graph, node: Node) -> bool:
    """Whether `node` only drives neurons, without a synapse in between."""
    return all(
        isinstance(n, Driven) or (isinstance(n, Add | Affine | Gain | TemporalShift) and _is_current(graph, n))
        for n in graph.consumers(node.id)
    )


def _without_gain(graph: Graph, gain: Gain) -> Graph:
    if gain.gain.min() <= 0:
        raise UserError(f"a gain of {gain.gain.min():.4f}, must be above 0", where=gain.where)
    shape, source = graph.shapes[gain.id], gain.inputs[0]
    nodes: list[Node] = []
    moved: dict[str, str] = {}  # what reads the key reads the value
    for original in graph.nodes:
        if original is gain:
            continue
        node = original
        for old in original.inputs:
            node = rewire(node, old, moved.get(old, old))
        if gain.id not in node.inputs:
            nodes.append(node)
        elif isinstance(node, Add):
            shortcut = _shortcut(graph, gain, node)
            nodes += [shortcut, rewire(node, gain.id, shortcut.id)]
        elif (behind := _behind(node, gain)) is not None:
            nodes += [rewire(node, gain.id, source), behind]
            moved[node.id] = behind.id
        else:
            nodes.append(rewire(_scaled(node, gain, shape), gain.id, source))
    return graph.with_nodes(nodes)


def _behind(node: Node, gain: Gain) -> Gain | None:
    """The gain behind `node` that does what `gain` does before it, None if there is none."""
    one_place = all(side == 1 for side in gain.gain.shape[1:])
    match node:
        case Delay() | TemporalShift():
            values = gain.gain
        case Affine() if not node.shift.any():
            values = gain.gain
        case AveragePool() if one_place:
            values = gain.gain
        case _:
            return None
    return Gain(f"{node.id}.gain", gain.origin, (node.id,), values)


def _scaled(node: Node, gain: Gain, shape: Shape) -> Node:
    match node:
        case Neuron() if node.scale is None:
            return replace(node, threshold=rows(node.threshold, len(shape)) / gain.gain)
        case Gain():
            return replace(node, gain=node.gain * gain.gain)
        case Affine():
            return replace(node, scale=node.scale * _by_channel(gain, shape, node))
        case Dense():
            return replace(node, weight=node.weight * np.broadcast_to(gain.gain, shape).reshape(-1))
        case Convolution():
            channels = _by_channel(gain, shape, node)
            inputs = channels.reshape(node.groups, -1).repeat(node.weight.shape[0] // node.groups, axis=0)
            return replace(node, weight=node.weight * inputs[:, :, None, None])
    raise UserError(f"takes the output of {gain.where}, which no threshold or weight can take", where=node.where)


def _by_channel(gain: Gain, shape: Shape, node: Node) -> Floats:
    """(C,) gains."""
    if any(side != 1 for side in gain.gain.shape[1:]):
        raise UserError(f"{gain.where} differs by place, its weights are the same at every place", where=node.where)
    return np.broadcast_to(gain.gain.reshape(-1), shape[:1]).copy()


def _shortcut(graph: Graph, gain: Gain, add: Node) -> Convolution:
    weight = _by_channel(gain, graph.shapes[gain.id], add).reshape(-1, 1, 1, 1)
    name, origin = fresh(f"{gain.id}-{add.id}", graph.shapes), f"{add.origin or add.id}.shortcut"
    return Convolution(name, origin, gain.inputs, weight, None, groups=len(weight))
