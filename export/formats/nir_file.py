"""A NIR file as plain data: named nodes with arrays, edges by name, subgraphs dissolved; nothing is interpreted yet.

Reads what NIR 0.1 to 1.0 wrote; the arrays come from `export.hdf5_tree`, so the NIR library itself is not needed.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from export.graph import Floats
from export.hdf5_tree import Tree, read_tree
from train.errors import UserError

NEWEST = (1, 0)  # the format's major and minor version
MAX_NODES = 20_000
INTERFACE = "Interface"  # what the Input or Output of a dissolved subgraph becomes: it hands on what it gets

_Nested: TypeAlias = dict[str, Any]


@dataclass(frozen=True, eq=False)
class NirNode:
    """One node: its name (subgraphs' names in front, with dots), its type, its fields as they are in the file."""

    name: str
    kind: str
    fields: Mapping[str, npt.NDArray[Any]]
    metadata: Mapping[str, npt.NDArray[Any]]

    @property
    def where(self) -> str:
        """How messages name this node."""
        return f"node {self.name}"

    def floats(self, field: str, default: float | None = None) -> Floats:
        """A field of finite numbers as float64; `default` where old files lack it.

        Raises:
            UserError: missing, a text, or not finite.
        """
        if field not in self.fields and default is not None:
            return np.array(default)
        value = self._field(field)
        if value.dtype.kind not in "biuf":
            raise UserError(f"{field} is not numbers", where=self.where)
        if not np.isfinite(value).all():
            raise UserError(f"{field} holds NaN or infinity", where=self.where)
        return value.astype(np.float64)

    def integers(self, field: str, count: int, smallest: int, largest: int = 1 << 20) -> tuple[int, ...]:
        """A field of `count` whole numbers; a single one stands for all.

        Raises:
            UserError: missing, not whole, another count, or out of range.
        """
        value = self.floats(field).reshape(-1)
        if value.size not in (1, count) or not np.array_equal(value, np.rint(value)):
            raise UserError(f"{field} is {_short(value)}, expected {count} whole numbers", where=self.where)
        if value.min() < smallest or value.max() > largest:
            raise UserError(f"{field} is {_short(value)}, allowed {smallest}..{largest}", where=self.where)
        return tuple(int(side) for side in np.broadcast_to(value, count))

    def shape(self, field: str = "shape") -> tuple[int, ...]:
        """A field that is a shape."""
        value = self._field(field)
        return self.integers(field, max(1, value.size), 1, 1 << 24)

    def text(self, field: str) -> str | None:
        """A field's text, None where it is numbers."""
        value = self._field(field)
        return str(value[()]) if value.dtype.kind == "U" and value.ndim == 0 else None

    def start(self) -> int | None:
        """The step at which this node's window starts, in files of this project; None where nothing is said."""
        value = self.metadata.get("start")
        return None if value is None or value.size != 1 or value.dtype.kind not in "iu" else int(value.flat[0])

    def _field(self, field: str) -> npt.NDArray[Any]:
        if field not in self.fields:
            raise UserError(f"has no {field}", where=self.where)
        return self.fields[field]


@dataclass(frozen=True, eq=False)
class NirGraph:
    """Nodes by name and directed edges; no subgraphs, no edge twice, both ends of every edge exist."""

    nodes: dict[str, NirNode]
    edges: tuple[tuple[str, str], ...]

    def sources(self, name: str) -> list[str]:
        """What feeds a node."""
        return [a for a, b in self.edges if b == name]

    def targets(self, name: str) -> list[str]:
        """What a node feeds."""
        return [b for a, b in self.edges if a == name]


def read_file(path: Path) -> NirGraph:
    """The graph of a NIR file.

    Raises:
        UserError: missing, damaged, of a newer format, or its nodes and edges are not a graph.
    """
    nested = _nest(read_tree(path, "a NIR file"))
    _check_version(nested.get("version"))
    root = nested.get("node")
    if not isinstance(root, dict):
        raise UserError("damaged, or not a NIR file: there is no group 'node'")
    kind = _kind(root)
    if kind not in (None, "NIRGraph"):
        raise UserError(f"holds a single node of type {kind!r}, not a graph", hint="wrap it into a NIRGraph")
    graph = _graph(root, "")
    if not graph.nodes:
        raise UserError("its graph has no nodes")
    return graph


def _nest(tree: Tree) -> _Nested:
    nested: _Nested = {}
    for path, array in tree.items():
        *groups, last = path.split("/")
        place = nested
        for group in groups:
            place = place.setdefault(group, {})
        place[last] = array
    return nested


def _check_version(found: Any) -> None:
    if found is None:
        return  # the first versions wrote none, and the NIR library never looks at it
    text = str(found[()]) if isinstance(found, np.ndarray) and found.ndim == 0 else ""
    match = re.match(r"(\d{1,6})\.(\d{1,6})(\D|$)", text)
    if match is None:
        raise UserError(f"version {text[:40]!r} is not a NIR version", hint="expected something like 1.0.8")
    if (int(match[1]), int(match[2])) > NEWEST:
        raise UserError(f"version {text[:40]} of the format, this program reads 0.1 to {NEWEST[0]}.{NEWEST[1]}")


def _kind(group: _Nested) -> str | None:
    found = group.get("type")
    return str(found[()]) if isinstance(found, np.ndarray) and found.dtype.kind == "U" and found.ndim == 0 else None


def _graph(group: _Nested, prefix: str) -> NirGraph:
    """A group with nodes and edges, its subgraphs dissolved."""
    members = group.get("nodes", {})
    place = f"node {prefix[:-1]}" if prefix else ""
    if not isinstance(members, dict):
        raise UserError("nodes is not a group", where=place)
    nodes: dict[str, NirNode] = {}
    edges: list[tuple[str, str]] = []
    doors: dict[tuple[str, str], list[str]] = {}  # (subgraph, Input or Output) -> its nodes of that type
    for name, content in members.items():
        full = f"{prefix}{name}"
        kind = _kind(content) if isinstance(content, dict) else None
        if kind is None:
            raise UserError("has no type", where=f"node {full}", hint="a name must not hold a slash")
        if kind == "NIRGraph":
            inner = _graph(content, f"{full}.")
            edges += inner.edges
            for node in inner.nodes.values():
                if node.kind in ("Input", "Output"):
                    doors.setdefault((full, node.kind), []).append(node.name)
                nodes[node.name] = replace(node, kind=INTERFACE) if node.kind in ("Input", "Output") else node
        else:
            nodes[full] = NirNode(full, kind, _arrays(content), _arrays(content.get("metadata")))
        if len(nodes) > MAX_NODES:
            raise UserError(f"more than {MAX_NODES} nodes", where=place)
    for a, b in _pairs(group, place):
        edges.append((_end(prefix + a, "Output", nodes, doors), _end(prefix + b, "Input", nodes, doors)))
    twice = next((edge for edge, count in Counter(edges).items() if count > 1), None)
    if twice is not None:
        raise UserError(f"the edge from {twice[0]} to {twice[1]} is there twice", hint="one of them has to go")
    return NirGraph(nodes, tuple(edges))


def _arrays(content: Any) -> dict[str, npt.NDArray[Any]]:
    return {k: v for k, v in content.items() if isinstance(v, np.ndarray)} if isinstance(content, dict) else {}


def _end(name: str, kind: str, nodes: Mapping[str, NirNode], doors: Mapping[tuple[str, str], list[str]]) -> str:
    """One end of an edge: a node, or the only input (output) of a subgraph."""
    if name in nodes:
        return name
    found = doors.get((name, kind), [])
    if len(found) == 1:
        return found[0]
    if found:
        raise UserError(
            f"an edge meets a subgraph that has {len(found)} nodes of type {kind}",
            where=f"node {name}",
            hint=f"name one of them in the edge, such as {found[0]}",
        )
    raise UserError(f"an edge ends at {name!r}, which does not exist, or has no {kind}")


def _pairs(group: _Nested, place: str) -> list[tuple[str, str]]:
    edges = group.get("edges")
    if not isinstance(edges, np.ndarray):
        raise UserError("has no edges", where=place)
    if edges.size == 0:
        return []
    if edges.dtype.kind != "U" or edges.ndim != 2 or edges.shape[1] != 2:
        raise UserError(f"edges of shape {edges.shape} and dtype {edges.dtype}, expected pairs of names", where=place)
    return [(str(a), str(b)) for a, b in edges]


def _short(value: npt.NDArray[Any]) -> str:
    return f"{value.tolist()}" if value.size <= 8 else f"{value[:8].tolist()} and more"
