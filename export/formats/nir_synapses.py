"""Linear NIR nodes as graph nodes: convolutions, matrices, pooling, scales, delays."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from export.formats.nir_file import NirNode
from export.formats.nir_port import Port, reduced
from export.formats.nir_presets import Discretisation
from export.graph import Affine, AveragePool, Convolution, Delay, Dense, Floats, Node
from export.network import Crop
from export.quantise import rows
from train.errors import UserError

MAX_DELAY = 1 << 20  # steps


def convolution(node: NirNode, name: str, port: Port, how: Discretisation) -> Node:
    """Conv2d, and Conv1d as one of height 1."""
    axes = 1 if node.kind == "Conv1d" else 2
    weight = node.floats("weight")
    if weight.ndim != axes + 2 or not weight.size:
        raise UserError(f"weight of shape {weight.shape}, expected {axes + 2} axes", where=node.where)
    if len(port.declared) != axes + 1:
        raise UserError(
            f"gets an input of shape {port.declared}, expected {axes + 1} axes",
            where=node.where,
            hint="a flattened or batched input cannot be convolved",
        )
    bias = node.floats("bias", 0.0)
    if bias.ndim > 1 or bias.size not in (1, len(weight)):
        raise UserError(f"bias of shape {bias.shape}, expected ({len(weight)},)", where=node.where)
    stride, dilation = (node.integers(field, axes, 1, 4096) for field in ("stride", "dilation"))
    (groups,) = node.integers("groups", 1, 1)
    if len(weight) % groups:
        raise UserError(f"{len(weight)} outputs in {groups} groups", where=node.where)
    mode = node.text("padding")
    if mode is None:
        padding = node.integers("padding", axes, 0, 4096)
    elif mode == "valid":
        padding = (0,) * axes
    elif mode == "same":
        if set(stride) != {1}:
            raise UserError("padding 'same' with a stride", where=node.where, hint="write the padding as numbers")
        weight, padding, dilation = _same(weight, dilation)
    else:
        raise UserError(f"padding {mode!r}, known are 'same', 'valid' and numbers", where=node.where)
    if axes == 1:
        weight = weight[:, :, None]
    return Convolution(
        name,
        node.name,
        (port.id,),
        weight,
        np.broadcast_to(bias, len(weight)).copy() if bias.any() else None,
        _pair(stride, 1),
        _pair(padding, 0),
        _pair(dilation, 1),
        groups,
        crop=port.crop,
    )


def _pair(values: tuple[int, ...], missing: int) -> tuple[int, int]:
    return (missing, values[0]) if len(values) == 1 else (values[0], values[1])


def _same(weight: Floats, dilation: tuple[int, ...]) -> tuple[Floats, tuple[int, ...], tuple[int, ...]]:
    """Padding that keeps the size; an odd total goes to the end (PyTorch), through a kernel with a zero in front."""
    padding, steps = [], []
    for index, step in enumerate(dilation):
        axis = index + 2
        total = step * (weight.shape[axis] - 1)
        if total % 2:
            spread = np.zeros((*weight.shape[:axis], total + 2, *weight.shape[axis + 1 :]))
            spread[(slice(None),) * axis + (slice(1, None, step),)] = weight
            weight, step, total = spread, 1, total + 1
        padding.append(total // 2)
        steps.append(step)
    return weight, tuple(padding), tuple(steps)


def dense(node: NirNode, name: str, port: Port, how: Discretisation) -> Node:
    """Affine and Linear, on an input read in C order."""
    weight = node.floats("weight")
    if weight.ndim != 2 or not weight.size:
        raise UserError(f"weight of shape {weight.shape}, expected (outputs, inputs)", where=node.where)
    if weight.shape[1] != port.size:
        raise UserError(
            f"gets an input of shape {port.declared}, its weight is {weight.shape}",
            where=node.where,
            hint="flatten before it; and write the file with a sample of batch size 1",
        )
    bias = node.floats("bias", 0.0)
    if bias.ndim > 1 or bias.size not in (1, len(weight)):
        raise UserError(f"bias of shape {bias.shape}, expected ({len(weight)},)", where=node.where)
    return Dense(name, node.name, (port.id,), weight, np.broadcast_to(bias, len(weight)).copy() if bias.any() else None)


def pool(node: NirNode, name: str, port: Port, how: Discretisation) -> Node:
    """AvgPool2d (padding counts as zeros, PyTorch's default) and SumPool2d."""
    kernel = node.integers("kernel_size", 2, 1, 4096)
    stride = node.integers("stride", 2, 1, 4096) if "stride" in node.fields else kernel
    padding = node.integers("padding", 2, 0, 4096) if "padding" in node.fields else (0, 0)
    if len(port.declared) != 3:
        raise UserError(f"gets an input of shape {port.declared}, expected (C, H, W)", where=node.where)
    if any(2 * p > k for p, k in zip(padding, kernel, strict=True)):
        raise UserError(f"padding {padding} is more than half of the window {kernel}", where=node.where)
    return AveragePool(
        name,
        node.name,
        (port.id,),
        _pair(kernel, 1),
        _pair(stride, 1),
        _pair(padding, 0),
        1 if node.kind == "SumPool2d" else None,
    )


def scale(node: NirNode, name: str, port: Port, how: Discretisation, source: Node | None) -> Node | Crop:
    """y = s x for each channel; a bias s b for each neuron where x is the bias b of a convolution without weights; or
    what a mask of zeros at the edges and ones inside leaves to a convolution."""
    values = reduced(port.spread(node.floats("scale"), "scale", node.where), port.shape)
    if isinstance(source, Convolution) and source.bias is not None and not source.weight.any():
        bias: Floats = np.broadcast_to(rows(source.bias, 3) * rows(values, 3), port.shape).copy()
        return replace(source, id=name, origin=node.name, bias=bias)
    if values.ndim > 1:
        crop = _mask(values)
        if crop is None or len(port.declared) != 3:
            raise UserError(
                "scale differs within a channel",
                where=node.where,
                hint="multiply the weights of the layer behind it, or flatten and use an Affine",
            )
        return crop
    channels = port.shape[0]
    return Affine(name, node.name, (port.id,), np.broadcast_to(values, channels).copy(), np.zeros(channels))


def _mask(values: Floats) -> Crop | None:
    """The edges that are zero, where all inside them is one."""
    rows, columns = np.flatnonzero(values.any(axis=(0, 2))), np.flatnonzero(values.any(axis=(0, 1)))
    inside = np.zeros(values.shape)
    inside[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = 1
    if not np.array_equal(values, inside):
        return None
    height, width = values.shape[1:]
    return (int(rows[0]), int(height - 1 - rows[-1])), (int(columns[0]), int(width - 1 - columns[-1]))


def delay(node: NirNode, name: str, port: Port, how: Discretisation, ahead: int) -> Node:
    """Seconds to whole steps, one for each channel; `ahead`: how much later the window behind it starts."""
    steps = port.spread(node.floats("delay"), "delay", node.where) / how.dt
    whole = np.rint(steps)
    if steps.min() < 0 or steps.max() > MAX_DELAY:
        raise UserError(f"delays of {steps.min():g} to {steps.max():g} steps of --dt {how.dt:g} s", where=node.where)
    if not np.allclose(steps, whole, rtol=1e-9, atol=1e-6):
        worst = float(steps.flat[int(np.abs(steps - whole).argmax())])
        raise UserError(
            f"a delay of {worst * how.dt:g} s is {worst:g} steps of --dt {how.dt:g} s, not a whole number",
            where=node.where,
            hint="round the delays in the file, or choose a --dt that divides them",
        )
    channels = whole.reshape(len(whole), -1).astype(np.int64)
    if (channels != channels[:, :1]).any():
        raise UserError("delays differ within a channel", where=node.where, hint="use one delay for each channel")
    return Delay(name, node.name, (port.id,), channels[:, 0] - ahead)
