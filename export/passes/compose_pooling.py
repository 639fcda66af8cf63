"""Average pooling and flattening become part of the linear layer behind them: no population for a sum.

Identity: W (P x) + b = (W P) x + b. Behind non-overlapping pooling of k with nothing left over, a convolution of
kernel K, stride s, padding p is a convolution of kernel K k, stride s k, padding p k. For a dense layer P is written
out. Flattening changes no order: a dense layer reads its source in C order. Promise: exact in real arithmetic.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch.nn import functional

from export.graph import AveragePool, Convolution, Dense, Flatten, Floats, Graph, Node, Shape, rewire
from train.errors import UserError


def compose_pooling(graph: Graph) -> Graph:
    """No AveragePool and no Flatten is left.

    Raises:
        UserError: a pool feeds something else than convolutions and dense layers, or cannot be composed exactly.
    """
    graph = _drop_flatten(graph)
    for pool in reversed(graph.nodes):  # the last of two pools in a row is composed first
        if isinstance(pool, AveragePool):
            shape = graph.shapes[pool.inputs[0]]
            nodes = [_composed(node, pool, shape) for node in graph.nodes if node is not pool]
            graph = graph.with_nodes(nodes)
    return graph


def _drop_flatten(graph: Graph) -> Graph:
    for flatten in graph.nodes:
        if isinstance(flatten, Flatten):
            for node in graph.consumers(flatten.id):
                if not isinstance(node, Dense):
                    raise UserError(f"takes flattened input from {flatten.where}", where=node.where)
            nodes = [rewire(n, flatten.id, flatten.inputs[0]) for n in graph.nodes if n is not flatten]
            graph = graph.with_nodes(nodes)
    return graph


def _composed(node: Node, pool: AveragePool, shape: Shape) -> Node:
    if pool.id not in node.inputs:
        return node
    if isinstance(node, Dense):
        composed: Node = replace(node, weight=_through_pool(node.weight, pool, shape))
    elif isinstance(node, Convolution):
        composed = _convolution(node, pool, shape)
    else:
        raise UserError(f"takes the output of {pool.where}", where=node.where, hint="pool before a linear layer")
    return rewire(composed, pool.id, pool.inputs[0])


def _through_pool(weight: Floats, pool: AveragePool, shape: Shape) -> Floats:
    """W P for a dense layer: (O, C h w) to (O, C H W)."""
    channels, height, width = shape
    pixels = torch.eye(height * width, dtype=torch.float64).view(-1, 1, height, width)
    pooled = functional.avg_pool2d(pixels, pool.kernel, pool.stride).flatten(1).numpy()  # (H W, h w)
    rows = weight.reshape(len(weight), channels, -1)
    product: Floats = np.einsum("ocp,ip->oci", rows, pooled)
    return product.reshape(len(weight), -1)


def _convolution(node: Convolution, pool: AveragePool, shape: Shape) -> Convolution:
    (kh, kw), left = pool.kernel, [shape[axis + 1] % pool.kernel[axis] for axis in (0, 1)]
    if pool.kernel != pool.stride or any(left) or node.dilation != (1, 1):
        raise UserError(
            f"pooling {pool.kernel} with stride {pool.stride} of {shape[1:]} before a convolution of dilation "
            f"{node.dilation} is not one convolution",
            where=pool.where,
            hint="use a stride equal to the kernel that divides the image, and dilation 1",
        )
    weight = node.weight.repeat(kh, axis=2).repeat(kw, axis=3) / (kh * kw)
    return replace(
        node,
        weight=weight,
        stride=(node.stride[0] * kh, node.stride[1] * kw),
        padding=(node.padding[0] * kh, node.padding[1] * kw),
    )
