"""An obvious executor of NIR graphs under explicit options: the NIR library's objects, one step after the other.

It shares nothing with the reader: the equations of docs/nir.md as they are written there, in the file's own units, and
the caller says which edges are one step late. Values are [B, *shape].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import nir
import numpy as np
import torch
from torch.nn import functional


@dataclass(frozen=True)
class Options:
    dt: float = 1e-4
    exponential: bool = False
    reached: bool = False
    subtract: bool = False
    late: frozenset[tuple[str, str]] = frozenset()


def flat(graph: Any, prefix: str = "") -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """Nodes and edges with subgraphs dissolved; their inputs and outputs stay as nodes that hand on."""
    nodes: dict[str, Any] = {}
    edges: list[tuple[str, str]] = []
    doors: dict[str, tuple[str, str]] = {}
    for name, node in graph.nodes.items():
        if isinstance(node, nir.NIRGraph):
            inner, inner_edges = flat(node, f"{prefix}{name}.")
            nodes |= inner
            edges += inner_edges
            (way_in,), (way_out,) = list(node.inputs), list(node.outputs)
            doors[name] = f"{prefix}{name}.{way_in}", f"{prefix}{name}.{way_out}"
        else:
            nodes[f"{prefix}{name}"] = node
    for a, b in graph.edges:
        edges.append((doors[a][1] if a in doors else f"{prefix}{a}", doors[b][0] if b in doors else f"{prefix}{b}"))
    return nodes, edges


def run(graph: Any, inputs: dict[str, np.ndarray], options: Options) -> dict[str, np.ndarray]:
    """Outputs of all nodes, [T, B, *shape], for inputs by name."""
    nodes, edges = flat(graph)
    steps, batch = next(iter(inputs.values())).shape[:2]
    history: dict[str, list[np.ndarray]] = {name: [] for name in nodes}
    state: dict[str, np.ndarray] = {}
    order = _order(nodes, edges, options)
    for t in range(steps):
        for name in order:
            if name in inputs:
                history[name].append(inputs[name][t].astype(np.float64))
                continue
            total: Any = 0.0
            for a, b in edges:
                if b != name:
                    continue
                if (a, b) not in options.late:
                    total = total + history[a][t]
                elif t > 0:
                    total = total + history[a][t - 1]
            if np.ndim(total) == 0:  # nothing but late spikes, at the first step
                (sender,) = [a for a, b in edges if b == name]
                total = np.zeros((batch, *nodes[sender].output_type["output"]))
            history[name].append(_evaluate(nodes[name], name, total, history, state, options, t, edges))
    return {name: np.stack(values) for name, values in history.items()}


def _order(nodes: dict[str, Any], edges: list[tuple[str, str]], options: Options) -> list[str]:
    done: list[str] = []
    while len(done) < len(nodes):
        before = len(done)
        for name in nodes:
            waits = [a for a, b in edges if b == name and (a, b) not in options.late]
            if name not in done and all(a in done for a in waits):
                done.append(name)
        assert len(done) > before, "a loop without a late edge"
    return done


def _evaluate(
    node: Any,
    name: str,
    x: np.ndarray,
    history: dict[str, list[np.ndarray]],
    state: dict[str, np.ndarray],
    options: Options,
    t: int,
    edges: list[tuple[str, str]],
) -> np.ndarray:
    if isinstance(node, nir.Conv2d):
        image = torch.from_numpy(np.ascontiguousarray(x))
        padding = node.padding if isinstance(node.padding, str) else _ints(node.padding)
        weight, bias = torch.from_numpy(node.weight), torch.from_numpy(node.bias)
        return functional.conv2d(
            image, weight, bias, _ints(node.stride), padding, _ints(node.dilation), int(node.groups)
        ).numpy()
    if isinstance(node, nir.Conv1d):
        row = torch.from_numpy(np.ascontiguousarray(x))
        padding = node.padding if isinstance(node.padding, str) else int(node.padding)
        weight, bias = torch.from_numpy(node.weight), torch.from_numpy(node.bias)
        return functional.conv1d(
            row, weight, bias, int(node.stride), padding, int(node.dilation), int(node.groups)
        ).numpy()
    if isinstance(node, nir.Affine):
        return x @ node.weight.T + node.bias
    if isinstance(node, nir.Linear):
        return x @ node.weight.T
    if isinstance(node, nir.Scale):
        return x * node.scale
    if isinstance(node, nir.SumPool2d | nir.AvgPool2d):
        image = torch.from_numpy(np.ascontiguousarray(x))
        mean = functional.avg_pool2d(image, _ints(node.kernel_size), _ints(node.stride), _ints(node.padding)).numpy()
        return mean * np.prod(_ints(node.kernel_size)) if isinstance(node, nir.SumPool2d) else mean
    if isinstance(node, nir.Flatten):
        shape = list(x.shape[1:])
        first, last = (int(d) % len(shape) for d in (node.start_dim, node.end_dim))
        return x.reshape(len(x), *shape[:first], int(np.prod(shape[first : last + 1])), *shape[last + 1 :])
    if isinstance(node, nir.Delay):
        kept = state.setdefault(name, np.zeros((0, *x.shape)))
        state[name] = kept = np.concatenate([kept, x[None]])
        out = np.zeros_like(x)
        for index in np.ndindex(node.delay.shape):
            ago = round(float(node.delay[index]) / options.dt)
            if t >= ago:
                out[(slice(None), *index)] = kept[(t - ago, slice(None), *index)]
        return out
    if isinstance(node, nir.Threshold):
        return (x >= node.threshold if options.reached else x > node.threshold).astype(np.float64)
    if isinstance(node, nir.Input | nir.Output):
        return x
    return _neuron(node, name, x, state, options)


def _neuron(node: Any, name: str, x: np.ndarray, state: dict[str, np.ndarray], options: Options) -> np.ndarray:
    base = getattr(node, "v_reset", np.zeros(1))
    v = state.get(name, np.zeros_like(x) + base)
    if isinstance(node, nir.IF | nir.I):
        v = v + options.dt * node.r * x
    elif isinstance(node, nir.LIF | nir.LI):
        keep = _keep(node.tau, options)
        v = keep * v + (1 - keep) * (node.v_leak + node.r * x)
    else:
        keep_i, keep = _keep(node.tau_syn, options), _keep(node.tau_mem, options)
        i = keep_i * state.get(f"{name}.i", np.zeros_like(x)) + (1 - keep_i) * node.w_in * x
        state[f"{name}.i"] = i
        v = keep * v + (1 - keep) * (node.v_leak + node.r * i)
    if isinstance(node, nir.I | nir.LI | nir.CubaLI):
        state[name] = v
        return v
    fired = v >= node.v_threshold if options.reached else v > node.v_threshold
    state[name] = np.where(fired, v - node.v_threshold if options.subtract else base, v)
    return fired.astype(np.float64)


def _keep(tau: np.ndarray, options: Options) -> np.ndarray:
    return np.exp(-options.dt / tau) if options.exponential else 1 - options.dt / tau


def _ints(value: Any) -> tuple[int, int]:
    first, second = np.broadcast_to(np.asarray(value, dtype=np.int64), 2)
    return int(first), int(second)


def run_one(node: Any, x: np.ndarray) -> np.ndarray:
    """One stateless node on one batch; an empty array where it has no output."""
    try:
        return _evaluate(node, "", x, {}, {}, Options(), 0, [])
    except RuntimeError:  # a kernel larger than its input
        return np.zeros((0,))
