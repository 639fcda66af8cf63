"""The layers of a model that was trained in integers, as graph nodes whose scale and exponents are given.

A weight enters the graph as integer << exponent / scale, in float64: within one part in 10^15 of the value whose
rounding at that scale is the integer again, so passes over the float graph may come in between.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from export import graph as g
from export.passes.code_input import slice_weight
from train.errors import UserError
from train.layers.fixed_point import CodedInput, StackShifted
from train.quantise import limits
from train.quantise.coding import InputCoding
from train.quantise.neurons import IntegerLIF, IntegerReadout, SumPool2d
from train.quantise.recurrent import IntegerRecurrent
from train.quantise.synapses import (
    ForNeighbours,
    Geometry,
    IntegerConv2d,
    IntegerEdges,
    IntegerHead,
    IntegerScale,
    IntegerSynapses,
)

LAYERS = (
    CodedInput,
    StackShifted,
    SumPool2d,
    IntegerSynapses,
    ForNeighbours,
    IntegerLIF,
    IntegerRecurrent,
    IntegerReadout,
)


def expand(module: nn.Module, path: str, inputs: tuple[str, ...], before: list[g.Node], steps: int) -> list[g.Node]:
    """All nodes of a graph up to and with this layer; the last one is its output. `steps`: T.

    Raises:
        UserError: the biases of a neuron have no layer to go to.
    """
    graph = g.Graph("", tuple(before), steps)
    match module:
        case CodedInput():
            source = before[-1]
            if not isinstance(source, g.Input):
                raise UserError("codes what is not the input", where=path)
            offset, low_bits = tuple(int(value) for value in module.offset), int(module.low_bits)
            return [*before[:-1], replace(source, coding=InputCoding(source.bits, offset, low_bits))]
        case StackShifted():
            delays = np.zeros(graph.shapes[inputs[0]][0], dtype=np.int64)
            delays[: module.split.future] = -1
            delays[module.split.future : module.split.past] = 1
            return [*before, g.Delay(path, path, inputs, delays)]
        case SumPool2d():
            return [*before, g.AveragePool(path, path, inputs, module.kernel, module.stride, module.padding, 1)]
        case IntegerLIF():
            neuron = _neuron(module, path, inputs)
            return [*_with_bias(before, inputs[0], module, path), neuron]
        case IntegerRecurrent():
            return _recurrent(module, path, inputs, before)
        case IntegerReadout():
            return [*before, g.Accumulate(path, path, inputs, scale=_array(module.scale))]
        case IntegerEdges():
            return [*before, *_edges(module, path, inputs[0], graph)]
        case ForNeighbours():
            return [*before, *_for_neighbours(module, path, inputs[0], graph)]
        case IntegerSynapses():
            return [*before, *_summed(path, list(_synapses(module, path, _sides(module, inputs[0], graph))))]
    raise UserError(f"no rule for a layer of type {type(module).__name__}", where=path)


def _array(tensor: torch.Tensor) -> g.Floats:
    return tensor.detach().cpu().double().numpy().copy()


def _summed(path: str, parts: list[g.Node]) -> list[g.Node]:
    """The parts and, where several of them are synapses, their sum."""
    synapses = tuple(part.id for part in parts if isinstance(part, g.Convolution | g.Dense))
    return parts if len(synapses) == 1 else [*parts, g.Add(f"{path}.sum", path, synapses)]


@dataclass(frozen=True, eq=False)
class _Side:
    """Columns of a layer's weights that one connection has: `suffix` of its id, where it reads, weights, exponent."""

    suffix: str
    reads: str
    weight: g.Floats  # [O, I, ...] in units of the float membrane potential
    exponent: int


def _sides(module: IntegerSynapses, source: str, graph: g.Graph) -> Iterator[_Side]:
    """This and the neighbouring step behind a shift of spikes; the two slices of the input; or all in one."""
    node = graph[source]
    if isinstance(node, g.Delay) and module.weight.ndim > 1:
        channels = len(node.steps)
        yield _side(module, "", node.inputs[0], slice(channels))
        yield _side(module, ".shift", source, slice(channels, None))
    elif isinstance(node, g.Input) and node.coding is not None and node.coding.low_bits:
        for which, suffix in enumerate(("", ".low")):
            side = _side(module, suffix, source, slice(which, None, 2))
            yield replace(side, weight=slice_weight(side.weight, side.weight.shape[1], which))
    else:
        yield _side(module, "", source, slice(None))


def _side(module: IntegerSynapses, suffix: str, reads: str, columns: slice) -> _Side:
    values = module.values
    scale = module.scale.view(-1, *(1,) * (values.ndim - 1))
    unit = float(module.unit[columns][0])
    weight = (values[:, columns] if values.ndim > 1 else values) * unit / scale
    return _Side(suffix, reads, _array(weight), int(np.log2(unit)))


def _synapses(module: IntegerSynapses, path: str, sides: Iterable[_Side]) -> Iterator[g.Node]:
    """Its connections, as nodes that are still to be added up."""
    for side in sides:
        first, reads, weight = path + side.suffix, (side.reads,), side.weight
        if isinstance(module, IntegerScale):
            pool = module.pool or SumPool2d((1, 1), (1, 1))
            geometry = Geometry(pool.stride, pool.padding, groups=len(weight))
            kernel = np.broadcast_to(weight[:, None, None, None], (len(weight), 1, *pool.kernel)).copy()
            yield _convolution(first, path, reads, kernel, geometry, side.exponent)
        elif isinstance(module, IntegerConv2d):
            kernels = [weight] if weight.ndim == 4 else list(np.moveaxis(weight, 2, 0))
            for index, (crop, kernel) in enumerate(zip(module.geometry.crops, kernels, strict=True)):
                node = _convolution(first, path, reads, kernel, module.geometry, side.exponent)
                yield replace(node, id=f"{first}.edge{index}" if index else first, crop=crop)
        else:
            bias = None
            if isinstance(module, IntegerHead):
                bias = _array(module.bias_values / (module.scale * (1 << limits.STATE_SHIFT)))
            yield g.Dense(first, path, reads, weight.reshape(len(weight), -1), bias, side.exponent)


def _convolution(
    name: str, path: str, reads: tuple[str, ...], kernel: g.Floats, geometry: Geometry, exponent: int
) -> g.Convolution:
    shape = (geometry.stride, geometry.padding, geometry.dilation, geometry.groups)
    return g.Convolution(name, path, reads, kernel, None, *shape, exponent)


def _for_neighbours(module: ForNeighbours, path: str, source: str, graph: g.Graph) -> list[g.Node]:
    """Rows for the step itself, those that see the next one, and those that see the one before."""
    nodes = list(_synapses(module.present, path, _sides(module.present, source, graph)))
    split = module.split
    for name, rows, steps in (("future", slice(split.future), -1), ("past", slice(split.future, split.past), 1)):
        for side in _sides(module.neighbour, source, graph):
            weight = np.zeros((len(module.present.scale), *side.weight.shape[1:]))
            weight[rows] = side.weight[rows]
            suffix = f".{name}{side.suffix}"
            delay = np.full(graph.shapes[side.reads][0], steps, dtype=np.int64)
            late = g.Delay(f"{path}{suffix}.spikes", path, (side.reads,), delay)
            nodes += [late, *_synapses(module.neighbour, path, [_Side(suffix, late.id, weight, side.exponent)])]
    return _summed(path, nodes)


def _edges(module: IntegerEdges, path: str, current: str, graph: g.Graph) -> list[g.Node]:
    """A clock takes the bias of a neighbour outside the window away."""
    channels, *sides = graph.shapes[current]
    side = _side(module, "", "", slice(None))
    weight = np.zeros((channels, graph.steps))
    future, past = slice(module.split.future), slice(module.split.future, module.split.past)
    weight[future, -1], weight[past, 0] = side.weight[future], side.weight[past]
    if not weight.any():
        return [g.Add(path, path, (current,))]
    clock = g.Clock(f"{path}.clock", path, (), (graph.steps, *sides))
    missing = g.Convolution(f"{path}.edges", path, (clock.id,), weight[:, :, None, None], None, exponent=side.exponent)
    return [clock, missing, g.Add(path, path, (current, missing.id))]


def _recurrent(module: IntegerRecurrent, path: str, inputs: tuple[str, ...], before: list[g.Node]) -> list[g.Node]:
    """As `export.trace` has it for the float layer."""
    size = len(module.weights.weight)
    side = _side(module.weights, "", "", slice(None))
    feedback, late, synapse, current = (f"{path}.{name}" for name in ("spikes", "late", "recurrent", "current"))
    return [
        *_with_bias(before, inputs[0], module.neurons, path),
        g.Feedback(feedback, path, (), path, (size,)),
        g.Delay(late, path, (feedback,), np.ones(size, dtype=np.int64)),
        g.Dense(synapse, path, (late,), side.weight.reshape(size, -1), None, side.exponent),
        g.Add(current, path, (*inputs, synapse)),
        _neuron(module.neurons, path, (current,)),
    ]


def _neuron(module: IntegerLIF, path: str, inputs: tuple[str, ...]) -> g.Neuron:
    leak, threshold = 1 - _array(module.dv).reshape(-1) / limits.DECAY_UNITY, np.array([module.threshold])
    return g.Neuron(path, path, inputs, leak, threshold, scale=_array(module.scale))


def _with_bias(nodes: list[g.Node], current: str, module: IntegerLIF, path: str) -> list[g.Node]:
    """The neuron's bias given to the first layer that drives it."""
    scale = module.scale.view(-1, *(1,) * (module.bias.ndim - 1)) * (1 << limits.STATE_SHIFT)
    bias = _array(module.bias_values / scale)
    name = current
    while isinstance(node := next(n for n in nodes if n.id == name), g.Add):
        name = node.inputs[0]
    if not isinstance(node, g.Convolution | g.Dense) or node.bias is not None:
        raise UserError(f"its bias cannot go to {node.where}", where=path)
    one_place = bias.shape[1:] in ((), (1, 1))
    return [replace(n, bias=bias.reshape(-1) if one_place else bias) if n is node else n for n in nodes]
