"""Fold the normalisation of the input into the synapses behind it, so that the chip is fed raw integers.

Identity: W (scale x + shift) + b = (W scale) x + (b + W shift). A convolution pads the normalised image with zeros,
which is not the raw image padded with zeros, so with padding and a shift the bias becomes one value for each neuron:
b + W * (shift inside the image, 0 outside). Promise: exact in real arithmetic.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from export.graph import Affine, Convolution, Dense, Floats, Graph, Node, Shape, rewire
from export.interpret import synapse
from train.errors import UserError


def fold_input_scale(graph: Graph) -> Graph:
    """No Affine is left.

    Raises:
        UserError: an Affine feeds something other than convolutions and dense layers.
    """
    for affine in graph.nodes:
        if isinstance(affine, Affine):
            graph = graph.with_nodes([_without(node, affine, graph) for node in graph.nodes if node is not affine])
    return graph


def _without(node: Node, affine: Affine, graph: Graph) -> Node:
    if affine.id not in node.inputs:
        return node
    if not isinstance(node, Convolution | Dense):
        raise UserError(
            f"{affine.where} cannot be folded into it",
            where=node.where,
            hint="put normalisation right before or right after a convolution or linear layer",
        )
    absorbed = _absorb(node, affine, graph.shapes[affine.id])
    return rewire(absorbed, affine.id, affine.inputs[0])


def _absorb(node: Convolution | Dense, affine: Affine, shape: Shape) -> Convolution | Dense:
    shift = np.broadcast_to(affine.shift.reshape((-1,) + (1,) * (len(shape) - 1)), shape).copy()  # torch wants its own
    extra: Floats = synapse(replace(node, bias=None), shift[None, None])[0, 0]
    if isinstance(node, Dense):
        scale = np.repeat(affine.scale, int(np.prod(shape[1:])))
        bias = extra if node.bias is None else node.bias + extra
        return replace(node, weight=node.weight * scale, bias=bias)
    inputs = affine.scale.reshape(node.groups, -1).repeat(node.weight.shape[0] // node.groups, axis=0)
    bias = _map(node.bias, extra)
    return replace(node, weight=node.weight * inputs[:, :, None, None], bias=bias)


def _map(bias: Floats | None, extra: Floats) -> Floats:
    """The bias with `extra` (O, H, W) added, kept per channel where it is the same at every place."""
    if np.array_equal(extra, np.broadcast_to(extra[:, :1, :1], extra.shape)):
        extra = extra[:, 0, 0]
        return extra if bias is None else (bias + extra if bias.ndim == 1 else bias + extra[:, None, None])
    return extra if bias is None else (bias[:, None, None] + extra if bias.ndim == 1 else bias + extra)
