"""The float model as ONNX (opset 17): the graph after the exact passes, in float32 and in window time.

Input: raw values, float32 [samples, T, *shape]. Outputs, named after the graph's nodes: spikes of every neuron layer,
float32 of 0 and 1, and the read-out's membrane potential, [samples, T, ...]; its last step over T is the mean of the
model's answers. Sums are float32 in the order the runtime likes, so a potential within rounding of its threshold may
fall on the other side of it: this file is the model as far as float32 goes, the integer network is the exact one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto

from export.formats.onnx_tape import Array, Tape, aligned, cropped, model, write_model
from export.graph import Accumulate, Add, Clock, Convolution, Delay, Dense, Feedback, Floats, Graph, Input, Neuron, Node
from export.quantise import rows
from train.errors import UserError


def write_float_onnx(path: Path, graph: Graph) -> None:
    """Write a graph whose windows all start at 0; atomic.

    Raises:
        UserError: a node that the exact passes leave to nobody, or a model that is too large; it is named.
    """
    write_model(path, to_float_onnx(graph))


def to_float_onnx(graph: Graph) -> Any:
    """The ModelProto of a graph after the last exact pass, checked by `onnx.checker`."""
    tape = Tape(f"model {graph.name}")
    values: dict[str, str] = {}
    outputs: dict[str, tuple[int, tuple[int, ...]]] = {}
    for node in graph.nodes:
        shape = graph.shapes[node.id]
        inputs = [values[name] for name in node.inputs]
        values[node.id] = _value(tape, node, inputs, graph)
        if isinstance(node, Neuron | Accumulate):
            tape.name(tape.swap(values[node.id], 2 + len(shape)), node.id)
            outputs[node.id] = (TensorProto.FLOAT, (graph.steps, *shape))
    source = graph.nodes[0]
    return model(
        tape,
        graph.name,
        (source.id, TensorProto.FLOAT, (graph.steps, *graph.shapes[source.id])),
        outputs,
        "A spiking network in float32, unrolled over its window. Spikes of every layer (0 or 1) and the membrane "
        "potential of the read-out, [samples, T, ...]; the latter's last step over T is the answer.",
        {"steps": graph.steps},
    )


def _value(tape: Tape, node: Node, inputs: list[str], graph: Graph) -> str:
    """float32 [T, B, *shape] of one node."""
    shape, steps = graph.shapes[node.id], graph.steps
    match node:
        case Input():
            return tape.swap(node.id, 2 + len(shape))
        case Clock():
            ticks = np.eye(steps, dtype=np.float32).reshape(steps, 1, -1, *[1] * (len(shape) - 1))
            return tape.for_all(ticks, graph.nodes[0].id, steps, shape)
        case Convolution():
            before = graph.shapes[node.inputs[0]]
            x = tape.shaped(cropped(tape, inputs[0], node.crop, before), -1, *before)
            pads = [*node.padding, *node.padding]
            weight = tape.constant(node.weight.astype(np.float32))
            out = tape("Conv", x, weight, group=node.groups, strides=node.stride, pads=pads, dilations=node.dilation)
            return _biased(tape, tape.shaped(out, steps, -1, *shape), node.bias, shape)
        case Dense():
            x = tape.shaped(inputs[0], -1, node.weight.shape[1])
            out = tape("MatMul", x, tape.constant(node.weight.T.astype(np.float32)))
            return _biased(tape, tape.shaped(out, steps, -1, *shape), node.bias, shape)
        case Add():
            return tape("Sum", *inputs)
        case Delay():
            return aligned(tape, inputs[0], -node.steps, shape, steps)
        case Neuron():
            current = _leaky(tape, inputs[0], rows(node.current_leak, len(shape)), steps)
            return _spikes(tape, current, node, shape, steps)
        case Accumulate():
            current = _leaky(tape, inputs[0], rows(node.current_leak, len(shape)), steps)
            return _leaky(tape, current, rows(node.leak, len(shape)), steps)
        case Feedback():
            raise UserError("a recurrent network cannot be unrolled layer by layer", where=node.where)
    raise UserError("ONNX has no such node here", where=node.where, hint="the exact passes should have removed it")


def _biased(tape: Tape, value: str, bias: Array | None, shape: tuple[int, ...]) -> str:
    if bias is None:
        return value
    full = bias if bias.ndim == len(shape) else bias.reshape(-1, *[1] * (len(shape) - 1))
    return tape("Add", value, tape.constant(full.astype(np.float32)))


def _leaky(tape: Tape, x: str, leak: Floats, steps: int) -> str:
    """y <- leak y + x, every step of it."""
    if not leak.any():
        return x
    states: list[str] = []
    for part in tape.split(x, steps):
        states.append(tape("Add", _decayed(tape, states[-1], leak), part) if states else part)
    return tape("Concat", *states, axis=0)


def _decayed(tape: Tape, state: str, leak: Floats) -> str:
    return state if (leak == 1).all() else tape("Mul", state, tape.constant(leak.astype(np.float32)))


def _spikes(tape: Tape, current: str, node: Neuron, shape: tuple[int, ...], steps: int) -> str:
    """Spikes of a neuron as 0 and 1."""
    leak, threshold = rows(node.leak, len(shape)), tape.constant(rows(node.threshold, len(shape)).astype(np.float32))
    spikes, left = [], ""
    for x in tape.split(current, steps):
        v = tape("Add", _decayed(tape, left, leak), x) if left else x
        fired = tape("Greater", v, threshold)
        spikes.append(tape.cast(fired, TensorProto.FLOAT))
        after = tape.number(0, np.float32) if node.reset == "zero" else tape("Sub", v, threshold)
        left = tape("Where", fired, after, v)
    return tape("Concat", *spikes, axis=0)
