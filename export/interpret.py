"""The float interpreter: an obvious execution of a graph, against which every pass is tested."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from export.graph import (
    Accumulate,
    Add,
    Affine,
    AveragePool,
    Convolution,
    Delay,
    Dense,
    Flatten,
    Floats,
    Graph,
    Input,
    Neuron,
    Node,
    TemporalShift,
)


@dataclass(frozen=True, eq=False)
class Trace:
    """Output of every node with a window (input, neurons, read-out), in its window: float64 [T, B, *shape]."""

    values: dict[str, Floats]
    steps: int

    @property
    def logits(self) -> Floats:
        """The read-out's mean over T: [B, K]."""
        last = next(reversed(self.values.values()))
        mean: Floats = last[-1] / self.steps
        return mean


def interpret(graph: Graph, inputs: Floats) -> Trace:
    """Run a graph on raw `inputs` [T, B, *shape], in float64.

    Every node is evaluated over all machine steps at once, [L, B, ...]; values outside windows are zero.
    """
    end = max(node.start for node in graph.windowed()) + graph.steps
    values: dict[str, Floats] = {}
    for node in graph.nodes:
        if isinstance(node, Input):
            values[node.id] = _place(node.coding.encode(inputs) if node.coding else inputs, node.start, end)
        else:
            values[node.id] = _evaluate(node, [values[name] for name in node.inputs], graph)
    windows = {n.id: values[n.id][n.start : n.start + graph.steps] for n in graph.windowed()}
    return Trace(windows, graph.steps)


def _place(window: Floats, start: int, end: int) -> Floats:
    stream = np.zeros((end, *window.shape[1:]))
    stream[start : start + len(window)] = window
    return stream


def _moved(x: Floats, steps: int) -> Floats:
    """x[t - steps], zero where that is outside the stream."""
    out = np.zeros_like(x)
    if steps == 0:
        return x
    if steps > 0:
        out[steps:] = x[:-steps]
    else:
        out[:steps] = x[-steps:]
    return out


def _evaluate(node: Node, inputs: list[Floats], graph: Graph) -> Floats:
    x = inputs[0]
    channel = (1, 1, -1) + (1,) * (x.ndim - 3)
    match node:
        case Affine():
            return x * node.scale.reshape(channel) + node.shift.reshape(channel)
        case Convolution() | Dense():
            return _moved(synapse(node, x), graph.synapse_steps)
        case AveragePool():
            flat = torch.from_numpy(np.ascontiguousarray(x)).flatten(0, 1)
            pooled: Floats = functional.avg_pool2d(flat, node.kernel, node.stride).numpy()
            return pooled.reshape(*x.shape[:2], *pooled.shape[1:])
        case Flatten():
            return x.reshape(*x.shape[:2], -1)
        case Add():
            total: Floats = np.sum(inputs, axis=0)
            return total
        case Delay():
            return np.stack([_moved(x[:, :, c], int(d)) for c, d in enumerate(node.steps)], axis=2)
        case TemporalShift():
            z = x.copy()
            z[:, :, : node.future] = _moved(x[:, :, : node.future], -1)
            z[:, :, node.future : node.past] = _moved(x[:, :, node.future : node.past], 1)
            return x + node.alpha * z
        case Neuron():
            return _integrate(x, node.start, graph.steps, node.leak, node.threshold)
        case Accumulate():
            return _integrate(x, node.start, graph.steps, 1.0, None)
    raise TypeError(f"no rule for {node.where}")


def synapse(node: Convolution | Dense, x: Floats) -> Floats:
    """The weighted sums of one convolution or dense: [L, B, *in] to [L, B, *out], in float64."""
    flat = torch.from_numpy(np.ascontiguousarray(x)).flatten(0, 1)
    weight = torch.from_numpy(node.weight)
    if isinstance(node, Dense):
        out = functional.linear(flat.flatten(1), weight)
    else:
        out = functional.conv2d(flat, weight, None, node.stride, node.padding, node.dilation, node.groups)
    if node.bias is not None:
        bias = torch.from_numpy(node.bias)
        out = out + (bias if bias.ndim == out.ndim - 1 else bias.view(-1, *(1,) * (out.ndim - 2)))
    result: Floats = out.numpy()
    return result.reshape(*x.shape[:2], *result.shape[1:])


def _integrate(current: Floats, start: int, steps: int, leak: float, threshold: float | None) -> Floats:
    """Spikes in the window (or the membrane potential where there is no threshold), silence outside."""
    out = np.zeros_like(current)
    membrane = np.zeros_like(current[0])
    for t in range(start, start + steps):
        membrane = leak * membrane + current[t]
        if threshold is None:
            out[t] = membrane
        else:
            out[t] = membrane > threshold
            membrane = np.where(out[t] > 0, 0.0, membrane)
    return out
