"""A chain of layers as lava-dl's netx HDF5 (`network.net`), for `lava.lib.dl.netx.hdf5.Network` of lava-dl 0.6.0.

What its reader takes, found by running it in Lava (`tests/test_netx.py`):

    threshold    vThMant: one number, (C,) of a convolution, (N,) of a dense layer, or one for each neuron (W, H, C)
    decays       iDecay = du + 1 and vDecay = dv, in the same shapes
    bias         (C,), (N,) or (W, H, C); bias_exp is 6 whatever the file says: whole units of a_in, 13 bits
    weights      of a convolution: as they are, of any size; of a dense layer: 8 bits, and -256 becomes -255 where no
                 weight is positive. No exponent is read: weights are written as weight << weight_exp, and a chain with
                 a dense layer beyond 8 bits has its dense layers written as convolutions over the whole map
    delays       of a dense layer: (outputs, inputs). Those of a convolution are dropped without a word
    windows      layer i is reset at time steps t (from 1) with t % reset_interval = (reset_offset + 1 + i) %
                 reset_interval: every layer one step after the one before it, and nothing else. Both numbers, and the
                 bits of graded input, are arguments of the constructor; this writer leaves them in `spikeproof/`:

    Network(net_config=FILE, reset_interval=R, reset_offset=O, input_message_bits=B)     # B = 0: binary input

What it has no place for is refused by name: joins and branches, clocks, resets that subtract, gates (networks with
guard steps), delays of convolutions, starts that are not one step apart, biases that are not whole units of a_in.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import h5py
import numpy as np

from export import limits
from export.connections import NO_CROP
from export.network import LIF, Attention, Connection, Convolution, Dense, Ints, Network, Population, Source
from train import runs
from train.errors import UserError

BIAS_EXP = 6  # what the reader sets
NOT_A_CHAIN = "netx networks are chains: use --target loihi2 or onnx"


@dataclass(frozen=True, eq=False)
class _Layer:
    """One layer of the file: a population, its shape there, the connection into it, its synapses as netx has them."""

    population: Population
    shape: tuple[int, ...]
    connection: Connection
    synapses: Dense | Convolution


def write_netx(path: Path, network: Network) -> None:
    """Write a network that is a chain; atomic.

    Raises:
        UserError: something that netx cannot carry; the message names the connection or population.
    """
    inputs, layers = _layers(network)
    source = network.source
    assert isinstance(source.program, Source)
    if source.program.offset or source.program.low_bits:
        raise UserError(
            f"its values are sent {source.program.words}: netx takes raw ones", where=f"population {source.id}"
        )
    with runs.atomic_path(path) as temporary, h5py.File(temporary, "w") as file:
        file["layer/0/type"], file["layer/0/shape"] = np.bytes_("input"), inputs
        file["layer/0/population_shape"] = source.shape
        index = 1
        before: tuple[int, ...] = ()  # nothing stands between the input and a dense layer
        for layer in layers:
            if isinstance(layer.synapses, Dense) and len(before) == 3:
                group = file.create_group(f"layer/{index}")
                group["type"], group["shape"] = np.bytes_("flatten"), [int(np.prod(before))]
                index += 1
            _write_layer(file.create_group(f"layer/{index}"), layer)
            index, before = index + 1, layer.shape
        file["simulation/Ts"], file["simulation/tSample"] = 1, network.period
        bits = source.program.payload_bits
        file["spikeproof/steps"] = network.steps
        file["spikeproof/reset_interval"] = network.period
        file["spikeproof/reset_offset"] = layers[0].population.start % network.period
        file["spikeproof/input_message_bits"] = 0 if bits == 1 else bits
        file["spikeproof/readout"] = int(layers[-1].population.readout)


def _layers(network: Network) -> tuple[tuple[int, ...], list[_Layer]]:
    """The input's shape in the file and the layers after it."""
    chain = _chain(network)
    for connection, population in chain:
        _check_timing(network, connection, population)
    for _, population in chain:
        _check_program(population)
    mapped = any(isinstance(c.synapses, Dense) and not _fits_dense(_shifted(c)) for c, _ in chain)
    shape = network.source.shape
    if mapped and len(shape) == 1:
        shape = (*shape, 1, 1)
    inputs, layers = shape, []
    for connection, population in chain:
        synapses = _synapses(connection, network.population(connection.source).shape, shape, mapped)
        shape = (population.size,) if isinstance(synapses, Dense) else synapses.output_shape(shape)
        layers.append(_Layer(population, shape, connection, synapses))
    return inputs, layers


def _chain(network: Network) -> list[tuple[Connection, Population]]:
    for population in network.populations:
        if isinstance(population.program, Attention):
            raise UserError("attention has no netx form", where=f"population {population.id}", hint="--attention fold")
    chain: list[tuple[Connection, Population]] = []
    current = network.source
    while True:
        leaving = [c for c in network.connections if c.source == current.id]
        if not leaving:
            break
        if len(leaving) > 1:
            raise UserError(
                f"one of {len(leaving)} connections out of {current.id}", where=_name(leaving[1]), hint=NOT_A_CHAIN
            )
        (connection,) = leaving
        arriving = network.inputs_of(connection.target)
        if len(arriving) > 1:
            raise UserError(
                f"one of {len(arriving)} connections into {connection.target}: netx has no joins",
                where=_name(next(c for c in arriving if c is not connection)),
                hint=NOT_A_CHAIN,
            )
        current = network.population(connection.target)
        chain.append((connection, current))
    if len(chain) != len(network.populations) - 1 or not chain:
        reached = {network.source.id, *(population.id for _, population in chain)}
        left = next((p.id for p in network.populations if p.id not in reached), network.source.id)
        raise UserError("the chain that starts at the input does not reach it", where=f"population {left}")
    return chain


def _name(connection: Connection) -> str:
    return f"connection {connection.id} ({connection.source} to {connection.target})"


def _check_program(population: Population) -> None:
    program, where = population.program, f"population {population.id}"
    if not isinstance(program, LIF):
        raise UserError(f"its program is {type(program).__name__}, netx has LIF alone", where=where)
    if program.reset != "zero":
        raise UserError(f"its reset is {program.reset!r}, Lava's LIF resets to zero", where=where)
    if program.gate is not None:
        raise UserError(
            "has a gate, since delays leave guard steps between samples: netx holds nobody silent outside its window",
            where=where,
            hint="only a network without guard steps (no temporal shift, no delays) can be written as netx",
        )
    uneven = int(np.count_nonzero(program.bias & ((1 << BIAS_EXP) - 1)))
    if uneven:
        raise UserError(
            f"{uneven} of {program.bias.size} biases are not multiples of {1 << BIAS_EXP}: netx sets bias_exp to "
            f"{BIAS_EXP} (whole units of a_in)",
            where=where,
        )
    peak = int(np.abs(program.bias).max() >> BIAS_EXP)
    if peak > limits.BIAS_MANT_RANGE[1]:
        raise UserError(f"largest bias is {peak} units of a_in, netx holds {limits.BIAS_MANT_RANGE[1]}", where=where)


def _check_timing(network: Network, connection: Connection, population: Population) -> None:
    start = network.population(connection.source).start
    if (population.start - start - 1) % network.period:
        raise UserError(
            f"its target starts {population.start - start} steps after its source: netx resets each layer one step "
            "after the one before it",
            where=_name(connection),
        )
    if isinstance(connection.synapses, Convolution) and connection.delay.any():
        raise UserError(
            f"delays up to {int(connection.delay.max())}: netx drops those of a convolution", where=_name(connection)
        )


def _shifted(connection: Connection) -> Ints:
    return np.asarray(connection.synapses.weight << connection.weight_exp)


def _fits_dense(weight: Ints) -> bool:
    """Whether netx's dense layer keeps these (even) weights: 8 bits, and no -256 without a positive weight.

    It scales a matrix to full range by a power of two first, so a smallest weight of any -2^k ends as that -256.
    """
    low, high = int(weight.min()), int(weight.max())
    if low < limits.WEIGHT_RANGE[0] or high > limits.WEIGHT_RANGE[1]:
        return False
    return high > 0 or (-low & (-low - 1)) != 0


def _synapses(
    connection: Connection, source: tuple[int, ...], before: tuple[int, ...], mapped: bool
) -> Dense | Convolution:
    """The synapses as netx has them, exponent included; `before` is the shape that the source has in the file."""
    synapses, weight = connection.synapses, _shifted(connection)
    if isinstance(synapses, Convolution):
        if synapses.crop != NO_CROP:
            raise UserError(
                f"rows and columns {synapses.crop} of its source have no synapse: netx has no such convolution",
                where=_name(connection),
            )
        if before != source:
            raise UserError("a convolution after a dense layer, which netx leaves flat", where=_name(connection))
        return replace(synapses, weight=weight)
    if not mapped:
        return Dense(weight)
    if connection.delay.any():
        raise UserError(
            "delays beside dense weights beyond netx's 8 bits: as a convolution it would lose them",
            where=_name(connection),
        )
    return Convolution(weight.reshape(len(weight), *before))


def _write_layer(group: h5py.Group, layer: _Layer) -> None:
    synapses, population = layer.synapses, layer.population
    weight = synapses.weight.astype(np.int32)
    group["shape"] = layer.shape
    group["id"], group["population_shape"] = np.bytes_(population.id), population.shape  # for our own reader
    if isinstance(synapses, Convolution):
        group["type"] = np.bytes_("conv")
        group["weight"] = weight[..., None]  # lava-dl's convolutions have an axis of time
        group["inChannels"], group["outChannels"] = weight.shape[1] * synapses.groups, len(weight)
        group["kernelSize"], group["groups"] = weight.shape[2:], synapses.groups
        group["stride"], group["padding"], group["dilation"] = synapses.stride, synapses.padding, synapses.dilation
    else:
        group["type"] = np.bytes_("dense")
        group["weight"] = weight
        group["inFeatures"], group["outFeatures"] = weight.shape[1], len(weight)
        delay = layer.connection.delay
        if delay.any():
            group["delay"] = np.tile(np.repeat(delay, weight.shape[1] // len(delay)), (len(weight), 1))
    program = population.program
    assert isinstance(program, LIF)
    if program.bias.any():
        group["bias"] = _each(program.bias >> BIAS_EXP, population.shape, layer.shape)
    neuron = group.create_group("neuron")
    neuron["type"] = np.bytes_("CUBA")
    neuron["refDelay"] = 1
    for key, values in (("iDecay", program.du + 1), ("vDecay", program.dv), ("vThMant", program.vth)):
        same = values.min() == values.max()
        neuron[key] = int(values.max()) if same else _each(values, population.shape, layer.shape)


def _each(values: Ints, shape: tuple[int, ...], written: tuple[int, ...]) -> Ints:
    """Values of a population in netx's order: one for each channel, or (W, H, C)."""
    if len(written) == 1:
        return np.broadcast_to(values, shape).reshape(-1)
    full = np.broadcast_to(values, shape).reshape(written)
    if (full == full[:, :1, :1]).all():
        return full[:, 0, 0]
    return full.transpose(2, 1, 0)
