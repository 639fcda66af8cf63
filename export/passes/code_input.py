"""The input as it is sent: centred on what normalisation maps to zero, and in slices with weights of their own.

Identity, with x = offset + 2^k h + l the raw value inside the image: W x + b = (2^k W) h + W l + (b + W offset). What
lies outside the image is zero in y = x - offset, as a convolution pads it, so the bias becomes one value for each
neuron (`fold_input_scale`). Promise: exact in real arithmetic.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from export.graph import Add, Affine, Convolution, Delay, Dense, Floats, Graph, Input, Node, rewire
from export.passes.fold_input_scale import fold_input_scale
from export.passes.identity_synapses import identity_synapses
from train.errors import UserError
from train.quantise.coding import InputCoding

OFFSET, HIGH = "offset", 0


def code_input(graph: Graph, coding: InputCoding) -> Graph:
    """A graph whose input sends its values in `coding`; it has been through all the passes before.

    One that was trained in integers has its coding already, and stays as it is.

    Raises:
        UserError: the input is delayed and would be centred, so that silence before a window would not be its mean.
    """
    (source,) = (node for node in graph.nodes if isinstance(node, Input))
    if source.coding:
        return graph
    graph = _centred(graph, source, coding.offset) if coding.offset else graph
    nodes = [replace(node, coding=coding) if isinstance(node, Input) else node for node in graph.nodes]
    return graph.with_nodes(nodes) if coding.slices == 1 else identity_synapses(_sliced(graph, nodes, source, coding))


def _centred(graph: Graph, source: Input, offset: tuple[int, ...]) -> Graph:
    if any(isinstance(node, Delay) for node in graph.consumers(source.id)):
        raise UserError("is delayed, so it cannot be centred", where=source.where, hint="use --input-coding graded")
    name = f"{source.id}.{OFFSET}"
    shift = Affine(name, source.origin, (source.id,), np.ones(len(offset)), np.asarray(offset, dtype=np.float64))
    nodes: list[Node] = []
    for node in graph.nodes:
        nodes += [node, shift] if node.id == source.id else [rewire(node, source.id, name)]
    return fold_input_scale(graph.with_nodes(nodes))


def _sliced(graph: Graph, coded: list[Node], source: Input, coding: InputCoding) -> Graph:
    nodes: list[Node] = []
    sums: dict[str, str] = {}
    sent = {source.id} | {node.id for node in graph.consumers(source.id) if isinstance(node, Delay)}
    for original in coded:
        node = original
        for old in original.inputs:
            node = rewire(node, old, sums.get(old, old))
        if isinstance(node, Delay) and node.id in sent:
            nodes.append(replace(node, steps=np.repeat(node.steps, coding.slices)))
        elif isinstance(node, Convolution | Dense) and node.inputs[0] in sent:
            channels = source.shape[0] if isinstance(node, Dense) else node.weight.shape[1]
            high = slice_weight(node.weight, channels, HIGH) * (1 << coding.low_bits)
            low = replace(node, id=f"{node.id}.low", weight=slice_weight(node.weight, channels, HIGH + 1), bias=None)
            total = Add(f"{node.id}.sum", node.origin, (node.id, low.id))
            nodes += [replace(node, weight=high), low, total]
            sums[node.id] = total.id
        else:
            nodes.append(node)
    return graph.with_nodes(nodes)


def slice_weight(weight: Floats, channels: int, which: int) -> Floats:
    """(O, I, ...) to (O, 2 I, ...): each channel's columns in slice `which` of it, zeros in the other."""
    per_channel = weight.reshape(len(weight), channels, 1, -1)
    zeros = np.zeros_like(per_channel)
    both = np.concatenate([per_channel, zeros] if which == HIGH else [zeros, per_channel], axis=2)
    return both.reshape(len(weight), -1, *weight.shape[2:])
