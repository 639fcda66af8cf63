"""What a leak potential adds to a neuron in every step: a bias, and with a synaptic current also a clock."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from export.formats.nir_builder import Builder
from export.formats.nir_file import NirNode
from export.formats.nir_neurons import Integration
from export.formats.nir_port import Port, reduced
from export.graph import Add, Affine, Clock, Convolution, Dense, Floats, Node
from train.errors import UserError


def driven(builder: Builder, node: NirNode, port: Port, step: Integration) -> Port:
    """The input of a neuron with what makes its membrane potential gain `step.drive` in every step.

    Without a current that is the drive d itself; with one that keeps b it is d at step 0 and (1 - b) d later.

    Raises:
        UserError: it differs within a channel, where nothing can carry it.
    """
    if not step.drive.any():
        return port
    constant = reduced((1 - step.current_leak) * step.drive, port.shape)
    once = reduced(step.current_leak * step.drive, port.shape)
    if once.ndim > 1 or (constant.ndim > 1 and once.any()):
        raise UserError("v_leak differs within a channel of a neuron with a current", where=node.where)
    if constant.ndim > 1:
        return _as_bias_map(builder, node, port, constant)
    channels = port.shape[0]
    if constant.any():
        shift = np.broadcast_to(constant, channels).copy()
        made: Node = Affine(builder.id(f"{node.name}.drive"), node.name, (port.id,), np.ones(channels), shift)
        port = replace(builder.emit(made, node.where), declared=port.declared)
    return _first_step(builder, node, port, np.broadcast_to(once, channels)) if once.any() else port


def _as_bias_map(builder: Builder, node: NirNode, port: Port, drive: Floats) -> Port:
    """One value for each neuron: the bias of the convolution in front (the first one of a sum)."""
    places = {made.id: index for index, made in enumerate(builder.nodes)}
    found = builder.nodes[places[port.id]]
    candidates = found.inputs if isinstance(found, Add) else (port.id,)
    for name in candidates:
        synapse = builder.nodes[places[name]]
        users = [made for made in builder.nodes if name in made.inputs and made is not found]
        if isinstance(synapse, Convolution) and not users and len(builder.graph.targets(synapse.origin)) == 1:
            bias = np.zeros(len(synapse.weight)) if synapse.bias is None else synapse.bias
            each = bias if bias.ndim == 3 else bias[:, None, None]
            builder.nodes[places[name]] = replace(synapse, bias=each + drive)
            return port
    raise UserError(
        "v_leak differs within a channel, and there is no convolution in front to carry it as a bias",
        where=node.where,
        hint="use one v_leak for each channel",
    )


def _first_step(builder: Builder, node: NirNode, port: Port, values: Floats) -> Port:
    """Add `values` (C,) at the first step of the window."""
    steps = builder.how.steps
    clock = Clock(builder.id(f"{node.name}.leak_clock"), node.name, (), (steps, *port.shape[1:]))
    builder.emit(clock, node.where)
    weight = np.zeros((len(values), steps))
    weight[:, 0] = values
    name = builder.id(f"{node.name}.leak_first")
    made: Node = Dense(name, node.name, (clock.id,), weight, None)
    if len(port.shape) == 3:
        made = Convolution(name, node.name, (clock.id,), weight[:, :, None, None], None)
    first = builder.emit(made, node.where)
    return builder.total([port, replace(first, declared=port.declared)], f"{node.name}.leak_sum", node)
