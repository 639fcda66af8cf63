"""NIR files in the layouts of older versions of the NIR library, written by hand from graphs of today's.

What the versions wrote differs in this: 0.2 has a version and the shape that a Flatten gets, 1.0.0 what a convolution
gets and the w_in of a CubaLIF, 1.0.6 the v_reset of all neurons. The order of fields is theirs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import nir
import numpy as np

VERSIONS = ("0.1.0", "0.2.0", "1.0.0")
CONVOLUTION = ("weight", "stride", "padding", "dilation", "groups", "bias")
FIELDS: dict[str, tuple[str, ...]] = {
    "Affine": ("weight", "bias"),
    "Conv1d": CONVOLUTION,
    "Conv2d": CONVOLUTION,
    "CubaLIF": ("tau_mem", "tau_syn", "r", "v_leak", "v_threshold"),
    "Delay": ("delay",),
    "Flatten": ("start_dim", "end_dim"),
    "I": ("r",),
    "IF": ("r", "v_threshold"),
    "LI": ("tau", "r", "v_leak"),
    "LIF": ("tau", "r", "v_leak", "v_threshold"),
    "Linear": ("weight",),
    "Scale": ("scale",),
    "SumPool2d": ("kernel_size", "stride", "padding"),  # since 1.0.0
    "Threshold": ("threshold",),
}


def write(path: Path, graph: nir.NIRGraph, version: str) -> None:
    """Write `graph` as the library of this version did; what that had no field for is lost."""
    with h5py.File(path, "w") as file:
        _write_group(file.create_group("node"), _fields(graph, VERSIONS.index(version)))
        if version != "0.1.0":
            file.create_dataset("version", data=version)


def _fields(node: Any, version: int) -> dict[str, Any]:
    kind = type(node).__name__
    if kind == "NIRGraph":
        return {
            "type": kind,
            "nodes": {name: _fields(inner, version) for name, inner in node.nodes.items()},
            "edges": node.edges,
        }
    if kind in ("Input", "Output"):
        return {"type": kind, "shape": node.input_type["input"] if kind == "Input" else node.output_type["output"]}
    found = {"type": kind, **{name: getattr(node, name) for name in FIELDS[kind]}}
    if kind == "Flatten" and version >= 1:
        found["input_type"] = node.input_type["input"]
    if kind == "CubaLIF" and version >= 2:
        found["w_in"] = node.w_in
    if kind in ("Conv1d", "Conv2d") and version >= 2:
        found["input_shape"] = node.input_shape
    return found


def _write_group(group: h5py.Group, fields: dict[str, Any]) -> None:
    for name, value in fields.items():
        if isinstance(value, str):
            group.create_dataset(name, data=value, dtype=h5py.string_dtype())
        elif isinstance(value, dict):
            _write_group(group.create_group(name), value)
        else:
            group.create_dataset(name, data=value, dtype=value.dtype if isinstance(value, np.ndarray) else None)
