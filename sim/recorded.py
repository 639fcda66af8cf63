"""Recordings as NIR data (`nir.write_data`), to compare an engine with another framework, or with itself later on.

A node is a population: its `spikes`, those of attention as `graded`, the read-out's `v` (its membrane potential, in
units of v), the input's `x` (raw values; where a file has them, they must be what the engines got, since other samples
are no witnesses). Arrays are [samples, T, neurons], the neurons of (C, H, W) in row-major order, step 0 being the first
of the population's window.
Files come from strangers: the arrays are read by `export.hdf5_tree`, so the NIR library is needed for writing only.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from export.formats.nir_writer import DT
from export.hdf5_tree import Tree, read_tree
from export.network import Attention, Driven, Ints, Network, Population
from sim.nir_data import Array, array_of, is_spiking, kind_of, observables, values_of, whole
from sim.recording import Recording, recording
from train import runs
from train.errors import UserError

SPIKES, GRADED, MEMBRANE, INPUT = "spikes", "graded", "v", "x"


@dataclass(frozen=True, eq=False)
class Recorded:
    """What a file holds of a network.

    Attributes:
        recording: the populations that file and network both name; its engine is the file's name.
        total: samples in the file, of which the recording has those at the front.
        absent: populations that are not in the file.
        strange: what is in the file and has no counterpart in the network, "node: observable".
        same_inputs: the file holds its inputs, and they are those that the engines got.
    """

    recording: Recording
    total: int
    absent: tuple[str, ...]
    strange: tuple[str, ...]
    same_inputs: bool

    @property
    def populations(self) -> tuple[str, ...]:
        """Those that can be compared."""
        return (*self.recording.spikes, *self.recording.membrane, *self.recording.graded)


def write(path: Path, network: Network, recording: Recording, x: Ints) -> None:
    """Write a recording of x [samples, T, *shape] atomically, as TimeGriddedData of step 1e-4 s, that of model.nir."""
    import nir

    def gridded(values: Array) -> Any:
        return nir.TimeGriddedData(values.reshape(*values.shape[:2], -1), DT)

    observed = {network.source.id: {INPUT: gridded(x)}}
    observed |= {name: {SPIKES: gridded(values)} for name, values in recording.spikes.items()}
    observed |= {name: {MEMBRANE: gridded(values)} for name, values in recording.membrane.items()}
    observed |= {name: {GRADED: gridded(values)} for name, values in recording.graded.items()}
    with runs.atomic_path(path) as temporary:
        nir.write_data(temporary, nir.NIRGraphData({name: nir.NIRNodeData(o) for name, o in observed.items()}))


def read(path: Path, network: Network, x: Ints) -> Recorded:
    """What a file recorded of `network` on x [samples, T, *shape]; nodes are found by population id or origin.

    Raises:
        UserError: missing, damaged, no recording, not of these shapes, of other inputs, or without a population of
            this network.
    """
    tree = read_tree(path, "a recording", attributes=True)
    try:
        return _recorded(path.name, tree, network, x)
    except UserError as error:
        where = ": ".join(part for part in (str(path), error.where) if part)
        raise UserError(error.what, where=where, hint=error.hint) from error


def _recorded(name: str, tree: Tree, network: Network, x: Ints) -> Recorded:
    if kind_of(tree, "") != "NIRGraphData":
        raise UserError("is not a recording", hint="write one with --record FILE, or with nir.write_data")
    driven = [p for p in network.populations if isinstance(p.program, Driven)]
    by_name = {p.origin: p for p in driven if p.origin} | {p.id: p for p in driven}
    found: dict[str, Array] = {}
    strange, totals, same_inputs = [], {}, False
    for node, observable, place in observables(tree, "", ""):
        if observable == INPUT and node in (network.source.id, network.source.origin):
            _check_inputs(array_of(tree, f"{place}data", "biuf", 3), x)
            same_inputs = True
            continue
        population = by_name.get(node)
        if population is None or observable != _observable(population):
            strange.append(f"{node}: {observable}")
            continue
        if population.id in found:
            raise UserError(f"population {population.id} is there twice", where=f"node {node}")
        try:
            total, values = values_of(tree, place, population, network.steps, len(x))
        except UserError as error:
            raise UserError(error.what, where=f"node {node}, {observable}", hint=error.hint) from error
        if not is_spiking(population) and not whole(values):
            strange.append(f"{node}: {observable} (not whole numbers, so in other units than the network's)")
            continue
        totals[node] = total
        found[population.id] = values.astype(np.bool_ if is_spiking(population) else np.int64)
    absent = tuple(p.id for p in driven if p.id not in found)
    if not found:
        hint = f"the network has {', '.join(absent)}"
        raise UserError(f"holds no population of network {network.name}, only {_few(strange)}", hint=hint)
    if len(set(totals.values())) > 1:
        raise UserError(f"its nodes have different numbers of samples: {_few([f'{n} {k}' for n, k in totals.items()])}")
    return Recorded(recording(name, network, found), next(iter(totals.values())), absent, tuple(strange), same_inputs)


def _observable(population: Population) -> str:
    if isinstance(population.program, Attention):
        return GRADED
    return MEMBRANE if population.readout else SPIKES


def _check_inputs(theirs: Array, x: Ints) -> None:
    ours = x.reshape(*x.shape[:2], -1)
    count = min(len(ours), len(theirs))
    if theirs.shape[1:] != ours.shape[1:]:
        raise UserError(f"its inputs have shape {theirs.shape}, expected (samples, {ours.shape[1]}, {ours.shape[2]})")
    different = np.flatnonzero((ours[:count] != theirs[:count]).any((1, 2)))
    if len(different):
        raise UserError(
            f"was recorded on other inputs: {len(different)} of {count} samples differ, first sample {different[0]}",
            hint="give the same --input and --samples as for the recording",
        )


def _few(names: list[str]) -> str:
    return ", ".join([*names[:8], *(["..."] if len(names) > 8 else [])]) or "nothing"
