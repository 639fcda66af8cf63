"""A lava-dl netx HDF5 file to the integer network, with nothing searched or rounded: it holds integers already.

Its populations do what `lava.lib.dl.netx.hdf5.Network` of lava-dl 0.6.0 does with the file in Lava when
reset_interval = T. Understood: a chain of input, conv, dense and flatten layers with CUBA (LOIHI) neurons, their
current decay included.

An input block with neurons becomes a population that the input drives with a synapse of weight 1 for each neuron: its
payload is the current of that step, what netx's user writes into the block's bias_mant after the file's transform
(weight x + bias), as whole numbers from 0 to 4095. Steps and the bits of graded input are not in the standard: the
caller gives them, or this project's writer left them in `spikeproof/`.

Refused by name: other layers (pool, average, concat, dense_rec, ...), other neurons (SDNN, RF, ALIF, ...), delays (they
need guard steps and gates, which netx has not), refractory periods and weight exponents, which its reader ignores, and
what it would change without a word: odd weights of both signs, weights beyond 8 bits, biases beyond 13.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from export import limits
from export.formats.netx_file import Part
from export.hdf5_tree import Tree, read_tree
from export.network import LIF, Connection, Convolution, Dense, Ints, Network, Population, Source, Synapses
from train.errors import UserError

MAX_LAYERS = 10_000
BIAS_EXP = 6  # what netx's reader sets
CURRENT_BITS = 12  # of the currents into an input block: bias_mant has 13 with its sign
LAYERS = ("input", "conv", "dense", "flatten")
NEURONS = ("CUBA", "LOIHI")
IGNORED = frozenset({"inChannels", "outChannels", "kernelSize", "inFeatures", "outFeatures"})  # the shapes say it too
IGNORED_NEURON = frozenset({"scaleRho", "tauRho", "theta", "gradedSpike", "messageBits"})  # surrogate, other neurons


@dataclass(frozen=True)
class Given:
    """What the caller says of a file, None where it does not: window steps T, bits of graded input."""

    steps: int | None = None
    input_bits: int | None = None


def read_netx(path: Path, given: Given) -> Network:
    """Read a netx file.

    Raises:
        UserError: missing, damaged, or not reproducible exactly; the message names the file and the layer.
    """
    tree = read_tree(path, "a netx file")
    try:
        return from_tree(tree, given, path.stem)
    except UserError as error:
        where = f"{path}: {error.where}" if error.where else str(path)
        raise UserError(error.what, where=where, hint=error.hint) from error


def from_tree(tree: Tree, given: Given, name: str) -> Network:
    """The network of a file's parts."""
    file = Part(tree, "")
    ours, layers = file.part("spikeproof"), file.part("layer")
    steps = ours.number("steps") if given.steps is None else given.steps
    bits = ours.number("input_message_bits", 0) if given.input_bits is None else given.input_bits
    if steps is None:
        raise UserError("does not say the number of time steps of a sample", hint="give --steps")
    count = len({key.split("/")[0] for key in layers.tree})
    if not 1 <= count <= MAX_LAYERS:
        raise UserError(f"{count} layers, allowed 1..{MAX_LAYERS}")
    chain = _Chain(max(1, bits or 0))
    for index in range(count):
        chain.add(layers.part(str(index)), index)
    return Network(name, *chain.finish(bool(ours.number("readout", 0))), steps, steps)


class _Chain:
    """Populations and connections so far; every layer starts one step after the one before it."""

    def __init__(self, input_bits: int) -> None:
        self.input_bits = input_bits
        self.populations: list[Population] = []
        self.connections: list[Connection] = []
        self.flattened = False
        self.shapes: dict[str, tuple[int, ...]] = {}  # of our own writer's populations, before they became maps

    def finish(self, readout: bool) -> tuple[tuple[Population, ...], tuple[Connection, ...]]:
        """The populations and connections, in their own shapes where the file remembers them."""
        own = [_reshaped(p, self.shapes.get(p.id, p.shape)) for p in self.populations]
        own[-1] = replace(own[-1], readout=readout)
        ends = zip(self.connections, self.populations, own, own[1:], strict=False)
        return tuple(own), tuple(_remapped(*parts) for parts in ends)

    def add(self, layer: Part, index: int) -> None:
        """The layer `index` of the file."""
        if not layer.tree:
            raise UserError(f"there is no layer {index}, the layers are not numbered from 0")
        kind = layer.text("type")
        if kind not in LAYERS:
            raise UserError(f"layer of type {kind!r}", where=layer.where, hint=f"understood: {', '.join(LAYERS)}")
        if kind == "flatten":
            self.flattened = True
            return
        if "delay" in layer.unread:
            raise UserError(
                "has delays: they reach into the next sample, and netx has no gates that would keep it silent"
                if kind == "dense"
                else "has delays, which lava-dl's own reader drops",
                where=layer.where,
            )
        if kind == "input":
            self._input(layer, index)
            return
        self._layer(layer, kind, index)

    def _shape(self, layer: Part, name: str) -> tuple[int, ...]:
        if "population_shape" in layer.unread:
            self.shapes[name] = _sides(layer, "population_shape")
        return _sides(layer, "shape")

    def _input(self, layer: Part, index: int) -> None:
        if self.populations:
            raise UserError("an input block behind other layers", where=layer.where)
        shape = self._shape(layer, "input")
        neuron = layer.part("neuron")
        layer.finish(IGNORED | {"weight", "bias"})  # of the transform of floats to currents, the caller's part
        if not neuron.tree:
            self.populations.append(Population("input", "", shape, 0, Source(self.input_bits)))
            return
        self.populations.append(Population("input", "", shape, 0, Source(CURRENT_BITS)))
        one = Convolution(np.ones((shape[0], 1, 1, 1), dtype=np.int64), groups=shape[0])
        self._connect(f"layer{index}", shape, one if len(shape) == 3 else Dense(np.eye(shape[0], dtype=np.int64)), 0)
        self.populations[-1] = _population(self.populations[-1], neuron, None)

    def _layer(self, layer: Part, kind: str, index: int) -> None:
        mapped = bool(self.connections) and len(self.populations[-1].shape) == 3
        if self.flattened != (mapped and kind == "dense"):
            found = "behind" if self.flattened else "without"
            raise UserError(
                f"a {kind} layer {found} a flatten layer: lava-dl's reader cannot connect it", where=layer.where
            )
        self.flattened = False
        name = layer.text("id") if "id" in layer.unread else f"layer{index}"
        weight, shape = layer.needed("weight"), self._shape(layer, name)
        if kind == "conv":
            convolution, exponent = self._convolution(layer, weight)
            synapses: Synapses = convolution
        else:
            shape = (int(np.prod(shape)),)
            synapses, exponent = _dense(layer, weight.reshape(shape[0], -1) if weight.ndim == 1 else weight), 0
            if not self.populations:
                self.populations.append(Population("input", "", weight.shape[1:], 0, Source(self.input_bits)))
        neuron, bias = layer.part("neuron"), layer.whole("bias")
        layer.finish(IGNORED)
        self._connect(name, shape, synapses, exponent)
        self.populations[-1] = _population(self.populations[-1], neuron, bias)

    def _convolution(self, layer: Part, weight: Ints) -> tuple[Convolution, int]:
        if weight.ndim == 5 and weight.shape[-1] == 1:
            weight = weight[..., 0]
        if weight.ndim != 4:
            raise UserError(f"weight of shape {weight.shape}, expected (O, I, H, W, 1)", where=layer.where)
        if not self.populations:
            raise UserError("a convolution without an input layer that says its shape", where=layer.where)
        exponent = _exponent(weight, layer.where)
        geometry = (layer.pair("stride"), layer.pair("padding"), layer.pair("dilation"))
        return Convolution(weight >> exponent, *geometry, layer.number("groups", 1) or 0), exponent

    def _connect(self, name: str, shape: tuple[int, ...], synapses: Synapses, exponent: int) -> None:
        """A silent population behind the last one; its neurons come next."""
        source = self.populations[-1]
        zero = np.zeros((), dtype=np.int64)
        silent = LIF(zero, zero, zero, zero, BIAS_EXP)
        self.populations.append(Population(name, name, shape, source.start + 1, silent))
        delay = np.zeros(source.shape[:1], dtype=np.int64)
        self.connections.append(Connection(f"{name}.synapse", name, source.id, name, synapses, exponent, delay))


def _sides(layer: Part, key: str) -> tuple[int, ...]:
    shape = tuple(int(side) for side in layer.needed(key).reshape(-1))
    if len(shape) not in (1, 3) or min(shape) < 1:
        raise UserError(f"{key} {shape}, expected (C, H, W) or (N,)", where=layer.where)
    return shape


def _reshaped(population: Population, shape: tuple[int, ...]) -> Population:
    """The population in the shape it had before it became a map (N, 1, 1) for netx."""
    if shape == population.shape:
        return population
    if int(np.prod(shape)) != population.size:
        raise UserError(
            f"{population.shape} and {shape} are different populations", where=f"population {population.id}"
        )
    program = population.program
    if isinstance(program, LIF):
        numbers = (program.du, program.dv, program.vth, program.bias_mant)
        du, dv, vth, bias = (np.broadcast_to(values, population.shape).reshape(shape) for values in numbers)
        program = replace(program, du=du, dv=dv, vth=vth, bias_mant=bias)
    return replace(population, shape=shape, program=program)


def _remapped(connection: Connection, before: Population, after: Population, target: Population) -> Connection:
    """The connection out of a population that was given its own shape back: a kernel as large as its map is dense."""
    synapses, delay = connection.synapses, np.zeros(after.shape[:1], dtype=np.int64)
    if isinstance(synapses, Convolution) and len(target.shape) == 1:
        if synapses.weight.shape[1:] != before.shape or any(synapses.padding):
            raise UserError("a convolution into a flat population", where=f"connection {connection.id}")
        synapses = Dense(synapses.weight.reshape(len(synapses.weight), -1))
    return replace(connection, synapses=synapses, delay=delay)


def _dense(layer: Part, weight: Ints) -> Dense:
    if weight.ndim != 2:
        raise UserError(f"weight of shape {weight.shape}, expected (outputs, inputs)", where=layer.where)
    low, high = int(weight.min()), int(weight.max())
    if high <= 0 and low < 0 and -low & (-low - 1) == 0:
        raise UserError(
            f"no weight is positive and the smallest, {low}, is a power of two: lava-dl's reader scales it to -256 and "
            "Lava clips that to -255",
            where=layer.where,
        )
    return Dense(weight)


def _exponent(weight: Ints, where: str) -> int:
    """The smallest exponent that leaves 8 bits of a convolution's weights, which netx takes as they are."""
    for exponent in range(limits.WEIGHT_EXP_RANGE[1] + 1):
        low, high = int(weight.min()) >> exponent, int(weight.max()) >> exponent
        if low >= limits.WEIGHT_RANGE[0] and high <= limits.ONE_SIGN_RANGE[1]:
            break
    else:
        raise UserError(f"weights {weight.min()}..{weight.max()} are beyond 8 bits and any exponent", where=where)
    if np.any(weight & ((1 << exponent) - 1)):
        raise UserError(f"weights {weight.min()}..{weight.max()} need more than 8 bits", where=where)
    return exponent


def _population(silent: Population, neuron: Part, bias: Ints | None) -> Population:
    kind = neuron.text("type") if neuron.tree else "none"
    if kind not in NEURONS:
        raise UserError(f"neurons of type {kind!r}", where=neuron.where, hint=f"understood: {', '.join(NEURONS)}")
    for key, only in (("refDelay", 1), ("wgtExp", 0)):
        found = neuron.number(key, only)
        if found != only:
            raise UserError(f"{key} {found}, which lava-dl's reader ignores", where=neuron.where)
    du, dv, vth = (
        _each(neuron.needed(key), silent.shape, key, neuron.where) for key in ("iDecay", "vDecay", "vThMant")
    )
    mantissa = np.zeros((), dtype=np.int64) if bias is None else _each(bias, silent.shape, "bias", neuron.where)
    neuron.finish(IGNORED_NEURON)
    return replace(silent, program=LIF(np.asarray(du - 1), dv, vth, mantissa, BIAS_EXP))


def _each(values: Ints, shape: tuple[int, ...], what: str, where: str) -> Ints:
    """Values in netx's order, one number, (C,) or (W, H, C), in ours: (), (C, 1, 1) or (C, H, W)."""
    if values.size == 1:
        return values.reshape(())
    if values.shape == shape[:1]:
        return values.reshape(-1, *[1] * (len(shape) - 1))
    if values.shape == shape[::-1]:
        return values.transpose()
    raise UserError(f"{what} of shape {values.shape} for neurons of shape {shape}", where=where)
