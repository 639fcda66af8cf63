"""Temporal shift as synapses with delays: spikes stay binary.

Identity, for a linear layer W behind X' = X + alpha Z (TS-SNN, arXiv 2505.04165, equation 7):
    W X'[t] = W_main X[t] + W_side X[t - d]
    channels [0, future):    W_main = w,             W_side = alpha w,  d = -1
    channels [future, past): W_main = w,             W_side = alpha w,  d = +1
    channels [past, C):      W_main = (1 + alpha) w, W_side = 0
Values outside the window are zero, as the paper pads. Promise: exact in real arithmetic.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from export.graph import Add, Convolution, Delay, Dense, Floats, Graph, Node, Shape, TemporalShift, rewire
from train.errors import UserError


def shift_to_delays(graph: Graph) -> Graph:
    """No TemporalShift is left; each layer behind one becomes two, `<id>` and `<id>.shift`, and their sum.

    Raises:
        UserError: a shift feeds something other than convolutions and dense layers.
    """
    for shift in graph.nodes:
        if isinstance(shift, TemporalShift):
            graph = _expand(graph, shift)
    return graph


def _expand(graph: Graph, shift: TemporalShift) -> Graph:
    nodes: list[Node] = []
    sums: dict[str, str] = {}
    source = shift.inputs[0]
    shape = graph.shapes[source]
    for original in graph.nodes:
        node = original
        for old in original.inputs:
            node = rewire(node, old, sums.get(old, old))
        if node.id == shift.id:
            steps = np.zeros(shape[0], dtype=np.int64)
            steps[: shift.future] = -1
            steps[shift.future : shift.past] = 1
            nodes.append(Delay(shift.id, shift.origin, (source,), steps))
        elif shift.id not in node.inputs:
            nodes.append(node)
        elif isinstance(node, Convolution | Dense):
            main, side = (_scaled(node, factor, shape) for factor in _factors(shift, shape[0]))
            nodes += [
                replace(main, inputs=(source,)),
                replace(side, id=f"{node.id}.shift", bias=None),
                Add(f"{node.id}.sum", node.origin, (node.id, f"{node.id}.shift")),
            ]
            sums[node.id] = f"{node.id}.sum"
        else:
            raise UserError(
                f"takes the output of {shift.where}",
                where=node.where,
                hint="put the temporal shift right before a convolution or linear layer",
            )
    return graph.with_nodes(nodes)


def _factors(shift: TemporalShift, channels: int) -> tuple[Floats, Floats]:
    """Factors on the weights of each source channel: main and side."""
    shifted = np.arange(channels) < shift.past
    return np.where(shifted, 1.0, 1.0 + shift.alpha), np.where(shifted, shift.alpha, 0.0)


def _scaled(node: Convolution | Dense, factor: Floats, shape: Shape) -> Convolution | Dense:
    if isinstance(node, Dense):
        return replace(node, weight=node.weight * np.repeat(factor, int(np.prod(shape[1:]))))
    inputs = factor.reshape(node.groups, -1).repeat(node.weight.shape[0] // node.groups, axis=0)
    return replace(node, weight=node.weight * inputs[:, :, None, None])
