"""The graph under construction while a NIR file is read: nodes so far, their shapes, and safe unique ids."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace

from export.formats.nir_file import NirGraph, NirNode
from export.formats.nir_port import Port, graph_shape
from export.formats.nir_presets import Discretisation
from export.formats.nir_wiring import Wiring
from export.graph import Add, Node, Shape, output_shape
from train.errors import UserError

LONGEST_ID = 100


@dataclass
class Builder:
    """Nodes in order; `ports` maps a NIR node's name to what it hands on."""

    graph: NirGraph
    how: Discretisation
    wiring: Wiring
    nodes: list[Node] = field(default_factory=list)
    shapes: dict[str, Shape] = field(default_factory=dict)
    ports: dict[str, Port] = field(default_factory=dict)
    _ids: dict[str, str] = field(default_factory=dict)

    def id(self, name: str) -> str:
        """The graph id of a NIR name: made of letters, digits, '_', '.', '-', unique, the same every time."""
        if name not in self._ids:
            safe = re.sub(r"[^A-Za-z0-9_.-]", "_", name)[:LONGEST_ID] or "node"
            safe = safe if safe[0] not in ".-" else f"n{safe}"
            taken, count, unique = set(self._ids.values()), 1, safe
            while unique in taken:
                count += 1
                unique = f"{safe}_{count}"
            self._ids[name] = unique
        return self._ids[name]

    def made(self, name: str) -> Node | None:
        """The graph node of this id; None for an input, which is made apart."""
        return next((node for node in self.nodes if node.id == name), None)

    def emit(self, made: Node, where: str) -> Port:
        """Append a graph node.

        Raises:
            UserError: its shape does not fit what it reads, has an empty side, or is too large.
        """
        try:
            shape = output_shape(made, [self.shapes[name] for name in made.inputs])
        except UserError as error:
            raise UserError(error.what, where=where, hint=error.hint) from error
        if min(shape) < 1:
            raise UserError(f"its output has shape {shape}", where=where)
        graph_shape(shape, where)
        self.nodes.append(made)
        self.shapes[made.id] = shape
        return Port(made.id, shape, shape)

    def total(self, ports: list[Port], name: str, node: NirNode) -> Port:
        """The sum of what several edges bring; one needs no sum.

        Raises:
            UserError: their shapes differ.
        """
        if len(ports) == 1:
            return ports[0]
        for port in ports:
            if port.shape != ports[0].shape:
                raise UserError(
                    f"adds values of shapes {ports[0].shape} and {port.shape}",
                    where=node.where,
                    hint="a join needs the same shape on all its edges",
                )
        port = self.emit(Add(self.id(name), node.name, tuple(port.id for port in ports)), node.where)
        return replace(port, declared=ports[0].declared)
