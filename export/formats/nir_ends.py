"""The ends of a NIR graph: its inputs as one population, its outputs as one read-out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from export.formats.nir_builder import Builder
from export.formats.nir_port import Port, graph_shape
from export.graph import Accumulate, Add, Convolution, Dense, Input, Node
from train.errors import UserError

MAX_SUMMED = 2048  # values of all outputs together


def read_inputs(builder: Builder) -> None:
    """One input population; several inputs are its channels, in the order of their names.

    Raises:
        UserError: an impossible shape, or maps of different sizes.
    """
    nodes = [node for _, node in sorted(builder.graph.nodes.items()) if node.kind == "Input"]
    declared = [node.shape() for node in nodes]
    shapes = [graph_shape(shape, node.where) for shape, node in zip(declared, nodes, strict=True)]
    how = builder.how
    if len(nodes) == 1:
        made = Input(builder.id(nodes[0].name), nodes[0].name, (), shapes[0], how.levels)
        builder.ports[nodes[0].name] = replace(builder.emit(made, nodes[0].where), declared=_inner(declared[0]))
        return
    for node, shape in zip(nodes, shapes, strict=True):
        if shape[1:] != shapes[0][1:]:
            raise UserError(
                f"inputs of shapes {shapes[0]} and {shape} cannot be the channels of one population",
                where=node.where,
                hint="several inputs must agree in all but their channels",
            )
    channels = [shape[0] for shape in shapes]
    total = (sum(channels), *shapes[0][1:])
    names = ", ".join(node.name for node in nodes)
    everything = builder.emit(Input(builder.id("inputs"), names, (), total, how.levels), names)
    for index, node in enumerate(nodes):
        first = sum(channels[:index])
        chosen = np.eye(total[0])[first : first + channels[index]]
        select: Node = Dense(builder.id(node.name), node.name, (everything.id,), chosen, None)
        if len(total) == 3:
            select = Convolution(select.id, node.name, (everything.id,), chosen[:, :, None, None], None)
        builder.ports[node.name] = replace(builder.emit(select, node.where), declared=_inner(declared[index]))


def _inner(declared: tuple[int, ...]) -> tuple[int, ...]:
    """Without the batch axis that some writers leave in front of a shape."""
    return declared[1:] if len(declared) > 3 else declared


def read_out(builder: Builder) -> None:
    """The last node: what feeds the outputs, summed over the window; several outputs follow each other by name.

    Raises:
        UserError: more values than can be summed, or several outputs of which one leaks.
    """
    outputs = [node for _, node in sorted(builder.graph.nodes.items()) if node.kind == "Output"]
    ports = [builder.ports[node.name] for node in outputs]
    made = {node.id: node for node in builder.nodes}
    if len(ports) == 1:
        final = made[ports[0].id]
        if isinstance(final, Accumulate):
            builder.nodes.remove(final)
            builder.nodes.append(final)  # the answer comes last
        elif isinstance(final, Dense):
            builder.emit(Accumulate(builder.id("readout"), final.origin, (final.id,)), outputs[0].where)
        else:
            _summed(builder, ports)
        return
    for node, port in zip(outputs, ports, strict=True):
        final = made[port.id]
        if isinstance(final, Accumulate):
            if (final.leak != 1).any() or final.current_leak.any():
                raise UserError(
                    "one of several outputs is a leaky integrator",
                    where=node.where,
                    hint="several outputs are summed over the window: use I, or one output",
                )
            if final in builder.nodes:
                builder.nodes.remove(final)  # the sum of all outputs takes its place
            ports[ports.index(port)] = replace(port, id=final.inputs[0])
    _summed(builder, ports)


def _summed(builder: Builder, ports: list[Port]) -> None:
    sizes = [port.size for port in ports]
    if sum(sizes) > MAX_SUMMED:
        raise UserError(
            f"its outputs have {sum(sizes)} values, limit {MAX_SUMMED}", hint="end the network with fewer outputs"
        )
    parts: list[str] = []
    origin = ""
    for index, port in enumerate(ports):
        rows = np.eye(sum(sizes))[:, sum(sizes[:index]) : sum(sizes[: index + 1])]
        origin = next(node.origin for node in builder.nodes if node.id == port.id)
        part = Dense(builder.id("count" if index == 0 else f"count{index}"), origin, (port.id,), rows.copy(), None)
        parts.append(builder.emit(part, part.where).id)
    if len(parts) > 1:
        parts = [builder.emit(Add(builder.id("outputs"), "", tuple(parts)), "outputs").id]
    builder.emit(Accumulate(builder.id("readout"), origin, (parts[0],)), "readout")
