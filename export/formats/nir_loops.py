"""Recurrent edges: the spikes of the step before, unless a delay in the file says how late they are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from export.formats.nir_builder import Builder
from export.formats.nir_file import NirNode
from export.formats.nir_port import Port, graph_shape
from export.formats.nir_wiring import STATEFUL
from export.graph import Delay, Feedback
from train.errors import UserError


def source(builder: Builder, name: str, node: NirNode) -> Port:
    """What the node called `name` hands on to `node`.

    Raises:
        UserError: a delay in a loop where NIR does not say what the loop's own step is.
    """
    if (name, node.name) not in builder.wiring.late:
        return builder.ports[name]
    sender = builder.graph.nodes[name]
    port = _expected(builder, sender)
    feedback = Feedback(builder.id(f"{name}.feedback.{node.name}"), name, (), builder.id(name), port.shape)
    port = replace(builder.emit(feedback, node.where), declared=port.declared)
    if node.kind == "Delay":
        if float(node.floats("delay").min()) < builder.how.dt:
            raise UserError(f"a delay in a loop must be at least one step of {builder.how.dt:g} s", where=node.where)
        return port
    _check_no_delay(builder, node)
    one = np.ones(port.shape[0], dtype=np.int64)
    late = builder.emit(Delay(builder.id(f"{name}.late.{node.name}"), name, (port.id,), one), node.where)
    return replace(late, declared=port.declared)


def _check_no_delay(builder: Builder, node: NirNode) -> None:
    """No Delay between `node` and the next neuron."""
    waiting, seen = [node], {node.name}
    while waiting:
        current = waiting.pop()
        if current.kind == "Delay":
            raise UserError(
                "a delay within a loop: NIR does not say whether the loop's own step comes on top",
                where=current.where,
                hint="put it right behind the neuron, where it is all the time that the loop takes",
            )
        if current.kind not in STATEFUL:
            for target in builder.graph.targets(current.name):
                if target not in seen:
                    seen.add(target)
                    waiting.append(builder.graph.nodes[target])


def _expected(builder: Builder, sender: NirNode) -> Port:
    """The port of a neuron that comes later: the shape of what drives it, or that of its parameters."""
    for name in builder.graph.sources(sender.name):
        if name in builder.ports and (name, sender.name) not in builder.wiring.late:
            return builder.ports[name]
    declared = sender.floats("threshold" if sender.kind == "Threshold" else "v_threshold").shape
    return Port("", graph_shape(declared, sender.where), declared)
