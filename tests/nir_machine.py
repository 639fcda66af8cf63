"""An obvious executor of NIR files for tests: plain numpy, one time step after the other, node equations as written.

Forward Euler with the file's dt, strict threshold, reset in the same step. A node with `start` metadata has windows:
its state is zero when one starts, and it is silent outside.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nir
import numpy as np
import torch


def run(path: Path, samples: np.ndarray) -> dict[str, np.ndarray]:
    """Samples [N, T, *shape] back to back, `period` steps apart; of LIF, IF, CubaLIF and Output: [N, T, *shape]."""
    graph = nir.read(path, type_check=False)
    dt, steps, period = (float(graph.metadata[k]) for k in ("dt", "steps", "period"))
    steps, period = int(steps), int(period)
    order = in_order(graph)
    late = {edge for edge in graph.edges if _late(graph, *edge)}
    starts = {name: int(node.metadata.get("start", 0)) for name, node in graph.nodes.items()}
    total = max(starts.values()) + (len(samples) - 1) * period + steps
    history: dict[str, list[np.ndarray]] = {name: [] for name in order}
    state: dict[str, np.ndarray] = {}
    for step in range(total):
        for name in order:
            node = graph.nodes[name]
            sources = [a for a, b in graph.edges if b == name]
            before = [a for a in sources if (a, name) in late]
            for source in before:  # what a late edge brings now
                sent = history[source][step - 1] if step else np.zeros(graph.nodes[source].v_threshold.shape)
                history[f"{source} before"] = [*history.get(f"{source} before", [])[:step], sent]
            sources = [f"{a} before" if a in before else a for a in sources]
            inside = step >= starts[name] and (step - starts[name]) % period < steps
            fresh = step >= starts[name] and (step - starts[name]) % period == 0
            if isinstance(node, nir.Input):
                sample, moment = divmod(step - starts[name], period)
                value = samples[sample, moment] if inside and sample < len(samples) else np.zeros(samples.shape[2:])
            else:
                value = evaluate(node, sources, history, state, name, dt, inside, fresh, step)
            history[name].append(value)
    outputs = {}
    for name in order:
        if isinstance(graph.nodes[name], nir.LIF | nir.IF | nir.CubaLIF | nir.Output):
            stream, first = np.stack(history[name]), starts[name]
            windows = [stream[first + n * period : first + n * period + steps] for n in range(len(samples))]
            outputs[name] = np.stack(windows)
    return outputs


def in_order(graph: Any) -> list[str]:
    """Sources first; a delay of a step or more reads what was sent before, so it waits for nobody: that opens loops."""
    free = [name for name, node in graph.nodes.items() if isinstance(node, nir.Delay) and node.delay.min() > 0]
    done = list(free)
    while len(done) < len(graph.nodes):
        done += [
            n
            for n in graph.nodes
            if n not in done and all(a in done or _late(graph, a, b) for a, b in graph.edges if b == n)
        ]
    return done


def _late(graph: Any, sender: str, target: str) -> bool:
    """Whether a neuron drives itself through this edge, without a delay: its spikes then arrive one step later."""
    spiking = (nir.LIF, nir.IF, nir.CubaLIF)
    seen, waiting = {target}, [target] if isinstance(graph.nodes[sender], spiking) else []
    while waiting:
        name = waiting.pop()
        if name == sender:
            return True
        if not isinstance(graph.nodes[name], (*spiking, nir.Delay)):
            following = [b for a, b in graph.edges if a == name and b not in seen]
            seen.update(following)
            waiting += following
    return False


def evaluate(
    node: Any,
    sources: list[str],
    history: dict[str, list[np.ndarray]],
    state: dict[str, np.ndarray],
    name: str,
    dt: float,
    inside: bool,
    fresh: bool,
    step: int,
) -> np.ndarray:
    if isinstance(node, nir.Delay):
        return delayed(node, history[sources[0]], dt, step)
    x = np.sum([history[source][step] for source in sources], axis=0)
    if isinstance(node, nir.Scale):
        return node.scale * x
    if isinstance(node, nir.Conv2d):
        weight, bias = torch.from_numpy(node.weight), torch.from_numpy(node.bias)
        geometry = [tuple(int(v) for v in value) for value in (node.stride, node.padding, node.dilation)]
        return torch.nn.functional.conv2d(torch.from_numpy(x)[None], weight, bias, *geometry, int(node.groups))[
            0
        ].numpy()
    if isinstance(node, nir.Affine):
        return node.weight @ x + node.bias
    if isinstance(node, nir.Linear):
        return node.weight @ x
    if isinstance(node, nir.Flatten):
        return x.reshape(-1)
    if isinstance(node, nir.Output):
        return x
    v = np.zeros(x.shape) if fresh else state.get(name, np.zeros(x.shape))
    if isinstance(node, nir.CubaLIF):
        i = np.zeros(x.shape) if fresh else state.get(f"{name} current", np.zeros(x.shape))
        i = state[f"{name} current"] = i + dt / node.tau_syn * (node.w_in * x - i)
        v = v + dt / node.tau_mem * (node.v_leak - v + node.r * i)
    elif isinstance(node, nir.LIF):
        v = v + dt / node.tau * (node.v_leak - v + node.r * x)
    else:
        v = v + dt * node.r * x
    spikes = (v > node.v_threshold) & inside
    state[name] = np.where(spikes, node.v_reset, v)
    return spikes.astype(np.float64)


def delayed(node: Any, sent: list[np.ndarray], dt: float, step: int) -> np.ndarray:
    out = np.zeros(node.delay.shape)
    for index in np.ndindex(out.shape):
        ago = round(float(node.delay[index]) / dt)
        out[index] = sent[step - ago][index] if step >= ago else 0.0
    return out
