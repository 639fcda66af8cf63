"""The float graph as a standard NIR 1.0.8 file.

NIR has no time step, no window and no reset rule of the file's own, so they are fixed by convention and recorded as
metadata: forward Euler with step `dt` and unit gain (tau = dt / (1 - leak), r = tau / dt), strict threshold, reset to
zero in the same step. Delays are in seconds. A node with a window carries `start`; the graph carries `steps`, `period`
and `dt`: outside its window a neuron is silent, and its state is zero when the window starts.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nir
import numpy as np

from export.graph import (
    Accumulate,
    Add,
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
    with runs.atomic_path(path) as temporary:
        nir.write(temporary, to_nir(graph, dt))


def to_nir(graph: Graph, dt: float = DT) -> Any:
    """The NIR graph. Node names are this project's ids with dots replaced, which module names cannot hold."""
    nodes: dict[str, Any] = {}
    edges: list[tuple[str, str]] = []
    leaves: dict[str, str] = {}  # id -> the NIR node that sends its output
    for node in graph.nodes:
        if isinstance(node, Add):
            continue
        if isinstance(node, Feedback):
            leaves[node.id] = node.of.replace(".", "_")
            continue
        name = node.id.replace(".", "_")
        nodes[name] = _node(node, graph, dt)
        target = name
        if isinstance(node, Dense) and len(graph.shapes[node.inputs[0]]) > 1:
            target = f"{name}_flatten"
            nodes[target] = nir.Flatten({"input": np.array(graph.shapes[node.inputs[0]])}, 0, -1)
            edges.append((target, name))
        if isinstance(node, Convolution) and node.crop != NO_CROP:
            target = f"{name}_crop"  # NIR's convolutions read all of their input, so the rest is made zero before
            nodes[target] = nir.Scale(_inside(node, graph.shapes[node.inputs[0]]))
            edges.append((target, name))
        edges += [(leaves[source], target) for source in _sources(graph, node.inputs)]
        leaves[node.id] = name
    last = graph.nodes[-1]
    nodes["output"] = nir.Output({"output": np.array(graph.shapes[last.id])})
    edges.append((leaves[last.id], "output"))
    period = graph.steps + guard_steps(graph)
    metadata = {"dt": dt, "steps": graph.steps, "period": period, "writer": "spikeproof"}
    return nir.NIRGraph(nodes, edges, metadata=metadata, type_check=False)


def _inside(node: Convolution, shape: Shape) -> Floats:
    (top, bottom), (left, right) = node.crop
    inside = np.zeros(shape)
    inside[:, top : shape[1] - bottom, left : shape[2] - right] = 1
    return inside


def _sources(graph: Graph, names: tuple[str, ...]) -> list[str]:
    flat: list[str] = []
    for name in names:
        node = graph[name]
        flat += _sources(graph, node.inputs) if isinstance(node, Add) else [name]
    return flat


def _node(node: Node, graph: Graph, dt: float) -> Any:
    shape = graph.shapes[node.id]
    match node:
        case Input():
            about: dict[str, object] = {"levels": node.levels, "start": node.start}
            if node.coding:  # of a model trained in integers: what the file takes is what the chip is sent
                about |= {"offset": list(node.coding.offset), "low_bits": node.coding.low_bits}
            return nir.Input({"input": np.array(shape)}, metadata=about)
        case Convolution():
            bias = np.zeros(len(node.weight)) if node.bias is None else node.bias
            if bias.ndim > 1:
                bias = np.zeros(len(node.weight))  # one value for each neuron: it goes into that neuron's v_leak
            return nir.Conv2d(
                graph.shapes[node.inputs[0]][1:],
                node.weight,
                node.stride,
                node.padding,
                node.dilation,
                node.groups,
                bias,
                metadata={"origin": node.origin},
            )
        case Dense():
            metadata = {"origin": node.origin}
            if node.bias is None:
                return nir.Linear(node.weight, metadata=metadata)
            return nir.Affine(node.weight, node.bias, metadata=metadata)
        case Neuron():
            return _lif(node, shape, _bias_map(node, graph), dt)
        case Accumulate():
            return nir.I(np.full(shape, 1 / dt), metadata={"origin": node.origin, "start": node.start})
        case Delay():
            per_channel = node.steps.reshape((-1,) + (1,) * (len(shape) - 1))
            return nir.Delay(np.broadcast_to(per_channel * dt, shape).astype(np.float64).copy())
    raise UserError("NIR has no such node", where=node.where, hint="fold or remove it before writing NIR")


def _bias_map(node: Neuron, graph: Graph) -> Floats:
    """What convolutions with a bias for each neuron add to this neuron's current; zeros of its shape otherwise."""
    total = np.zeros(graph.shapes[node.id])
    for name in _sources(graph, node.inputs):
        source = graph[name]
        if isinstance(source, Convolution) and source.bias is not None and source.bias.ndim > 1:
            total = total + source.bias
    return total


def _lif(node: Neuron, shape: tuple[int, ...], bias: Floats, dt: float) -> Any:
    """v <- v + dt / tau (v_leak - v + r i) = leak v + (1 - leak) v_leak + i."""
    if node.has_current:
        raise UserError("a synaptic current is not written to NIR yet", where=node.where)
    if node.reset != "zero":
        raise UserError("NIR has no reset that subtracts", where=node.where)
    metadata = {"origin": node.origin, "start": node.start}
    leak, threshold = (np.broadcast_to(rows(v, len(shape)), shape).copy() for v in (node.leak, node.threshold))
    if (leak == 1).all():
        if bias.any():
            raise UserError("NIR's IF has no place for a bias of each neuron", where=node.where)
        return nir.IF(np.full(shape, 1 / dt), threshold, np.zeros(shape), metadata=metadata)
    if (leak == 1).any():
        raise UserError("leaks of 1 beside smaller ones, which no node of NIR can say", where=node.where)
    tau = dt / (1 - leak)
    return nir.LIF(tau, tau / dt, bias / (1 - leak), threshold, np.zeros(shape), metadata=metadata)
