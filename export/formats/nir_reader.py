"""A NIR file to the float graph, under an explicit discretisation; what cannot be read exactly is refused by name.

The file says nothing of time step, integrator or reset, so the caller does (`nir_presets`). Three steps: the file as
plain data (`nir_file`), the order of its nodes and its late edges (`nir_wiring`), and node by node into a graph: the
ends (`nir_ends`), linear nodes (`nir_synapses`), neurons (`nir_neurons`, `nir_drive`), loops (`nir_loops`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from export.formats import nir_loops, nir_synapses
from export.formats.nir_builder import Builder
from export.formats.nir_drive import driven
from export.formats.nir_ends import read_inputs, read_out
from export.formats.nir_file import INTERFACE, NirNode, read_file
from export.formats.nir_neurons import integration, neuron, threshold_neuron
from export.formats.nir_port import Port, reduced
from export.formats.nir_presets import Discretisation
from export.formats.nir_wiring import STATEFUL, wire
from export.graph import Accumulate, Affine, Graph, Node, Shape
from export.network import NO_CROP
from train.errors import UserError

LINEAR: dict[str, Callable[[NirNode, str, Port, Discretisation], Node]] = {
    "Conv1d": nir_synapses.convolution,
    "Conv2d": nir_synapses.convolution,
    "Linear": nir_synapses.dense,
    "Affine": nir_synapses.dense,
    "AvgPool2d": nir_synapses.pool,
    "SumPool2d": nir_synapses.pool,
}
KNOWN = sorted({*LINEAR, *STATEFUL, "Input", "Output", "Flatten", "Scale", "Delay", "NIRGraph"})


def read_nir(path: Path, how: Discretisation) -> Graph:
    """Read a NIR file into a float graph whose windows all start at 0.

    Raises:
        UserError: missing, damaged, an unknown node, or a network that cannot be reproduced exactly; it is named.
    """
    try:
        found = read_file(path)
        for node in found.nodes.values():
            if node.kind not in KNOWN and node.kind != INTERFACE:
                hint = f"known: {', '.join(KNOWN)}"
                raise UserError(f"node of type {node.kind[:40]!r}", where=node.where, hint=hint)
        builder = Builder(found, how, wire(found))
        read_inputs(builder)
        for name in builder.wiring.order:
            _read(builder, found.nodes[name])
        read_out(builder)
        return Graph(path.stem, tuple(builder.nodes), how.steps)
    except UserError as error:
        if error.where.startswith(str(path)):
            raise
        where = f"{path}: {error.where}" if error.where else str(path)
        raise UserError(error.what, where=where, hint=error.hint) from error


def _read(builder: Builder, node: NirNode) -> None:
    """Translate one node whose sources were translated before it."""
    if node.kind == "Input":
        return
    sources = [nir_loops.source(builder, name, node) for name in builder.graph.sources(node.name)]
    if any(source.crop != NO_CROP for source in sources) and (node.kind != "Conv2d" or len(sources) > 1):
        raise UserError("reads a map whose edges are masked, which a Conv2d alone can do", where=node.where)
    port = builder.total(sources, f"{node.name}.sum", node)
    name, how = builder.id(node.name), builder.how
    match node.kind:
        case "Conv1d":
            made = builder.emit(nir_synapses.convolution(node, name, port, how), node.where)
            port = replace(made, declared=(made.shape[0], made.shape[2]))
        case kind if kind in LINEAR:
            port = builder.emit(LINEAR[kind](node, name, port, how), node.where)
        case "Scale":
            scaled = nir_synapses.scale(node, name, port, how, builder.made(port.id))
            if isinstance(scaled, Node):
                port = replace(builder.emit(scaled, node.where), declared=port.declared)
            else:
                port = replace(port, crop=scaled)
        case "Delay":
            ahead = _ahead(builder, node)
            made = builder.emit(nir_synapses.delay(node, name, port, how, ahead), node.where)
            port = replace(made, declared=port.declared)
        case "Flatten":
            port = replace(port, declared=_flattened(node, port.declared))
        case "Threshold":
            made = builder.emit(threshold_neuron(node, name, port, how), node.where)
            port = replace(made, declared=port.declared)
        case kind if kind in STATEFUL:
            port = _integrating(builder, node, port)
        case _:  # Output, or the input or output of a subgraph: it hands on what it gets
            pass
    builder.ports[node.name] = port


def _integrating(builder: Builder, node: NirNode, port: Port) -> Port:
    """A neuron with a membrane potential: one that spikes, or the read-out."""
    step = integration(node, port, builder.how)
    inflow = driven(builder, node, port, step)
    name = builder.id(node.name)
    if node.kind in ("LIF", "IF", "CubaLIF"):
        recurrent = any((node.name, target) in builder.wiring.late for target in builder.graph.targets(node.name))
        made = builder.emit(neuron(node, name, inflow.id, port, builder.how, step, recurrent), node.where)
        return replace(made, declared=port.declared)
    for target in builder.graph.targets(node.name):
        if builder.graph.nodes[target].kind not in ("Output", INTERFACE):
            raise UserError(
                f"hands its membrane potential on to {target}, but neurons on the chip send spikes",
                where=node.where,
                hint="a neuron that does not spike can only be the read-out",
            )
    gain = reduced(step.gain, port.shape)
    if gain.ndim > 1:
        raise UserError("its gain differs within a channel", where=node.where, hint="use one r for each channel")
    if gain.size > 1:  # a gain that all share does not change which class wins
        scaled = Affine(builder.id(f"{node.name}.gain"), node.name, (inflow.id,), gain, np.zeros_like(gain))
        inflow = builder.emit(scaled, node.where)
    leak, current_leak = (reduced(values, port.shape) for values in (step.leak, step.current_leak))
    readout = Accumulate(name, node.name, (inflow.id,), leak=leak, current_leak=current_leak)
    return replace(builder.emit(readout, node.where), declared=port.declared)


def _flattened(node: NirNode, declared: Shape) -> Shape:
    """NIR's shape behind a Flatten; its dimensions leave out the batch axis."""
    first, last = (node.integers(field, 1, -8, 8)[0] for field in ("start_dim", "end_dim"))
    axes = len(declared)
    first, last = (side + axes if side < 0 else side for side in (first, last))
    if not 0 <= first <= axes:
        raise UserError(f"flattens dimensions {first} to {last} of {declared}", where=node.where)
    last = min(last, axes - 1)
    if first > last:
        return declared
    return (*declared[:first], int(np.prod(declared[first : last + 1])), *declared[last + 1 :])


def _ahead(builder: Builder, node: NirNode) -> int:
    """How much later the window behind a Delay starts than the one in front of it; 0 in files of others."""
    return _start_behind(builder, node) - _start_before(builder, node)


def _start_before(builder: Builder, node: NirNode) -> int:
    while node.kind not in (*STATEFUL, "Input"):
        node = builder.graph.nodes[builder.graph.sources(node.name)[0]]
    return node.start() or 0


def _start_behind(builder: Builder, node: NirNode) -> int:
    while node.kind not in (*STATEFUL, "Output"):
        node = builder.graph.nodes[builder.graph.targets(node.name)[0]]
    return node.start() or 0
