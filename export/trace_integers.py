"""The layers of a model that was trained in integers, as graph nodes whose scale and exponents are given.

A weight enters the graph as integer << exponent / scale, in float64: within one part in 10^15 of the value whose
rounding at that scale is the integer again, so passes over the float graph may come in between.
"""

from __future__ import annotations

from dataclasses import replace

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
from train.quantise.synapses import IntegerConv2d, IntegerHead, IntegerScale, IntegerSynapses

LAYERS = (CodedInput, StackShifted, SumPool2d, IntegerSynapses, IntegerLIF, IntegerReadout)


def expand(module: nn.Module, path: str, inputs: tuple[str, ...], before: list[g.Node]) -> list[g.Node]:
    """All nodes of a graph up to and with this layer; the last one is its output.

    Raises:
        UserError: the biases of a neuron have no layer to go to.
    """
    match module:
        case CodedInput():
            source = before[-1]
            if not isinstance(source, g.Input):
                raise UserError("codes what is not the input", where=path)
            offset, low_bits = tuple(int(value) for value in module.offset), int(module.low_bits)
            return [*before[:-1], replace(source, coding=InputCoding(source.bits, offset, low_bits))]
        case StackShifted():
            shape = g.Graph("", tuple(before), 1).shapes[inputs[0]]
            delays = np.zeros(shape[0], dtype=np.int64)
            delays[: module.split.future] = -1
            delays[module.split.future : module.split.past] = 1
            return [*before, g.Delay(path, path, inputs, delays)]
        case SumPool2d():
            return [*before, g.AveragePool(path, path, inputs, module.kernel, module.stride)]
        case IntegerLIF():
            leak, threshold = 1 - _array(module.dv).reshape(-1) / limits.DECAY_UNITY, np.array([module.threshold])
            neuron = g.Neuron(path, path, inputs, leak, threshold, scale=_array(module.scale))
            unit = module.scale.view(-1, 1, 1) * (1 << limits.STATE_SHIFT)
            bias = _array(module.bias_values / unit)
            return [*_with_bias(before, inputs[0], bias[:, 0, 0] if bias.shape[1:] == (1, 1) else bias, path), neuron]
        case IntegerReadout():
            return [*before, g.Accumulate(path, path, inputs, scale=_array(module.scale))]
        case IntegerHead():
            weight, exponent = _column_block(module, before, inputs[0])
            bias = _array(module.bias_values / (module.scale * (1 << limits.STATE_SHIFT)))
            return [*before, g.Dense(path, path, inputs, weight, bias, exponent)]
        case IntegerScale():
            weight, exponent = _column_block(module, before, inputs[0])
            kernel, groups = weight[:, None, None, None], len(weight)
            return [*before, g.Convolution(path, path, inputs, kernel, None, groups=groups, exponent=exponent)]
        case IntegerConv2d():
            return [*before, *_convolution(module, path, inputs, before)]
    raise UserError(f"no rule for a layer of type {type(module).__name__}", where=path)


def _array(tensor: torch.Tensor) -> g.Floats:
    return tensor.detach().cpu().double().numpy().copy()


def _column_block(
    module: IntegerSynapses, before: list[g.Node], source: str, columns: slice | None = None
) -> tuple[g.Floats, int]:
    """Weights in units of the float membrane potential, and the exponent of these columns."""
    scale = module.scale.view(-1, *(1,) * (module.weight.ndim - 1))
    units = module.unit if columns is None else module.unit[columns]
    values = module.values if columns is None else module.values[:, columns]
    unit = float(units.reshape(-1)[0])
    return _array(values * unit / scale) * _window(before, source), int(np.log2(unit))


def _window(before: list[g.Node], source: str) -> int:
    """k^2 where the source is a sum over k x k, which the graph writes as a mean."""
    node = next(n for n in before if n.id == source)
    if isinstance(node, g.Flatten):
        return _window(before, node.inputs[0])
    if isinstance(node, g.AveragePool):
        return node.kernel[0] * node.kernel[1] * _window(before, node.inputs[0])
    return 1


def _convolution(module: IntegerConv2d, path: str, inputs: tuple[str, ...], before: list[g.Node]) -> list[g.Node]:
    """One convolution, or two and their sum: of this and the neighbouring step, or of two slices of the input."""
    geometry = module.geometry
    source = next(n for n in before if n.id == inputs[0])
    channels = len(source.steps) if isinstance(source, g.Delay) else None
    sliced = isinstance(source, g.Input) and source.coding is not None and source.coding.low_bits > 0
    sides = [slice(0, channels), slice(channels, None)] if channels else [None]
    if sliced:
        sides = [slice(which, None, 2) for which in (0, 1)]
    parts: list[g.Node] = []
    for columns, name in zip(sides, (path, f"{path}.low" if sliced else f"{path}.shift"), strict=False):
        weight, exponent = _column_block(module, before, inputs[0], columns)
        if sliced:
            weight = slice_weight(weight, weight.shape[1], len(parts))
        reads = source.inputs if channels and not parts else inputs
        parts.append(
            g.Convolution(
                name,
                path,
                reads,
                weight,
                None,
                geometry.stride,
                geometry.padding,
                geometry.dilation,
                geometry.groups,
                exponent,
            )
        )
    if len(parts) == 2:
        parts.append(g.Add(f"{path}.sum", path, (parts[0].id, parts[1].id)))
    return parts


def _with_bias(nodes: list[g.Node], current: str, bias: g.Floats, path: str) -> list[g.Node]:
    """The neuron's bias given to the first layer that drives it."""
    name = current
    while isinstance(node := next(n for n in nodes if n.id == name), g.Add):
        name = node.inputs[0]
    if not isinstance(node, g.Convolution) or node.bias is not None:
        raise UserError(f"its bias cannot go to {node.where}", where=path)
    return [replace(n, bias=bias) if n is node else n for n in nodes]
