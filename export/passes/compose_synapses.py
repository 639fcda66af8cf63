"""Linear layers in a row become one: after this pass every convolution and dense layer reads spikes or a delay.

Identity: W2 (W1 x + b1) + b2 = (W2 W1) x + (W2 b1 + b2). Two convolutions are one convolution where the second reads no
padding: with kernel k1, stride s1, padding p1, dilation d1 and kernel k2, stride s2, dilation d2 it has kernel
s1 d2 (k2 - 1) + d1 (k1 - 1) + 1, stride s1 s2 and padding p1; with padding p2 also p1 + s1 p2, where what lies beyond
the first one's output is nothing but zeros. A dense layer behind any other is a matrix, up to a limit.
Promise: exact in real arithmetic.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch.nn import functional, grad

from export.graph import Convolution, Dense, Floats, Graph, Shape
from export.interpret import synapse
from export.network import NO_CROP
from export.passes.distribute_sums import distribute_sums
from export.passes.unused import without_unused
from train.errors import UserError

LARGEST_MATRIX = 1 << 24  # weights


def compose_synapses(graph: Graph) -> Graph:
    """No convolution or dense layer reads another one.

    Raises:
        UserError: the matrix of two layers would be too large; the second one is named.
    """
    graph = distribute_sums(graph)
    while True:
        chain = next(
            (
                (graph[node.inputs[0]], node)
                for node in graph.nodes
                if isinstance(node, Convolution | Dense) and isinstance(graph[node.inputs[0]], Convolution | Dense)
            ),
            None,
        )
        if chain is None:
            return without_unused(graph)
        first, second = chain
        assert isinstance(first, Convolution | Dense)
        assert isinstance(second, Convolution | Dense)
        one = replace(_composed(first, second, graph), inputs=first.inputs)
        graph = graph.with_nodes([one if node is second else node for node in graph.nodes])


def _composed(first: Convolution | Dense, second: Convolution | Dense, graph: Graph) -> Convolution | Dense:
    source, between = graph.shapes[first.inputs[0]], graph.shapes[first.id]
    bias = _bias(first, second, between)
    if isinstance(second, Dense):
        size = len(second.weight) * int(np.prod(source))
        if size > LARGEST_MATRIX:
            raise UserError(
                f"{first.where} before it has no neuron behind it, and the two are a matrix of {size} weights, "
                f"limit {LARGEST_MATRIX}",
                where=second.where,
                hint="put a neuron in between",
            )
        return replace(second, weight=_product(second.weight, first, source, between), bias=bias, exponent=None)
    if isinstance(first, Convolution) and _is_one_convolution(first, second, source, between):
        return replace(_convolution(first, second), bias=bias)
    raise UserError(
        f"{first.where} before it has no neuron behind it, and the two are not one convolution",
        where=second.where,
        hint="put a neuron in between, or give the second layer no padding and the first no bias",
    )


def _bias(first: Convolution | Dense, second: Convolution | Dense, between: Shape) -> Floats | None:
    """W2 b1 + b2: for each channel where it is the same at every place."""
    if first.bias is None:
        return second.bias
    each = first.bias.reshape(first.bias.shape + (1,) * (len(between) - first.bias.ndim))
    total: Floats = synapse(second, np.broadcast_to(each, between)[None, None].copy())[0, 0]
    if total.ndim == 3 and np.array_equal(total, np.broadcast_to(total[:, :1, :1], total.shape)):
        return np.asarray(total[:, 0, 0])
    return total


def _product(matrix: Floats, first: Convolution | Dense, source: Shape, between: Shape) -> Floats:
    """W2 W1 for a matrix W2; behind a convolution that is its gradient with respect to its input."""
    if isinstance(first, Dense):
        product: Floats = matrix @ first.weight
        return product
    images = torch.from_numpy(matrix.reshape(len(matrix), *between))
    weight = torch.from_numpy(first.weight)
    back: Floats = grad.conv2d_input(
        (len(matrix), *source), weight, images, first.stride, first.padding, first.dilation, first.groups
    ).numpy()
    (top, bottom), (left, right) = first.crop
    seen = np.zeros(source)
    seen[:, top : source[1] - bottom, left : source[2] - right] = 1
    return (back * seen).reshape(len(matrix), -1)


def _is_one_convolution(first: Convolution, second: Convolution, source: Shape, between: Shape) -> bool:
    """Whether what the second reads as padding is what the first gives beyond its edges: nothing."""
    if second.crop != NO_CROP:
        return False
    if second.padding == (0, 0):
        return True
    if first.bias is not None:
        return False
    reach = [first.dilation[i] * (first.weight.shape[i + 2] - 1) + 1 for i in (0, 1)]
    return all(
        second.padding[i] == 0
        or (
            reach[i] <= first.stride[i] + first.padding[i]
            and between[i + 1] * first.stride[i] - first.padding[i] >= source[i + 1]
        )
        for i in (0, 1)
    )


def _convolution(first: Convolution, second: Convolution) -> Convolution:
    """W2 W1: the second kernel, spread by its dilation, through the transpose of the first, spread by its own."""
    inner, outer = (torch.from_numpy(_spread(node)) for node in (first, second))
    groups = second.groups if first.groups % second.groups == 0 else 1
    if groups != second.groups:
        outer = _ungrouped(outer, second.groups)
    per_group = first.groups // groups
    parts = [
        functional.conv_transpose2d(rows, taps, stride=first.stride, groups=per_group)
        for rows, taps in zip(outer.chunk(groups), inner.chunk(groups), strict=True)
    ]
    return replace(
        second,
        weight=torch.cat(parts).numpy(),
        stride=(first.stride[0] * second.stride[0], first.stride[1] * second.stride[1]),
        padding=(
            first.padding[0] + first.stride[0] * second.padding[0],
            first.padding[1] + first.stride[1] * second.padding[1],
        ),
        dilation=(1, 1),
        groups=groups,
        exponent=None,
        crop=first.crop,
    )


def _spread(node: Convolution) -> Floats:
    """Its kernel with the dilation written out as zeros."""
    (dh, dw), (kh, kw) = node.dilation, node.weight.shape[2:]
    spread = np.zeros((*node.weight.shape[:2], dh * (kh - 1) + 1, dw * (kw - 1) + 1))
    spread[:, :, ::dh, ::dw] = node.weight
    return spread


def _ungrouped(weight: torch.Tensor, groups: int) -> torch.Tensor:
    """(O, I / groups, ...) as (O, I, ...), zeros between the groups."""
    outputs, inputs = weight.shape[0] // groups, weight.shape[1]
    full = weight.new_zeros((len(weight), inputs * groups, *weight.shape[2:]))
    for group in range(groups):
        rows = slice(group * outputs, (group + 1) * outputs)
        full[rows, group * inputs : (group + 1) * inputs] = weight[rows]
    return full
