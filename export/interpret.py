"""The float interpreter: an obvious execution of a graph, against which every pass is tested."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from export.attention import FrequencyAttention, Gain, GlobalContext, Relay, StepAttention, gain
from export.connections import NO_CROP
from export.graph import (
    Accumulate,
    Add,
    Affine,
    AveragePool,
    Clock,
    Convolution,
    Delay,
    Dense,
    Feedback,
    Flatten,
    Floats,
    Graph,
    Input,
    Neuron,
    Node,
    Shape,
    TemporalShift,
    Windowed,
    sends,
)
from export.programs import Reset
from export.quantise import rows
from train.errors import UserError

Reals: TypeAlias = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True, eq=False)
class Trace:
    """Output of every node with a window (input, clocks, neurons, read-out), in its window: [T, B, *shape]."""

    values: dict[str, Reals]
    steps: int

    @property
    def logits(self) -> Floats:
        """The read-out's mean over T: [B, K]."""
        last = next(reversed(self.values.values()))
        return np.asarray(last[-1] / self.steps, dtype=np.float64)


def interpret(graph: Graph, inputs: Floats) -> Trace:
    """Run a graph on raw `inputs` [T, B, *shape], in float64; values outside windows are zero.

    Raises:
        UserError: a loop through which a spike takes no time.
    """
    windows = {node.id: value for node, value in walk(graph, inputs) if not isinstance(node, Feedback)}
    return Trace(windows, graph.steps)


def walk(graph: Graph, inputs: Reals) -> Iterator[tuple[Windowed | Feedback, Reals]]:
    """The nodes with a window, each with its output in it, [T, B, *shape], in the precision of `inputs`.

    Feedback is among them, with the window and the spikes of the neuron that it stands for.

    Raises:
        UserError: a loop through which a spike takes no time.
    """
    for node, _, value in evaluations(graph, inputs):
        if isinstance(node, Windowed | Feedback):
            timed = graph[node.of] if isinstance(node, Feedback) else node
            assert isinstance(timed, Windowed)
            yield node, value[sends(timed) : sends(timed) + graph.steps]


def evaluations(graph: Graph, inputs: Reals) -> Iterator[tuple[Node, list[Reals], Reals]]:
    """Every node with its inputs and its output at all machine steps, [L, B, *shape], in the precision of `inputs`.

    Values outside windows are zero. A loop is evaluated again and again with what it gave before: each time one more
    step is right, until nothing changes; only then does the first node come.

    Raises:
        UserError: a loop through which a spike takes no time.
    """
    end = max(sends(node) for node in graph.windowed()) + graph.steps
    loops = [node for node in graph.nodes if isinstance(node, Feedback)]
    sources = {node.of for node in loops}
    fed: dict[str, Reals] = {n.id: np.zeros((end, inputs.shape[1], *n.shape), dtype=inputs.dtype) for n in loops}
    for _ in range(end * len(loops) + 1):  # one loop may wait for another
        if not loops:
            break
        spikes = {node.id: value for node, _, value in _once(graph, inputs, end, fed) if node.id in sources}
        if all(np.array_equal(fed[node.id], spikes[node.of]) for node in loops):
            break
        fed = {node.id: spikes[node.of] for node in loops}
    else:
        raise UserError(f"feedback of {loops[0].of} without a delay", where=loops[0].where)
    yield from _once(graph, inputs, end, fed)


def _once(graph: Graph, inputs: Reals, end: int, fed: dict[str, Reals]) -> Iterator[tuple[Node, list[Reals], Reals]]:
    """As `evaluations`, where each feedback sends `fed`. A value is kept until the last node that takes it."""
    last = {name: node.id for node in graph.nodes for name in node.inputs}
    values: dict[str, Reals] = {}
    for node in graph.nodes:
        taken = [values[name] for name in node.inputs]
        if isinstance(node, Input):
            value = _place(node.coding.encode(inputs) if node.coding else inputs, node.start, end)
        elif isinstance(node, Clock):
            value = _place(ticks(node.shape, inputs.shape[1]).astype(inputs.dtype), node.start, end)
        elif isinstance(node, Feedback):
            value = fed[node.id]
        else:
            value = _evaluate(node, taken, graph)
        for name in set(node.inputs):
            if last[name] == node.id:
                del values[name]
        if node.id in last:
            values[node.id] = value
        yield node, taken, value


def _place(window: Reals, start: int, end: int) -> Reals:
    stream = np.zeros((end, *window.shape[1:]), dtype=window.dtype)
    stream[start : start + len(window)] = window
    return stream


def ticks(shape: Shape, samples: int) -> Floats:
    """What a clock of `shape` (T, ...) sends in each of its windows: [T, B, T, ...], 1 where the two steps agree."""
    steps = shape[0]
    one = np.eye(steps).reshape(steps, 1, steps, *(1,) * (len(shape) - 1))
    return np.broadcast_to(one, (steps, samples, *shape)).copy()


def moved(x: npt.NDArray[Any], steps: int) -> npt.NDArray[Any]:
    """x[t - steps], zero where that is outside the stream."""
    if steps == 0:
        return x
    out = np.zeros_like(x)
    if steps > 0:
        out[steps:] = x[:-steps]
    else:
        out[:steps] = x[-steps:]
    return out


def delayed(x: npt.NDArray[Any], delay: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
    """x[t - delay[c], c] for every channel c of [T, B, C, ...], zero outside the stream."""
    if not delay.any():
        return x
    out = np.empty_like(x)
    for steps in np.unique(delay):
        channels = delay == steps
        out[:, :, channels] = moved(x[:, :, channels], int(steps))
    return out


def _evaluate(node: Node, inputs: list[Reals], graph: Graph) -> Reals:
    x = inputs[0]
    channel = (1, 1, -1) + (1,) * (x.ndim - 3)
    match node:
        case Affine():
            scale, shift = (values.reshape(channel).astype(x.dtype) for values in (node.scale, node.shift))
            return x * scale + shift
        case Convolution() | Dense():
            return moved(synapse(node, x), graph.synapse_steps)
        case AveragePool():
            flat = torch.from_numpy(np.ascontiguousarray(x)).flatten(0, 1)
            pooled: Reals = functional.avg_pool2d(
                flat, node.kernel, node.stride, node.padding, divisor_override=node.divisor
            ).numpy()
            return pooled.reshape(*x.shape[:2], *pooled.shape[1:])
        case Flatten():
            return x.reshape(*x.shape[:2], -1)
        case Add():
            total = x.copy()
            for other in inputs[1:]:
                total += other
            return total
        case Delay():
            return delayed(x, node.steps)
        case TemporalShift():
            z = x.copy()
            z[:, :, : node.future] = moved(x[:, :, : node.future], -1)
            z[:, :, node.future : node.past] = moved(x[:, :, node.future : node.past], 1)
            return x + node.alpha * z
        case Gain():
            return x * node.gain.astype(x.dtype)
        case FrequencyAttention() | GlobalContext() | StepAttention() | Relay():
            window = x[node.start : node.start + graph.steps]
            gated = window * gain(node, window.astype(np.float64)).astype(x.dtype)
            return _place(gated, node.sends, len(x))
        case Neuron():
            leak, current_leak, threshold = (
                rows(values, x.ndim - 2).astype(x.dtype) for values in (node.leak, node.current_leak, node.threshold)
            )
            return _fire(x, node.start, graph.steps, leak, current_leak, threshold, node.reset)
        case Accumulate():
            leak, current_leak = (rows(v, x.ndim - 2).astype(x.dtype) for v in (node.leak, node.current_leak))
            return _add_up(x, node.start, graph.steps, leak, current_leak)
    raise TypeError(f"no rule for {node.where}")


def synapse(node: Convolution | Dense, x: Reals) -> Reals:
    """The weighted sums of one convolution or dense: [L, B, *in] to [L, B, *out], in the precision of x."""
    if isinstance(node, Convolution) and node.crop != NO_CROP:
        (top, bottom), (left, right) = node.crop
        inside = (..., slice(top, x.shape[-2] - bottom), slice(left, x.shape[-1] - right))
        whole, x = x, np.zeros_like(x)
        x[inside] = whole[inside]
    flat = torch.from_numpy(np.ascontiguousarray(x)).flatten(0, 1)
    weight = torch.from_numpy(node.weight).to(flat.dtype)
    if isinstance(node, Dense):
        out = functional.linear(flat.flatten(1), weight)
    else:
        out = functional.conv2d(flat, weight, None, node.stride, node.padding, node.dilation, node.groups)
    if node.bias is not None:
        bias = torch.from_numpy(node.bias).to(flat.dtype)
        out += bias if bias.ndim == out.ndim - 1 else bias.view(-1, *(1,) * (out.ndim - 2))
    result: Reals = out.numpy()
    return result.reshape(*x.shape[:2], *result.shape[1:])


def _add_up(x: Reals, start: int, steps: int, leak: Reals, current_leak: Reals) -> Reals:
    """The read-out's membrane potential in the window, zero outside (see `Accumulate`)."""
    out = np.zeros_like(x)
    current, membrane = np.zeros_like(x[0]), np.zeros_like(x[0])
    for t in range(start, start + steps):
        current *= current_leak
        current += x[t]
        membrane *= leak
        membrane += current
        out[t] = membrane
    return out


def _fire(x: Reals, start: int, steps: int, leak: Reals, current_leak: Reals, threshold: Reals, reset: Reset) -> Reals:
    """Spikes in the window, silence outside; [L, B, *shape], parameters broadcast to shape (see `Neuron`)."""
    out = np.zeros_like(x)
    current = np.zeros_like(x[0])
    membrane = np.zeros_like(x[0])
    for t in range(start, start + steps):
        current *= current_leak
        current += x[t]
        membrane *= leak
        membrane += current
        fired = membrane > threshold
        out[t] = fired
        if reset == "zero":
            membrane[fired] = 0
        else:
            membrane -= fired * threshold
    return out
