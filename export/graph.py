"""The float graph: what a trained model or a NIR file means, before integers.

About ten kinds of frozen nodes, each with a stable id and its origin (module path or NIR node). Arrays are float64;
shapes leave out T and B. Time is discrete: a sample is a window of `steps` steps, and every value outside its window
is zero. Until retiming all windows start at 0 and synapses take no time; after it, a node's window starts at `start`
machine steps and every convolution or dense costs `synapse_steps`.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, count
from typing import ClassVar, TypeAlias

import numpy as np
import numpy.typing as npt

from export.connections import NO_CROP, Crop
from export.programs import RESETS, Reset
from export.quantise import rows
from train.errors import UserError
from train.quantise.coding import InputCoding

Floats: TypeAlias = npt.NDArray[np.float64]
Shape: TypeAlias = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Node:
    """What all nodes have: a unique id, the place it comes from, and the ids of its inputs."""

    id: str
    origin: str
    inputs: tuple[str, ...]

    @property
    def where(self) -> str:
        """How messages name this node."""
        return f"{type(self).__name__} {self.origin or self.id}"

    def check(self, shape: Shape) -> None:
        """Raise UserError where an input of this shape does not fit: for nodes whose output has their input's shape."""


@dataclass(frozen=True, eq=False)
class Input(Node):
    """Raw integer values in [0, levels], shape (C, H, W); its output is what `coding` makes of them, None: as they are.

    Once its coding is chosen, outputs have one channel for each slice of a raw one.
    """

    shape: Shape
    levels: int
    start: int = 0
    coding: InputCoding | None = None

    @property
    def bits(self) -> int:
        """Of a raw value."""
        return max(1, self.levels.bit_length())


@dataclass(frozen=True, eq=False)
class Affine(Node):
    """y = scale x + shift for each channel; both (C,). Batch norm at evaluation, input normalisation."""

    scale: Floats
    shift: Floats


@dataclass(frozen=True, eq=False)
class Convolution(Node):
    """2-D cross-correlation: weight (O, I / groups, kH, kW), bias (O,) or one for each neuron (O, H, W), or None.

    `exponent`: that of the integer weights where training chose it, None where quantisation is to choose.
    `crop`: rows (top, bottom) and columns (left, right) of its source that it reads as zeros; sizes stay as they are.
    """

    weight: Floats
    bias: Floats | None
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    exponent: int | None = None
    crop: Crop = NO_CROP


@dataclass(frozen=True, eq=False)
class Dense(Node):
    """y = weight x + bias: weight (O, I), x flattened in C order, bias (O,) or None; `exponent` as above."""

    weight: Floats
    bias: Floats | None
    exponent: int | None = None


@dataclass(frozen=True, eq=False)
class AveragePool(Node):
    """Sums over windows of a map padded with zeros, over `divisor` (None: the window's size, so that it is a mean).

    Windows that would overhang are left out, as in PyTorch. Sum pooling has divisor 1.
    """

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int] = (0, 0)
    divisor: int | None = None


@dataclass(frozen=True, eq=False)
class Flatten(Node):
    """(C, H, W) to (C * H * W,), in C order."""


@dataclass(frozen=True, eq=False)
class Add(Node):
    """Sum of all inputs."""


@dataclass(frozen=True, eq=False)
class Clock(Node):
    """It tells the time: neuron (t, ...) of `shape` (T, ...) sends one spike, at step t of each window; no inputs.

    A weight from neuron t is what some later node gets at step t only: a bias that varies within the window.
    """

    shape: Shape
    start: int = 0


@dataclass(frozen=True, eq=False)
class Neuron(Node):
    """I <- current_leak I + x; V <- leak V + I; spike when V > threshold; then V <- 0, or V <- V - threshold.

    I and V are 0 when the window starts; `reset` says which of the two a spike does ("zero", "subtract").
    `leak`, `threshold` and `current_leak` are arrays (1,), (C,), or of as many axes as the output and broadcasting to
    it; a number may be given for one value. A current leak of 0 is a neuron without synaptic current, I = x.
    `scale` (C,): units of a_in per unit of V where training chose them, None where quantisation is to choose.
    """

    leak: Floats
    threshold: Floats
    start: int = 0
    scale: Floats | None = None
    current_leak: Floats = field(default_factory=lambda: np.zeros(1))
    reset: Reset = "zero"

    def __post_init__(self) -> None:
        for name in ("leak", "threshold", "current_leak"):
            object.__setattr__(self, name, np.atleast_1d(np.asarray(getattr(self, name), dtype=np.float64)))

    @property
    def has_current(self) -> bool:
        """Whether its synaptic current has a memory."""
        return bool(self.current_leak.any())


@dataclass(frozen=True, eq=False)
class Accumulate(Node):
    """The read-out: I <- current_leak I + x; V <- leak V + I over the window; its output is V.

    With the usual leak of 1 and no current the mean over T is V at the last step, over T. Arrays and `scale` as in
    `Neuron`.
    """

    start: int = 0
    scale: Floats | None = None
    leak: Floats = field(default_factory=lambda: np.ones(1))
    current_leak: Floats = field(default_factory=lambda: np.zeros(1))

    @property
    def has_current(self) -> bool:
        """Whether its synaptic current has a memory."""
        return bool(self.current_leak.any())


@dataclass(frozen=True, eq=False)
class Delay(Node):
    """y[t, c] = x[t - steps[c], c], zero outside the window; steps int64 (C,), negative ones look ahead."""

    steps: npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Feedback(Node):
    """The spikes of the neuron `of`, at the same step, for a node that stands before it: how a graph says a loop.

    It has no inputs. Somewhere around its loop there must be time: a delay, or synapses that take steps.
    """

    of: str
    shape: Shape


@dataclass(frozen=True, eq=False)
class TemporalShift(Node):
    """x + alpha z, where z sees t + 1 in channels [0, future), t - 1 in [future, past), t in the rest (TS-SNN)."""

    alpha: float
    future: int
    past: int


@dataclass(frozen=True, eq=False)
class Gating(Node):
    """What all attention has: y = x gain, a gain that the sample decides; the kinds are in `export.attention`.

    start: when the window of x begins; sends: when that of y does, after retiming. `waits`: not before x has ended.
    """

    start: int = field(default=0, kw_only=True)
    sends: int = field(default=0, kw_only=True)
    waits: ClassVar[bool] = True


Synapse: TypeAlias = Convolution | Dense
Spiking: TypeAlias = Input | Clock | Neuron | Gating  # what sends events into synapses
Driven: TypeAlias = Neuron | Accumulate | Gating  # what adds up currents
Windowed: TypeAlias = Input | Clock | Neuron | Accumulate | Gating


@dataclass(frozen=True, eq=False)
class Graph:
    """Nodes in an order in which inputs come first; `Feedback` alone looks ahead. The last node is the answer.

    Raises:
        UserError: an id twice, an input that is not there or comes later, a shape that does not fit, a leak outside
            0..1, a clock of another window, feedback of what is no neuron.
    """

    name: str
    nodes: tuple[Node, ...]
    steps: int
    synapse_steps: int = 0
    shapes: dict[str, Shape] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        shapes: dict[str, Shape] = {}
        for node in self.nodes:
            if node.id in shapes:
                raise UserError(f"two nodes have the id {node.id!r}", where=self.name)
            missing = [name for name in node.inputs if name not in shapes]
            if missing:
                raise UserError(f"input {missing[0]!r} does not exist, or comes later", where=node.where)
            shapes[node.id] = output_shape(node, [shapes[name] for name in node.inputs])
            if isinstance(node, Clock) and node.shape[0] != self.steps:
                raise UserError(f"tells {node.shape[0]} steps, the window has {self.steps}", where=node.where)
        neurons = {node.id for node in self.nodes if isinstance(node, Neuron)}
        for node in self.nodes:
            if isinstance(node, Feedback) and (node.of not in neurons or shapes[node.of] != node.shape):
                raise UserError(
                    f"feedback of {node.of!r}: there is no neuron with shape {node.shape}", where=node.where
                )
        object.__setattr__(self, "shapes", shapes)

    def __getitem__(self, node_id: str) -> Node:
        for node in self.nodes:
            if node.id == node_id:
                return node
        raise KeyError(node_id)

    def consumers(self, node_id: str) -> tuple[Node, ...]:
        """The nodes that take this node's output."""
        return tuple(node for node in self.nodes if node_id in node.inputs)

    def only_consumer(self, node: Node) -> Node | None:
        """The one node that takes this node's output, None when there is none or several."""
        consumers = self.consumers(node.id)
        return consumers[0] if len(consumers) == 1 else None

    def windowed(self) -> Iterator[Windowed]:
        """The nodes that have a window of their own: input, clocks, neurons, read-out."""
        for node in self.nodes:
            if isinstance(node, Windowed):
                yield node

    def with_nodes(self, nodes: Sequence[Node]) -> Graph:
        """The same graph with other nodes."""
        return replace(self, nodes=tuple(nodes))


def sends(node: Windowed) -> int:
    """The machine step at which a node's output begins."""
    return node.sends if isinstance(node, Gating) else node.start


def rewire(node: Node, old: str, new: str) -> Node:
    """`node` with its input `old` replaced by `new`."""
    return replace(node, inputs=tuple(new if name == old else name for name in node.inputs))


def fresh(name: str, taken: Container[str]) -> str:
    """`name`, or with a number behind it where it is taken."""
    return next(free for free in chain([name], (f"{name}.{n}" for n in count(2))) if free not in taken)


def summands(nodes: Mapping[str, Node], node: Node) -> list[str]:
    """The ids of what `node` adds up, sums of sums taken apart; of a node that is no sum its own."""
    if not isinstance(node, Add):
        return [node.id]
    return [name for source in node.inputs for name in summands(nodes, nodes[source])]


def output_shape(node: Node, inputs: Sequence[Shape]) -> Shape:
    """The shape of a node's output for the shapes of its inputs.

    Raises:
        UserError: the shapes do not fit; the message names the node.
    """
    shape = _shape(node, inputs)
    if min(shape, default=0) < 1:
        raise UserError(f"nothing is left of an input of {inputs[:1]}: its output is {shape}", where=node.where)
    return shape


def _shape(node: Node, inputs: Sequence[Shape]) -> Shape:
    if isinstance(node, Input):
        return node.coding.sent_shape(node.shape) if node.coding else node.shape
    if isinstance(node, Clock | Feedback):
        return node.shape
    if not inputs or (len(inputs) > 1 and not isinstance(node, Add)):
        raise UserError(f"{len(inputs)} inputs", where=node.where)
    shape = inputs[0]
    match node:
        case Convolution():
            if len(shape) != 3 or shape[0] != node.weight.shape[1] * node.groups:
                raise UserError(f"input {shape} does not fit weight {node.weight.shape}", where=node.where)
            if any(sum(node.crop[i]) > shape[i + 1] or min(node.crop[i]) < 0 for i in (0, 1)):
                raise UserError(f"crop {node.crop} of an input {shape}", where=node.where)
            sides = [
                (shape[i + 1] + 2 * node.padding[i] - node.dilation[i] * (node.weight.shape[i + 2] - 1) - 1)
                // node.stride[i]
                + 1
                for i in (0, 1)
            ]
            return node.weight.shape[0], sides[0], sides[1]
        case Dense():
            if int(np.prod(shape)) != node.weight.shape[1]:
                raise UserError(f"input {shape} does not fit weight {node.weight.shape}", where=node.where)
            return (node.weight.shape[0],)
        case AveragePool():
            if len(shape) != 3:
                raise UserError(f"input {shape}, expected (C, H, W)", where=node.where)
            return shape[0], *(
                (shape[i + 1] + 2 * node.padding[i] - node.kernel[i]) // node.stride[i] + 1 for i in (0, 1)
            )
        case Flatten():
            return (int(np.prod(shape)),)
        case Add():
            if any(other != shape for other in inputs):
                raise UserError(f"inputs of different shapes: {list(inputs)}", where=node.where)
        case Affine():
            if node.scale.shape != shape[:1] or node.shift.shape != shape[:1]:
                raise UserError(f"{node.scale.shape} channels for an input of {shape}", where=node.where)
        case Delay():
            if node.steps.shape != shape[:1]:
                raise UserError(f"{node.steps.shape} delays for an input of {shape}", where=node.where)
        case TemporalShift():
            if not 0 <= node.future <= node.past <= shape[0]:
                raise UserError(f"split {node.future}, {node.past} of {shape[0]} channels", where=node.where)
        case Neuron():
            _check_neuron(node, shape)
        case Accumulate():
            _check_values(node, shape, {"leak": (node.leak, 1.0), "current_leak": (node.current_leak, 1.0)})
        case _:
            node.check(shape)
    return shape


def fits(values: Floats, shape: Shape) -> bool:
    """Whether an array has this shape, with sides of 1 where it is the same."""
    return values.ndim == len(shape) and all(n in (1, side) for n, side in zip(values.shape, shape, strict=True))


def _check_neuron(node: Neuron, shape: Shape) -> None:
    if node.reset not in RESETS:
        raise UserError(f"reset {node.reset!r}, known are {', '.join(RESETS)}", where=node.where)
    leaks = {"leak": (node.leak, 1.0), "current_leak": (node.current_leak, 1.0)}
    _check_values(node, shape, {**leaks, "threshold": (node.threshold, np.inf)})


def _check_values(node: Node, shape: Shape, parameters: Mapping[str, tuple[Floats, float]]) -> None:
    """Shapes and ranges of a neuron's parameters; no chip decays with a leak outside 0..1."""
    for name, (given, most) in parameters.items():
        values = rows(given, len(shape))
        if not fits(values, shape):
            raise UserError(f"{name} of shape {values.shape} for an output of {shape}", where=node.where)
        allowed = np.isfinite(values) & (values >= 0) & (values <= most)
        if not allowed.all():
            limits = f"0..{most:g}" if np.isfinite(most) else "finite and at least 0"
            raise UserError(
                f"a {name.replace('_', ' ')} of {values[~allowed][0]:g}, allowed {limits}", where=node.where
            )
