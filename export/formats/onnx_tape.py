"""What both ONNX writers share: a list of nodes with names of their own, and values in window time, [T, B, *shape]."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import onnx
from onnx import helper, numpy_helper

from export.connections import NO_CROP, Crop
from train import runs
from train.errors import UserError

OPSET = 17  # of 2022: integer division rounds toward zero since 14, and every runtime of the last years reads it
IR_VERSION = 8  # the file format that came with that opset
MAX_NODES = 200_000  # a runtime takes minutes and gigabytes to load more
MAX_BYTES = 1 << 30  # a protobuf file ends at 2 GiB
EXACT = 1 << 24  # float32 adds whole numbers exactly below it, in any order

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]


class Tape:
    """Collects nodes and constants; every call adds one node and returns the name of its output."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.nodes: list[Any] = []
        self.constants: dict[tuple[object, ...], Any] = {}
        self.bytes = 0

    def __call__(self, operator: str, *inputs: str, **attributes: object) -> str:
        """A node with one output."""
        return self.several(1, operator, *inputs, **attributes)[0]

    def several(self, outputs: int, operator: str, *inputs: str, **attributes: object) -> list[str]:
        """A node with several outputs. Names hold a slash, which ids of populations and graph nodes cannot."""
        if len(self.nodes) >= MAX_NODES:
            raise UserError(
                f"unrolled over its steps it takes more than {MAX_NODES} nodes",
                where=self.where,
                hint="fewer time steps, or another target",
            )
        names = [f"{operator}/{len(self.nodes)}/{index}" for index in range(outputs)]
        self.nodes.append(helper.make_node(operator, inputs, names, **attributes))
        return names

    def name(self, value: str, name: str) -> None:
        """Give a value the name of an output."""
        self.nodes.append(helper.make_node("Identity", [value], [name]))

    def constant(self, value: Array) -> str:
        """A stored array; equal ones are stored once."""
        key = (value.dtype.str, value.shape, value.tobytes())
        if key not in self.constants:
            self.bytes += value.nbytes
            if self.bytes > MAX_BYTES:
                raise UserError(f"its constants take more than {MAX_BYTES} bytes", where=self.where)
            self.constants[key] = numpy_helper.from_array(
                np.ascontiguousarray(value), f"constant/{len(self.constants)}"
            )
        return str(self.constants[key].name)

    def whole(self, *values: int) -> str:
        """Whole numbers as a list, for shapes and axes."""
        return self.constant(np.asarray(values, dtype=np.int64))

    def number(self, value: float, dtype: type[np.generic]) -> str:
        """One number."""
        return self.constant(np.asarray(value, dtype=dtype))

    def cast(self, value: str, to: int) -> str:
        """`value` in another element type (of `onnx.TensorProto`)."""
        return self("Cast", value, to=to)

    def shaped(self, value: str, *shape: int) -> str:
        """`value` in another shape; -1 is the number of samples, or T times it."""
        return self("Reshape", value, self.whole(*shape))

    def for_all(self, value: Array, like: str, steps: int, shape: tuple[int, ...]) -> str:
        """`value`, which broadcasts to [steps, B, *shape], with the B of another tensor."""
        samples = self("Slice", self("Shape", like), self.whole(1), self.whole(2))
        full = self("Concat", self.whole(steps), samples, self.whole(*shape), axis=0)
        return self("Expand", self.constant(value), full)

    def split(self, value: str, steps: int) -> list[str]:
        """[T, B, ...] to T tensors [1, B, ...]."""
        return self.several(steps, "Split", value, self.whole(*[1] * steps), axis=0)

    def swap(self, value: str, axes: int) -> str:
        """[T, B, ...] to [B, T, ...], and back."""
        return self("Transpose", value, perm=[1, 0, *range(2, axes)])


def aligned(tape: Tape, x: str, ahead: Array, shape: tuple[int, ...], steps: int) -> str:
    """x[i + ahead[c], :, c] for each channel c of a float32 [T, B, C, ...], zero outside the window."""
    offsets = [int(offset) for offset in np.unique(ahead)]
    if offsets == [0]:
        return x
    parts = []
    for offset in offsets:
        if abs(offset) >= steps:
            continue  # nothing of the window arrives in it
        first, last = max(0, offset), min(steps, steps + offset)
        part = x
        if offset:
            part = tape("Slice", x, tape.whole(first), tape.whole(last), tape.whole(0))
            before, after = max(0, -offset), max(0, offset)
            rest = [0] * (1 + len(shape))
            part = tape("Pad", part, tape.whole(before, *rest, after, *rest))
        if len(offsets) > 1:
            mask = (ahead == offset).astype(np.float32).reshape(-1, *[1] * (len(shape) - 1))
            part = tape("Mul", part, tape.constant(mask))
        parts.append(part)
    if not parts:
        return tape("Mul", x, tape.number(0, np.float32))
    return parts[0] if len(parts) == 1 else tape("Sum", *parts)


def cropped(tape: Tape, x: str, crop: Crop, shape: tuple[int, ...]) -> str:
    """A float32 [T, B, C, H, W] with zeros in the rows and columns that `crop` names; see `Convolution`."""
    if crop == NO_CROP:
        return x
    (top, bottom), (left, right) = crop
    inside = np.zeros(shape[1:], dtype=np.float32)
    inside[top : shape[1] - bottom, left : shape[2] - right] = 1
    return tape("Mul", x, tape.constant(inside))


def model(
    tape: Tape,
    name: str,
    inputs: tuple[str, int, tuple[int, ...]],
    outputs: Mapping[str, tuple[int, tuple[int, ...]]],
    doc: str,
    metadata: Mapping[str, object],
) -> Any:
    """A checked ModelProto.

    Args:
        inputs: name, element type and shape (T, *shape) of the input; samples come first.
        outputs: the same for each output.
    """

    def info(title: str, kind: int, shape: tuple[int, ...]) -> Any:
        return helper.make_tensor_value_info(title, kind, ["samples", *shape])

    graph = helper.make_graph(
        tape.nodes,
        name,
        [info(*inputs)],
        [info(title, *value) for title, value in outputs.items()],
        list(tape.constants.values()),
        doc_string=doc,
    )
    made = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="spikeproof",
        doc_string=doc,
    )
    helper.set_model_props(made, {key: str(value) for key, value in metadata.items()})
    onnx.checker.check_model(made, full_check=True)
    return made


def write_model(path: Path, made: Any) -> None:
    """Write a model; atomic."""
    with runs.atomic_path(path) as temporary:
        temporary.write_bytes(made.SerializeToString())
