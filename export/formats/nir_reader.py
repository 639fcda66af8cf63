"""A NIR file to the float graph, under an explicit discretisation; what cannot be read exactly is refused by name.

The file says nothing of time step, integrator or reset, so the caller does: forward Euler with step dt, strict
threshold, reset to zero in the same step. Understood so far: Input, Output, Conv2d, Linear, Affine, Flatten,
AvgPool2d, SumPool2d, Delay, IF, LIF (one time constant and threshold for a population) and I as the read-out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import nir
import numpy as np

from export.graph import (
    Accumulate,
    Add,
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
)
from train.errors import UserError

MAX_BYTES = 4 << 30  # of the file
MAX_NODES = 100_000


@dataclass(frozen=True)
class Discretisation:
    """What the file leaves open: step in seconds, window steps T, and the range of the raw inputs."""

    dt: float
    steps: int
    levels: int


def read_nir(path: Path, how: Discretisation) -> Graph:
    """Read a NIR file into a float graph whose windows all start at 0.

    Raises:
        UserError: missing, damaged, an unknown node, or a network that cannot be reproduced exactly; it is named.
    """
    if not path.is_file():
        raise UserError("no such file", where=str(path))
    if path.stat().st_size > MAX_BYTES:
        raise UserError(f"file of {path.stat().st_size} bytes, limit {MAX_BYTES}", where=str(path))
    if not (np.isfinite(how.dt) and how.dt > 0):
        raise UserError(f"--dt {how.dt}, must be a positive number of seconds")
    try:
        with h5py.File(path, "r") as file:
            _check_types(file)
        found = nir.read(path, type_check=False)
        return from_nir(found, how, path.stem)
    except UserError as error:
        where = f"{path}: {error.where}" if error.where else str(path)
        raise UserError(error.what, where=where, hint=error.hint) from error
    except Exception as error:  # whatever h5py, nir or numpy make of a damaged file
        reason = (str(error).splitlines() or [""])[0] or type(error).__name__
        raise UserError(f"damaged, or not a NIR file: {reason}", where=str(path)) from error


def _check_types(file: h5py.File) -> None:
    """Refuse unknown node types before the library meets them: it answers with a bare assertion."""
    nodes = file["node/nodes"]
    if len(nodes) > MAX_NODES:
        raise UserError(f"{len(nodes)} nodes, limit {MAX_NODES}")
    for name in nodes:
        kind = nodes[name]["type"][()].decode()
        if kind not in _RULES and kind not in ("Input", "Output"):
            raise UserError(f"node of type {kind!r}", where=f"node {name}", hint=f"known: {', '.join(sorted(_RULES))}")


def from_nir(found: Any, how: Discretisation, name: str) -> Graph:
    """The float graph of a NIR graph."""
    reader = _Reader(found, how)
    for node_name in _in_order(found):
        reader.add(node_name)
    return Graph(name, tuple(reader.finish()), how.steps)


def _in_order(found: Any) -> list[str]:
    """Node names, sources before targets.

    Raises:
        UserError: a cycle.
    """
    waiting = {name: [a for a, b in found.edges if b == name] for name in found.nodes}
    order: list[str] = []
    while waiting:
        ready = [name for name, sources in waiting.items() if all(s not in waiting for s in sources)]
        if not ready:
            raise UserError(
                f"the edges form a loop through {sorted(waiting)[0]}", hint="recurrent networks cannot be exported yet"
            )
        order += ready
        for name in ready:
            del waiting[name]
    return order


class _Reader:
    """Collects nodes in order; `outputs` maps a NIR node to the id that sends its output."""

    def __init__(self, found: Any, how: Discretisation) -> None:
        self.found, self.how = found, how
        self.nodes: list[Node] = []
        self.outputs: dict[str, str] = {}
        self.starts: dict[str, int] = {}

    def add(self, name: str) -> None:
        node = self.found.nodes[name]
        kind = type(node).__name__
        sources = [a for a, b in self.found.edges if b == name]
        if kind == "Input":
            shape = tuple(int(side) for side in node.input_type["input"])
            self.starts[name] = _start(node)
            self._push(name, Input(name, name, (), shape, self.how.levels))
            return
        if not sources:
            raise UserError("has no input", where=f"node {name}")
        inputs = [self.outputs[source] for source in sources]
        if len(inputs) > 1:
            self._push(f"{name}.sum", Add(f"{name}.sum", name, tuple(inputs)))
            inputs = [f"{name}.sum"]
        self.starts[name] = self.starts[sources[0]]
        if kind == "Output":
            self.outputs[name] = inputs[0]
            return
        if "start" in getattr(node, "metadata", {}):
            self.starts[name] = _start(node)
        rule = _RULES.get(kind)
        if rule is None:
            raise UserError(f"node of type {kind!r}", where=f"node {name}", hint=f"known: {', '.join(sorted(_RULES))}")
        self._push(name, rule(node, name, inputs[0], self))

    def _push(self, name: str, node: Node) -> None:
        self.nodes.append(node)
        self.outputs[name] = node.id

    def finish(self) -> list[Node]:
        """All nodes, the last one a read-out: what feeds Output is summed over the window."""
        last = next((n for n in self.found.nodes if type(self.found.nodes[n]).__name__ == "Output"), None)
        if last is None:
            raise UserError("has no Output node")
        final = next(n for n in self.nodes if n.id == self.outputs[last])
        if isinstance(final, Neuron):
            graph = Graph("partial", tuple(self.nodes), self.how.steps)
            size = int(np.prod(graph.shapes[final.id]))
            self.nodes.append(Dense("count", final.origin, (final.id,), np.eye(size), None))
            final = self.nodes[-1]
        if not isinstance(final, Accumulate):
            self.nodes.append(Accumulate("readout", final.origin, (final.id,)))
            final = self.nodes[-1]
        return [n for n in self.nodes if n is not final] + [final]

    def add_bias(self, target: str, bias: Floats, where: str) -> None:
        """Add a constant current to what feeds a neuron, through the bias of its synapse."""
        index = next(i for i, n in enumerate(self.nodes) if n.id == target)
        synapse = self.nodes[index]
        if not isinstance(synapse, Convolution | Dense):
            raise UserError("v_leak is not zero and no synapse in front can carry it as a bias", where=where)
        old = np.zeros(len(synapse.weight)) if synapse.bias is None else synapse.bias
        self.nodes[index] = replace(synapse, bias=old.reshape(old.shape + (1,) * (bias.ndim - old.ndim)) + bias)


def _start(node: Any) -> int:
    return int(getattr(node, "metadata", {}).get("start", 0))


def _array(value: Any, where: str) -> Floats:
    array = np.asarray(value, dtype=np.float64)
    if not np.isfinite(array).all():
        raise UserError("holds NaN or infinity", where=where)
    return array


def _uniform(value: Any, what: str, where: str) -> float:
    array = _array(value, where)
    if not array.size or not np.all(array == array.flat[0]):
        raise UserError(
            f"{what} differs between neurons of one population", where=where, hint="split it into uniform populations"
        )
    return float(array.flat[0])


def _pair(value: Any) -> tuple[int, int]:
    first, second = np.broadcast_to(np.asarray(value, dtype=np.int64), 2)
    return int(first), int(second)


def _convolution(node: Any, name: str, source: str, reader: _Reader) -> Node:
    if isinstance(node.padding, str | bytes):
        raise UserError(f"padding {node.padding!r}", where=f"node {name}", hint="write the padding as numbers")
    weight, bias = (_array(value, f"node {name}") for value in (node.weight, node.bias))
    return Convolution(
        name,
        name,
        (source,),
        weight,
        bias if bias.any() else None,
        _pair(node.stride),
        _pair(node.padding),
        _pair(node.dilation),
        int(node.groups),
    )


def _dense(node: Any, name: str, source: str, reader: _Reader) -> Node:
    bias = _array(node.bias, f"node {name}") if hasattr(node, "bias") else None
    return Dense(name, name, (source,), _array(node.weight, f"node {name}"), bias)


def _pool(node: Any, name: str, source: str, reader: _Reader) -> Node:
    if _pair(node.padding) != (0, 0):
        raise UserError("pooling with padding cannot be composed exactly", where=f"node {name}")
    return AveragePool(name, name, (source,), _pair(node.kernel_size), _pair(node.stride))


def _sum_pool(node: Any, name: str, source: str, reader: _Reader) -> Node:
    raise UserError("SumPool2d is not read yet", where=f"node {name}", hint="use AvgPool2d and scale the weights")


def _delay(node: Any, name: str, source: str, reader: _Reader) -> Node:
    """Seconds to whole steps, one for each channel; windows that start later make it relative."""
    steps = _array(node.delay, f"node {name}") / reader.how.dt
    whole = np.rint(steps).astype(np.int64)
    if not np.allclose(steps, whole, atol=1e-6):
        raise UserError(f"delays are not whole numbers of --dt {reader.how.dt} s", where=f"node {name}")
    channels = whole.reshape(len(whole), -1)
    if (channels != channels[:, :1]).any():
        raise UserError("delays differ within a channel", where=f"node {name}")
    ahead = _window_ahead(reader, name)
    return Delay(name, name, (source,), channels[:, 0] - ahead)


def _window_ahead(reader: _Reader, name: str) -> int:
    """How much later the window of the neuron behind `name` starts than that of its source (metadata, 0 without)."""
    node = name
    while True:
        after = [b for a, b in reader.found.edges if a == node]
        if not after:
            return 0
        node = after[0]
        kind = type(reader.found.nodes[node]).__name__
        if kind in ("LIF", "IF", "I", "Output"):
            return _start(reader.found.nodes[node]) - reader.starts[name] if kind != "Output" else 0


def _lif(node: Any, name: str, source: str, reader: _Reader) -> Node:
    """v <- v + dt / tau (v_leak - v + r i); a gain g = dt r / tau other than 1 is a threshold divided by g."""
    where = f"node {name}"
    tau = _uniform(node.tau, "tau", where)
    leak = 1 - reader.how.dt / tau if tau else float("nan")
    if not 0 <= leak <= 1:
        raise UserError(f"tau {tau:g} s with --dt {reader.how.dt:g} s gives a leak of {leak:g}", where=where)
    gain = (1 - leak) * _uniform(node.r, "r", where)
    bias = _array(node.v_leak, where) * (1 - leak)
    return _neuron(node, name, source, reader, leak, gain, bias)


def _if(node: Any, name: str, source: str, reader: _Reader) -> Node:
    gain = reader.how.dt * _uniform(node.r, "r", f"node {name}")
    return _neuron(node, name, source, reader, 1.0, gain, np.zeros(1))


def _neuron(node: Any, name: str, source: str, reader: _Reader, leak: float, gain: float, bias: Floats) -> Node:
    where = f"node {name}"
    if node.v_reset is not None and _array(node.v_reset, where).any():
        raise UserError("v_reset is not zero, which Loihi's LIF cannot do", where=where)
    threshold = _uniform(node.v_threshold, "v_threshold", where)
    if gain <= 0:
        raise UserError(f"its gain dt r / tau is {gain:g}, must be positive", where=where)
    if bias.any():
        reader.add_bias(source, bias / gain, where)
    return Neuron(name, name, (source,), np.array([leak]), np.array([threshold / gain]))


def _integrator(node: Any, name: str, source: str, reader: _Reader) -> Node:
    gain = reader.how.dt * _uniform(node.r, "r", f"node {name}")
    if gain <= 0:
        raise UserError(f"its gain dt r is {gain:g}, must be positive", where=f"node {name}")
    return Accumulate(name, name, (source,))  # a common gain does not change which class wins


_RULES: dict[str, Callable[[Any, str, str, _Reader], Node]] = {
    "Conv2d": _convolution,
    "Linear": _dense,
    "Affine": _dense,
    "Flatten": lambda node, name, source, reader: Flatten(name, name, (source,)),
    "AvgPool2d": _pool,
    "SumPool2d": _sum_pool,
    "Delay": _delay,
    "LIF": _lif,
    "IF": _if,
    "I": _integrator,
}
