"""The float graph as a standard NIR 1.0.8 file, in the form that most frameworks read alike.

NIR has no time step, no window and no reset rule of the file's own, so they are fixed by convention and recorded as
metadata: forward Euler with step `dt`, strict threshold, reset to zero in the same step. What frameworks read alike:
* LIF with r = 1, so that its threshold is (1 - leak) times ours and its input the weighted sum itself;
* IF with r = 1 / dt; CubaLIF with unit gains, r = tau_mem / dt and w_in = tau_syn / dt;
* no integrator behind the last layer: the output is the weighted sum of each step, the answer its sum over the window;
* no node for a shortcut or for the step that a recurrent edge is late;
* a bias that differs from place to place, which no convolution has: a LIF's v_leak; for others a convolution without
  weights, whose bias of ones is scaled to it.
Delays are in seconds. A node with a window carries `start`; the graph carries `steps`, `period` and `dt`: outside its
window a neuron is silent, and its state is zero when the window starts.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import nir
import numpy as np

from export.graph import (
    Accumulate,
    Add,
    Clock,
    Convolution,
    Delay,
    Dense,
    Feedback,
    Floats,
    Graph,
    Input,
    Neuron,
    Node,
    Shape,
)
from export.network import NO_CROP
from export.passes.retime import guard_steps
from export.quantise import rows
from train import runs
from train.errors import UserError

DT = 1e-4  # seconds; the step that NIR's own examples, snnTorch and SpikingJelly assume


def write_nir(path: Path, graph: Graph, dt: float = DT) -> None:
    """Write a graph that was retimed with synapses that take no time; atomic.

    Raises:
        UserError: something that NIR cannot say; the message names the node.
    """
    found = to_nir(graph, dt)
    with runs.atomic_path(path) as temporary:
        nir.write(temporary, found)


def to_nir(graph: Graph, dt: float = DT) -> Any:
    """The NIR graph. Node names are this project's ids, made of letters, digits and '_' as module names need it.

    Raises:
        UserError: something that NIR cannot say; the message names the node.
    """
    names = _names(graph)
    nodes: dict[str, Any] = {}
    edges: list[tuple[str, str]] = []
    senders: dict[str, str] = {}  # id -> the NIR node that sends its output
    for node in graph.nodes:
        if isinstance(node, Add):
            continue
        source = graph[node.inputs[0]] if len(node.inputs) == 1 else None
        if isinstance(node, Feedback):
            senders[node.id] = names[node.of]
        elif isinstance(node, Delay) and isinstance(source, Feedback) and (node.steps == 1).all():
            senders[node.id] = senders[source.id]  # a recurrent edge is one step late by itself
        elif _is_identity(node) and not _meets(graph, node, names, senders, edges):
            senders[node.id] = senders[node.inputs[0]]
        elif isinstance(node, Accumulate) and (node.leak == 1).all() and not node.current_leak.any():
            continue
        else:
            _write(node, names[node.id], graph, dt, nodes, edges, senders)
            senders[node.id] = names[node.id]
    last = graph.nodes[-1]
    start = last.start if isinstance(last, Accumulate) else 0
    nodes["output"] = nir.Output({"output": np.array(graph.shapes[last.id])}, metadata={"start": start})
    ends = [senders[last.id]] if last.id in senders else [senders[s] for s in _sources(graph, last.inputs)]
    edges += [(end, "output") for end in ends]
    period = graph.steps + guard_steps(graph)
    metadata = {"dt": dt, "steps": graph.steps, "period": period, "writer": "spikeproof"}
    return nir.NIRGraph(nodes, edges, metadata=metadata, type_check=False)


def _names(graph: Graph) -> dict[str, str]:
    """A unique NIR name for each id."""
    names: dict[str, str] = {}
    taken = {"output"}
    for node in graph.nodes:
        name = re.sub(r"\W", "_", node.id, flags=re.ASCII)
        name = f"n{name}" if name[0].isdigit() else name
        while name in taken:
            name += "_"
        names[node.id] = name
        taken.add(name)
    return names


def _is_identity(node: Node) -> bool:
    """Whether it is a shortcut: a synapse of weight 1 for each neuron."""
    if isinstance(node, Dense):
        return node.bias is None and np.array_equal(node.weight, np.eye(*node.weight.shape))
    return (
        isinstance(node, Convolution)
        and node.bias is None
        and node.weight.shape == (node.groups, 1, 1, 1)
        and bool((node.weight == 1).all())
        and (node.stride, node.padding, node.crop) == ((1, 1), (0, 0), NO_CROP)
    )


def _meets(
    graph: Graph, node: Node, names: dict[str, str], senders: dict[str, str], edges: list[tuple[str, str]]
) -> bool:
    """Whether a shortcut cannot be an edge: it flattens, ends in the output, or there would be such an edge twice."""
    if graph.shapes[node.id] != graph.shapes[node.inputs[0]]:
        return True
    ends = [user for user in graph.nodes if node.id in _sources(graph, user.inputs) and not isinstance(user, Add)]
    for user in ends:
        mine = senders[node.inputs[0]]
        others = [s for s in _sources(graph, user.inputs) if s != node.id]
        if isinstance(user, Accumulate) or any(senders.get(s) == mine for s in others):
            return True
        if any(_is_identity(graph[s]) and graph[s].inputs == node.inputs for s in others):
            return True
    return False


def _sources(graph: Graph, names: tuple[str, ...]) -> list[str]:
    flat: list[str] = []
    for name in names:
        node = graph[name]
        flat += _sources(graph, node.inputs) if isinstance(node, Add) else [name]
    return flat


def _write(
    node: Node,
    name: str,
    graph: Graph,
    dt: float,
    nodes: dict[str, Any],
    edges: list[tuple[str, str]],
    senders: dict[str, str],
) -> None:
    """One node, with a Flatten, a mask or a bias in front where it needs one."""
    nodes[name] = _node(node, graph, dt)
    target = name
    if isinstance(node, Neuron) and not _has_v_leak(node):
        biased, total = _map_bias(node, graph)
        if biased is not None:
            ones, bias = f"{name}_ones", f"{name}_bias"
            nodes[ones], nodes[bias] = _ones(biased, graph), nir.Scale(total)
            edges += [(senders[biased.inputs[0]], ones), (ones, bias), (bias, name)]
    if isinstance(node, Dense) and len(graph.shapes[node.inputs[0]]) > 1:
        target = f"{name}_flatten"
        nodes[target] = nir.Flatten({"input": np.array(graph.shapes[node.inputs[0]])}, 0, -1)
        edges.append((target, name))
    if isinstance(node, Convolution) and node.crop != NO_CROP:
        target = f"{name}_crop"  # NIR's convolutions read all of their input, so the rest is made zero before
        nodes[target] = nir.Scale(_inside(node, graph.shapes[node.inputs[0]]))
        edges.append((target, name))
    edges += [(senders[source], target) for source in _sources(graph, node.inputs)]


def _inside(node: Convolution, shape: Shape) -> Floats:
    (top, bottom), (left, right) = node.crop
    inside = np.zeros(shape)
    inside[:, top : shape[1] - bottom, left : shape[2] - right] = 1
    return inside


def _node(node: Node, graph: Graph, dt: float) -> Any:
    shape = graph.shapes[node.id]
    metadata: dict[str, Any] = {"origin": node.origin}
    match node:
        case Input():
            about: dict[str, Any] = {"levels": node.levels, "start": node.start}
            if node.coding:  # of a model trained in integers: what the file takes is what the chip is sent
                about |= {"offset": list(node.coding.offset), "low_bits": node.coding.low_bits}
            return nir.Input({"input": np.array(shape)}, metadata=about)
        case Convolution():
            bias = np.zeros(len(node.weight)) if node.bias is None else node.bias
            if bias.ndim > 1:
                bias = np.zeros(len(node.weight))  # one value for each neuron: the neuron gets it, see `_write`
            place = graph.shapes[node.inputs[0]][1:]
            geometry = (node.stride, node.padding, node.dilation, node.groups)
            return nir.Conv2d(place, node.weight, *geometry, bias, metadata=metadata)
        case Dense():
            if node.bias is None:
                return nir.Linear(node.weight, metadata=metadata)
            return nir.Affine(node.weight, node.bias, metadata=metadata)
        case Neuron():
            return _neuron(node, graph, dt)
        case Accumulate():
            return _leaky_sum(node, shape, dt)
        case Delay():
            per_channel = node.steps.reshape((-1,) + (1,) * (len(shape) - 1))
            return nir.Delay(np.broadcast_to(per_channel * dt, shape).astype(np.float64).copy())
    if isinstance(node, Clock):
        raise UserError(
            "NIR has no clock, and this differs from step to step of a window (a position code, or the bias of a "
            "shifted current at the ends)",
            where=node.where,
            hint="for a shift, train with another --shift-position",
        )
    raise UserError("NIR has no such node", where=node.where, hint="fold or remove it before writing NIR")


def _map_bias(node: Neuron, graph: Graph) -> tuple[Convolution | None, Floats]:
    """What convolutions with a bias for each neuron, not for each channel, add to its current, and the last of them."""
    found, total = None, np.zeros(graph.shapes[node.id])
    for name in _sources(graph, node.inputs):
        source = graph[name]
        if isinstance(source, Convolution) and source.bias is not None and source.bias.ndim > 1:
            found, total = source, total + source.bias
    return found, total


def _ones(like: Convolution, graph: Graph) -> Any:
    """A convolution of the same geometry that gives 1 everywhere, whatever it reads."""
    geometry = (like.stride, like.padding, like.dilation, like.groups)
    weight = np.zeros_like(like.weight)
    return nir.Conv2d(graph.shapes[like.inputs[0]][1:], weight, *geometry, np.ones(len(weight)))


def _has_v_leak(node: Neuron) -> bool:
    return not node.has_current and not (node.leak == 1).all()


def _neuron(node: Neuron, graph: Graph, dt: float) -> Any:
    """LIF: v <- leak v + (1 - leak) (v_leak + i), so v is (1 - leak) times our V."""
    if node.reset != "zero":
        raise UserError("NIR has no reset that subtracts", where=node.where)
    shape = graph.shapes[node.id]
    metadata = {"origin": node.origin, "start": node.start}
    leak, current_leak, threshold = (_full(v, shape) for v in (node.leak, node.current_leak, node.threshold))
    zeros = np.zeros(shape)
    if node.has_current:
        tau_syn, tau_mem = _tau(current_leak, dt, node), _tau(leak, dt, node)
        return nir.CubaLIF(
            tau_syn, tau_mem, tau_mem / dt, zeros, threshold, zeros.copy(), tau_syn / dt, metadata=metadata
        )
    if not _has_v_leak(node):
        return nir.IF(np.full(shape, 1 / dt), threshold, zeros, metadata=metadata)
    _, v_leak = _map_bias(node, graph)
    return nir.LIF(_tau(leak, dt, node), zeros + 1, v_leak, threshold * (1 - leak), zeros, metadata=metadata)


def _leaky_sum(node: Accumulate, shape: Shape, dt: float) -> Any:
    metadata = {"origin": node.origin, "start": node.start}
    leak, current_leak = _full(node.leak, shape), _full(node.current_leak, shape)
    tau = _tau(leak, dt, node)
    zeros = np.zeros(shape)
    if current_leak.any():
        tau_syn = _tau(current_leak, dt, node)
        return nir.CubaLI(tau_syn, tau, tau / dt, zeros, tau_syn / dt, metadata=metadata)
    return nir.LI(tau, tau / dt, zeros, metadata=metadata)


def _full(values: Floats, shape: Shape) -> Floats:
    return np.broadcast_to(rows(values, len(shape)), shape).copy()


def _tau(kept: Floats, dt: float, node: Node) -> Floats:
    """The time constant of what keeps a fraction `kept` in a step, forward Euler."""
    if (kept == 1).any():
        raise UserError("a leak of 1, which NIR's node with a time constant cannot say", where=node.where)
    return np.asarray(dt / (1 - kept))
