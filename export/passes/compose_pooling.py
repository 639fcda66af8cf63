"""Average and sum pooling become part of the linear layer behind them: no population for a sum.

Identity: W (P x) + b = (W P) x + b. For a dense layer P is written out. Behind pooling of window K, stride S, padding
P, a convolution of kernel k, stride s, padding p, dilation d is a convolution of kernel S d (k - 1) + K, stride s S,
padding p S + P: its tap (a, m) reads row m of the window that tap a reads. Where the convolution reads its own padding,
or beyond the last window, such a tap could still meet a row of the map, so the taps that would are a convolution of
their own which crops those rows. Promise: exact in real arithmetic.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch.nn import functional

from export.graph import Add, AveragePool, Convolution, Dense, Floats, Graph, Node, Shape, fresh, rewire
from train.errors import UserError


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
        return _convolutions(node, pool, shape, graph.shapes[node.id])
    raise UserError(f"takes the output of {pool.where}", where=node.where, hint="pool before a linear layer")


def _through_pool(weight: Floats, pool: AveragePool, shape: Shape) -> Floats:
    """W P for a dense layer: (O, C h w) to (O, C H W)."""
    channels, height, width = shape
    pixels = torch.eye(height * width, dtype=torch.float64).view(-1, 1, height, width)
    pooled = functional.avg_pool2d(pixels, pool.kernel, pool.stride, pool.padding, divisor_override=pool.divisor)
    rows = weight.reshape(len(weight), channels, -1)
    product: Floats = np.einsum("ocp,ip->oci", rows, pooled.flatten(1).numpy())  # (H W, h w)
    return product.reshape(len(weight), -1)


@dataclass(frozen=True)
class _Tap:
    """One row (or column) of the composed kernel: that of the convolution's kernel, its place, and what it crops."""

    row: int
    place: int
    crop: tuple[int, int]


def _convolutions(node: Convolution, pool: AveragePool, shape: Shape, output: Shape) -> list[Node]:
    rows, columns = (tuple(_taps(node, pool, axis, shape[axis + 1], output[axis + 1])) for axis in (0, 1))
    geometry = replace(
        node,
        stride=(node.stride[0] * pool.stride[0], node.stride[1] * pool.stride[1]),
        padding=(
            node.padding[0] * pool.stride[0] + pool.padding[0],
            node.padding[1] * pool.stride[1] + pool.padding[1],
        ),
        dilation=(1, 1),
    )
    sides = [1 + max(tap.place for tap in taps) for taps in (rows, columns)]
    divisor = pool.kernel[0] * pool.kernel[1] if pool.divisor is None else pool.divisor
    parts: list[Node] = []
    for crop in sorted({(row.crop, column.crop) for row in rows for column in columns}):
        weight = np.zeros((*node.weight.shape[:2], *sides))
        for row in rows:
            for column in columns:
                if (row.crop, column.crop) == crop:
                    weight[:, :, row.place, column.place] += node.weight[:, :, row.row, column.row] / divisor
        part = replace(geometry, weight=weight, crop=crop)
        parts.append(replace(part, id=f"{node.id}.edge{len(parts)}", bias=None) if parts else part)
    return parts


def _taps(node: Convolution, pool: AveragePool, axis: int, side: int, outputs: int) -> Iterator[_Tap]:
    """The taps of the composed kernel along one axis, for a map of `side` rows before pooling."""
    window, stride, padding = pool.kernel[axis], pool.stride[axis], pool.padding[axis]
    pooled = (side + 2 * padding - window) // stride + 1
    first, last = node.crop[axis][0], pooled - node.crop[axis][1] - 1  # the pooled rows that it reads
    for row in range(node.weight.shape[2 + axis]):
        for member in range(window):
            top = bottom = 0
            for position in range(outputs):
                read = position * node.stride[axis] - node.padding[axis] + row * node.dilation[axis]
                source = read * stride - padding + member
                if 0 <= source < side and read < first:
                    top = max(top, source + 1)
                if 0 <= source < side and read > last:
                    bottom = max(bottom, side - source)
            yield _Tap(row, row * node.dilation[axis] * stride + member, (top, bottom))
