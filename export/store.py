"""`network.h5`: one self-describing HDF5 file for a `Network`, read as data from strangers.

Layout (schema version 4):
    /                       attrs: format, schema_version, name, steps, period
    /populations/<id>       attrs: order, origin, shape, start, readout, program ("source" | "clock" | "lif" |
                            "frequency" | "context" | "step" | "unit"), its numbers, reset ("zero" | "subtract")
                            datasets (source): offset, (lif): du, dv, vth, bias_mant, (attention): its arrays
    /connections/<id>       attrs: order, origin, source, target, weight_exp, kind ("dense" | "convolution"), geometry
                            datasets: weight, delay
    /records/<population>   attrs: the fields of LayerRecord

It is opened and read through `export.hdf5`.
"""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from export.attention_programs import ContextGains, FrequencyGains, StepGains, UnitGains
from export.hdf5 import array, fixed_text, members, open_stranger, read_text
from export.network import (
    LIF,
    Attention,
    Clock,
    Connection,
    Convolution,
    Dense,
    Gate,
    Ints,
    LayerRecord,
    Network,
    Population,
    Program,
    Source,
)
from export.programs import RESETS, Reset
from train import runs
from train.errors import UserError

FORMAT = "spikeproof-network"
SCHEMA_VERSION = 4
MAX_ELEMENTS = 1 << 29  # of one dataset; 512 M weights are beyond any Loihi 2 board that this project plans for
ATTENTION: dict[str, type[Attention]] = {
    "frequency": FrequencyGains,
    "context": ContextGains,
    "step": StepGains,
    "unit": UnitGains,
}


def write_network(path: Path, network: Network) -> None:
    """Write `network` to `path` atomically."""
    with runs.atomic_path(path) as temporary, h5py.File(temporary, "w") as file:
        file.attrs.update(
            format=fixed_text(FORMAT),
            schema_version=SCHEMA_VERSION,
            name=fixed_text(network.name),
            steps=network.steps,
            period=network.period,
        )
        for order, population in enumerate(network.populations):
            _write_population(file.create_group(f"populations/{population.id}"), order, population)
        for order, connection in enumerate(network.connections):
            _write_connection(file.create_group(f"connections/{connection.id}"), order, connection)
        for record in network.records:
            file.create_group(f"records/{record.population}").attrs.update(
                {key: value for key, value in vars(record).items() if key != "population"}
            )


def _write_population(group: h5py.Group, order: int, population: Population) -> None:
    group.attrs.update(
        order=order,
        origin=fixed_text(population.origin),
        shape=population.shape,
        start=population.start,
        readout=population.readout,
    )
    program = population.program
    if isinstance(program, Source):
        group.attrs.update(program=fixed_text("source"), payload_bits=program.payload_bits, low_bits=program.low_bits)
        group["offset"] = np.asarray(program.offset or [0] * program.raw_shape(population.shape)[0], dtype=np.int32)
        return
    if isinstance(program, Clock):
        group.attrs["program"] = fixed_text("clock")
        return
    if isinstance(program, Attention):
        _write_attention(group, program)
        return
    gate = program.gate or Gate(0, 0)
    group.attrs.update(
        program=fixed_text("lif"),
        reset=fixed_text(program.reset),
        bias_exp=program.bias_exp,
        gate_weight=gate.weight,
        gate_exponent=gate.exponent,
    )
    group["du"] = program.du.astype(np.int16)
    group["dv"] = program.dv.astype(np.int16)
    group["vth"] = program.vth.astype(np.int32)
    group["bias_mant"] = program.bias_mant.astype(np.int16)


def _write_attention(group: h5py.Group, program: Attention) -> None:
    (kind,) = (name for name, known in ATTENTION.items() if isinstance(program, known))
    group.attrs["program"] = fixed_text(kind)
    for field in fields(program):
        value = getattr(program, field.name)
        if isinstance(value, int):
            group.attrs[field.name] = value
        else:
            group.create_dataset(field.name, data=value.astype(np.int32))


def _write_connection(group: h5py.Group, order: int, connection: Connection) -> None:
    group.attrs.update(
        order=order,
        origin=fixed_text(connection.origin),
        source=fixed_text(connection.source),
        target=fixed_text(connection.target),
        weight_exp=connection.weight_exp,
    )
    synapses = connection.synapses
    if isinstance(synapses, Dense):
        group.attrs["kind"] = fixed_text("dense")
    else:
        group.attrs.update(
            kind=fixed_text("convolution"),
            stride=synapses.stride,
            padding=synapses.padding,
            dilation=synapses.dilation,
            groups=synapses.groups,
            crop=synapses.crop,
        )
    group.create_dataset("weight", data=synapses.weight.astype(np.int16), compression="gzip", compression_opts=1)
    group["delay"] = connection.delay.astype(np.uint8)


def read_network(path: Path) -> Network:
    """Read and validate a `network.h5`.

    Raises:
        UserError: the file is missing, not HDF5, truncated, of another schema, oversized, or describes a network
            that the chip cannot run. Whatever is wrong inside becomes one line that names the file.
    """
    with open_stranger(path, "a network file", "make it with: python -m export --target loihi2") as file:
        return _read(file)


def _read(file: h5py.File) -> Network:
    found = read_text(file.attrs, "format") if "format" in file.attrs else None
    if found != FORMAT:
        raise UserError(f"not a {FORMAT} file (format is {found!r})")
    version = int(file.attrs["schema_version"])
    if version != SCHEMA_VERSION:
        raise UserError(
            f"schema version {version}, this program reads {SCHEMA_VERSION}",
            hint="export the model again: python -m export",
        )
    return Network(
        name=read_text(file.attrs, "name"),
        populations=tuple(_read_population(name, group) for name, group in members(file, "populations")),
        connections=tuple(_read_connection(name, group) for name, group in members(file, "connections")),
        steps=int(file.attrs["steps"]),
        period=int(file.attrs["period"]),
        records=tuple(_read_record(name, group) for name, group in members(file, "records")),
    )


def _integers(group: h5py.Group, key: str) -> Ints:
    return np.asarray(array(group, key, "iu", MAX_ELEMENTS), dtype=np.int64)


def _pair(group: h5py.Group, key: str) -> tuple[int, int]:
    first, second = (int(value) for value in group.attrs[key])
    return first, second


def _read_population(name: str, group: h5py.Group) -> Population:
    attrs = group.attrs
    kind = read_text(attrs, "program")
    program: Program
    if kind == "source":
        offset = tuple(int(value) for value in _integers(group, "offset").reshape(-1))
        program = Source(int(attrs["payload_bits"]), offset, int(attrs["low_bits"]))
    elif kind == "clock":
        program = Clock()
    elif kind == "lif":
        gate = Gate(int(attrs["gate_weight"]), int(attrs["gate_exponent"]))
        program = LIF(
            du=_integers(group, "du"),
            dv=_integers(group, "dv"),
            vth=_integers(group, "vth"),
            bias_mant=_integers(group, "bias_mant"),
            bias_exp=int(attrs["bias_exp"]),
            gate=gate if gate.weight else None,
            reset=_reset(name, read_text(attrs, "reset")),
        )
    elif kind in ATTENTION:
        program = _read_attention(ATTENTION[kind], group)
    else:
        known = ", ".join(map(repr, ("source", "clock", "lif", *ATTENTION)))
        raise UserError(f"population {name}: program {kind[:80]!r}, known are {known}")
    return Population(
        id=name,
        origin=read_text(attrs, "origin"),
        shape=tuple(int(side) for side in attrs["shape"]),
        start=int(attrs["start"]),
        program=program,
        readout=bool(attrs["readout"]),
    )


def _read_attention(kind: type[Attention], group: h5py.Group) -> Attention:
    """Fields are whole numbers where the class says int, arrays elsewhere; the network checks them."""
    values: dict[str, Any] = {
        field.name: int(group.attrs[field.name]) if field.type == "int" else _integers(group, field.name)
        for field in fields(kind)
    }
    return kind(**values)


def _reset(population: str, text: str) -> Reset:
    for known in RESETS:
        if text == known:
            return known
    raise UserError(f"population {population}: reset {text[:80]!r}, known are {', '.join(RESETS)}")


def _read_connection(name: str, group: h5py.Group) -> Connection:
    attrs = group.attrs
    weight = _integers(group, "weight")
    kind = read_text(attrs, "kind")
    synapses: Dense | Convolution
    if kind == "dense":
        synapses = Dense(weight)
    elif kind == "convolution":
        stride, padding, dilation = (_pair(group, key) for key in ("stride", "padding", "dilation"))
        vertical, horizontal = ((int(a), int(b)) for a, b in attrs["crop"])
        synapses = Convolution(weight, stride, padding, dilation, int(attrs["groups"]), (vertical, horizontal))
    else:
        raise UserError(f"connection {name}: kind {kind!r}, known are 'dense' and 'convolution'")
    return Connection(
        id=name,
        origin=read_text(attrs, "origin"),
        source=read_text(attrs, "source"),
        target=read_text(attrs, "target"),
        synapses=synapses,
        weight_exp=int(attrs["weight_exp"]),
        delay=_integers(group, "delay"),
    )


def _read_record(name: str, group: h5py.Group) -> LayerRecord:
    attrs = group.attrs
    low, high = (float(value) for value in attrs["scale"])
    return LayerRecord(
        population=name,
        scale=(low, high),
        weight_error=float(attrs["weight_error"]),
        saturated=int(attrs["saturated"]),
        spike_agreement=float(attrs["spike_agreement"]),
        current_bound=_pair(group, "current_bound"),
        current_limit=int(attrs["current_limit"]),
    )
