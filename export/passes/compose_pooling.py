"""Average and sum pooling become part of the linear layer behind them: no population for a sum.

Identity: W (P x) + b = (W P) x + b. For a dense layer P is written out; for a convolution see
`train.quantise.composition`. Promise: exact in real arithmetic.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch.nn import functional

from export.graph import Add, AveragePool, Convolution, Dense, Floats, Graph, Node, Shape, fresh, rewire
from train.errors import UserError
from train.quantise.composition import Axis, compose


def compose_pooling(graph: Graph) -> Graph:
    """No AveragePool is left. A convolution that becomes several leaves `<id>`, `<id>.edge1`, ...

    Raises:
        UserError: a pool feeds something else than convolutions and dense layers.
    """
    for pool in reversed(graph.nodes):  # the last of two pools in a row is composed first
        if isinstance(pool, AveragePool):
            graph = _without(graph, pool)
    return graph


def _without(graph: Graph, pool: AveragePool) -> Graph:
    nodes: list[Node] = []
    sums: dict[str, str] = {}
    for original in graph.nodes:
        node = replace(original, inputs=tuple(sums.get(name, name) for name in original.inputs))
        if node.id == pool.id:
            continue
        if pool.id not in node.inputs:
            nodes.append(node)
            continue
        parts = [rewire(part, pool.id, pool.inputs[0]) for part in _composed(node, pool, graph)]
        nodes += parts
        if len(parts) > 1:
            sums[node.id] = fresh(f"{node.id}.sum", graph.shapes)
            nodes.append(Add(sums[node.id], node.origin, tuple(part.id for part in parts)))
    return graph.with_nodes(nodes)


def _composed(node: Node, pool: AveragePool, graph: Graph) -> list[Node]:
    shape = graph.shapes[pool.inputs[0]]
    if isinstance(node, Dense):
        return [replace(node, weight=_through_pool(node.weight, pool, shape))]
    if isinstance(node, Convolution):
        return _convolutions(node, pool, shape)
    raise UserError(f"takes the output of {pool.where}", where=node.where, hint="pool before a linear layer")


def _through_pool(weight: Floats, pool: AveragePool, shape: Shape) -> Floats:
    """W P for a dense layer: (O, C h w) to (O, C H W)."""
    channels, height, width = shape
    pixels = torch.eye(height * width, dtype=torch.float64).view(-1, 1, height, width)
    pooled = functional.avg_pool2d(pixels, pool.kernel, pool.stride, pool.padding, divisor_override=pool.divisor)
    rows = weight.reshape(len(weight), channels, -1)
    product: Floats = np.einsum("ocp,ip->oci", rows, pooled.flatten(1).numpy())  # (H W, h w)
    return product.reshape(len(weight), -1)


def _convolutions(node: Convolution, pool: AveragePool, shape: Shape) -> list[Node]:
    windows = [Axis(pool.kernel[i], pool.stride[i], pool.padding[i]) for i in (0, 1)]
    taps = [
        Axis(node.weight.shape[i + 2], node.stride[i], node.padding[i], node.dilation[i], node.crop[i]) for i in (0, 1)
    ]
    composed = compose((windows[0], windows[1]), (taps[0], taps[1]), (shape[1], shape[2]))
    divisor = pool.kernel[0] * pool.kernel[1] if pool.divisor is None else pool.divisor
    kernels = np.einsum("oihw,nph,nqw->noipq", node.weight, composed.rows, composed.columns) / divisor
    geometry = replace(node, stride=composed.stride, padding=composed.padding, dilation=(1, 1))
    parts: list[Node] = []
    for crop, weight in zip(composed.crops, kernels, strict=True):
        part = replace(geometry, weight=weight, crop=crop)
        parts.append(replace(part, id=f"{node.id}.edge{len(parts)}", bias=None) if parts else part)
    return parts
