"""A PyTorch model to the float graph, by symbolic tracing; an operation without a rule is refused by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from export import graph as g
from export import trace_attention, trace_integers
from train import layers
from train.data.spec import DataSpec
from train.errors import UserError
from train.layers.neurons import LearnableNeuron
from train.tracing import pair, traced

NEURONS = (layers.LIF, LearnableNeuron)


def trace(model: nn.Module, data: DataSpec, steps: int, name: str) -> g.Graph:
    """The float graph of `model` at evaluation.

    Raises:
        UserError: an operation or layer that the exporter has no rule for; the message names its module path.
    """
    nodes: list[g.Node] = []
    ids: dict[str, str] = {}
    for step in traced(model, _HINT):
        inputs, module, path = tuple(ids[name] for name in step.inputs), step.module, step.place
        if module is None and not inputs:
            free = "input" if "input" not in dict(model.named_modules()) else "input.values"  # a layer may be called so
            nodes.append(g.Input(free, step.name, (), data.shape, data.levels))
        elif module is None:
            nodes.append(g.Add(step.name, path, inputs))
        elif isinstance(module, trace_integers.LAYERS):
            nodes = trace_integers.expand(module, path, inputs, nodes, steps)
        elif isinstance(module, NEURONS):
            nodes += _neuron(module, path, inputs, g.Graph(name, tuple(nodes), steps).shapes[inputs[0]][0])
        elif isinstance(module, layers.PositionCode):
            nodes += _position_code(module, path, inputs, g.Graph(name, tuple(nodes), steps))
        elif isinstance(module, layers.Recurrent):
            nodes += _recurrent(module, path, inputs)
        else:
            nodes.append(_module(module, path, inputs))
        ids[step.name] = nodes[-1].id
    return g.Graph(name, tuple(nodes), steps)


_HINT = "build the model from train.layers, or add a rule in export/trace.py"


def _array(tensor: torch.Tensor) -> g.Floats:
    return tensor.detach().cpu().double().numpy().copy()


def _bias(tensor: torch.Tensor | None) -> g.Floats | None:
    return None if tensor is None else _array(tensor)


def _module(module: nn.Module, path: str, inputs: tuple[str, ...]) -> g.Node:
    rule = _RULES.get(type(module))
    if rule is None:
        raise UserError(f"no rule for a layer of type {type(module).__name__}", where=path, hint=_HINT)
    return rule(module, path, inputs)


def _affine(module: layers.BatchNorm2d, path: str, inputs: tuple[str, ...]) -> g.Node:
    """gamma (x - mean) / sqrt(var + eps) + beta, with the running statistics."""
    if module.running_mean is None or module.running_var is None:
        raise UserError("batch norm without running statistics depends on the batch", where=path)
    scale = _array(module.weight) / np.sqrt(_array(module.running_var) + module.eps)
    return g.Affine(path, path, inputs, scale, _array(module.bias) - scale * _array(module.running_mean))


def _normalise(module: layers.Normalise, path: str, inputs: tuple[str, ...]) -> g.Node:
    scale = 1 / _array(module.std).reshape(-1)
    return g.Affine(path, path, inputs, scale, -_array(module.mean).reshape(-1) * scale)


def _convolution(module: layers.Conv2d, path: str, inputs: tuple[str, ...]) -> g.Node:
    if module.padding_mode != "zeros" or isinstance(module.padding, str):
        raise UserError(f"padding {module.padding!r}, mode {module.padding_mode!r}: only zeros by number", where=path)
    return g.Convolution(
        path,
        path,
        inputs,
        _array(module.weight),
        _bias(module.bias),
        pair(module.stride),
        pair(module.padding),
        pair(module.dilation),
        module.groups,
    )


def _pool(module: layers.AvgPool2d, path: str, inputs: tuple[str, ...]) -> g.Node:
    padding = pair(module.padding)
    if module.ceil_mode or (padding != (0, 0) and not module.count_include_pad):
        raise UserError("average pooling with ceil_mode or without its padding in the mean has no rule", where=path)
    kernel, stride = pair(module.kernel_size), pair(module.stride)
    return g.AveragePool(path, path, inputs, kernel, stride, padding, module.divisor_override)


def _neuron(module: Any, path: str, inputs: tuple[str, ...], channels: int) -> list[g.Node]:
    """V <- leak V + gain x: the gain scales the current, the passes bring it into the weights.

    Leak and gain are one number for the layer or one a channel; a gain may have either sign.
    """
    leak, gain = _constant(module.leak), _constant(getattr(module, "gain", 1.0))
    outside = np.flatnonzero((leak < 0) | (leak > 1) | ~np.isfinite(leak))
    if outside.size:
        channel = f" of channel {outside[0]}" if leak.size > 1 else ""
        raise UserError(f"leak {leak[outside[0]]:.4f}{channel}, a chip's decay allows 0..1", where=path)
    neuron = g.Neuron(path, path, inputs, leak, np.array([module.threshold]))
    if np.all(gain == 1):
        return [neuron]
    scale = np.broadcast_to(gain, (channels,)).copy()
    scaled = g.Affine(f"{path}.gain", path, inputs, scale, np.zeros_like(scale))
    return [scaled, replace(neuron, inputs=(scaled.id,))]


def _constant(value: float | torch.Tensor) -> g.Floats:
    """(1,) or (C,)."""
    return np.atleast_1d(_array(value) if isinstance(value, torch.Tensor) else np.float64(value))


def _position_code(module: layers.PositionCode, path: str, inputs: tuple[str, ...], before: g.Graph) -> list[g.Node]:
    """x + P with P (T, C): a clock tells the step, and P is the weight from that step to each neuron of a channel."""
    code = _array(module.code)[:, 0, :, 0, 0]
    if not code.any():
        return [g.Add(path, path, inputs)]
    shape = before.shapes[inputs[0]]
    clock = g.Clock(f"{path}.clock", path, (), (len(code), *shape[1:]))
    weights = g.Convolution(f"{path}.code", path, (clock.id,), code.T[:, :, None, None].copy(), None)
    return [clock, weights, g.Add(path, path, (*inputs, weights.id))]


def _recurrent(module: layers.Recurrent, path: str, inputs: tuple[str, ...]) -> list[g.Node]:
    """V <- leak V + gain (x + R s), s the spikes of the step before."""
    weight = _array(module.weight)
    feedback, late, synapse, current = (f"{path}.{name}" for name in ("spikes", "late", "recurrent", "current"))
    return [
        g.Feedback(feedback, path, (), path, weight.shape[:1]),
        g.Delay(late, path, (feedback,), np.ones(len(weight), dtype=np.int64)),
        g.Dense(synapse, path, (late,), weight, None),
        g.Add(current, path, (*inputs, synapse)),
        *_neuron(module.neuron, path, (current,), len(weight)),
    ]


def _shift(module: layers.TemporalShift, path: str, inputs: tuple[str, ...]) -> g.Node:
    split = module.fixed_split
    return g.TemporalShift(path, path, inputs, module.alpha.item(), split.future, split.past)


_RULES: dict[type[nn.Module], Callable[[Any, str, tuple[str, ...]], g.Node]] = {
    layers.Normalise: _normalise,
    layers.BatchNorm2d: _affine,
    layers.Conv2d: _convolution,
    layers.Linear: lambda m, path, inputs: g.Dense(path, path, inputs, _array(m.weight), _bias(m.bias)),
    layers.AvgPool2d: _pool,
    layers.Flatten: lambda m, path, inputs: g.Flatten(path, path, inputs),
    layers.TemporalShift: _shift,
    layers.MeanOverTime: lambda m, path, inputs: g.Accumulate(path, path, inputs),
    **trace_attention.RULES,
}
