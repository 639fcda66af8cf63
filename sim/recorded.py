"""Recordings as NIR data (`nir.write_data`), to compare an engine with another framework, or with itself later on.

A node is a population: its `spikes`, the read-out's `v` (its membrane potential, in units of v), the input's `x` (raw
values; where a file has them, they must be what the engines got, since other samples are no witnesses). Arrays are
[samples, T, neurons], the neurons of (C, H, W) in row-major order, step 0 being the first of the population's window.
Files come from strangers: the arrays are read by `export.hdf5_tree`, so the NIR library is needed for writing only.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from export.formats.nir_writer import DT
from export.hdf5_tree import Tree, read_tree
from export.network import LIF, Ints, Network, Population
from sim.recording import Recording
from train import runs
from train.errors import UserError

SPIKES, MEMBRANE, INPUT = "spikes", "v", "x"
NEAR = 1e-4  # of a step: how close below a step's start an event still belongs to it, since times are rounded
WHOLE = 1 << 53  # up to here float64 holds every whole number

Array: TypeAlias = npt.NDArray[Any]


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
        return (*self.recording.spikes, *self.recording.membrane)


def write(path: Path, network: Network, recording: Recording, x: Ints) -> None:
    """Write a recording of x [samples, T, *shape] atomically, as TimeGriddedData of step 1e-4 s, that of model.nir."""
    import nir

    def gridded(values: Array) -> Any:
        return nir.TimeGriddedData(values.reshape(*values.shape[:2], -1), DT)

    observed = {network.source.id: {INPUT: gridded(x)}}
    observed |= {name: {SPIKES: gridded(values)} for name, values in recording.spikes.items()}
    observed |= {name: {MEMBRANE: gridded(values)} for name, values in recording.membrane.items()}
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
    if _kind(tree, "") != "NIRGraphData":
        raise UserError("is not a recording", hint="write one with --record FILE, or with nir.write_data")
    spiking = [p for p in network.populations if isinstance(p.program, LIF)]
    by_name = {p.origin: p for p in spiking if p.origin} | {p.id: p for p in spiking}
    found: dict[str, Array] = {}
    strange, totals, same_inputs = [], {}, False
    for node, observable, place in _observables(tree, "", ""):
        if observable == INPUT and node in (network.source.id, network.source.origin):
            _check_inputs(_array(tree, f"{place}data", "biuf", 3), x)
            same_inputs = True
            continue
        population = by_name.get(node)
        if population is None or observable != (MEMBRANE if population.readout else SPIKES):
            strange.append(f"{node}: {observable}")
            continue
        if population.id in found:
            raise UserError(f"population {population.id} is there twice", where=f"node {node}")
        try:
            total, values = _values(tree, place, population, network.steps, len(x))
        except UserError as error:
            raise UserError(error.what, where=f"node {node}, {observable}", hint=error.hint) from error
        if population.readout and not _whole(values):
            strange.append(f"{node}: {observable} (not whole numbers, so in other units than the network's)")
            continue
        totals[node] = total
        found[population.id] = values.astype(np.int64 if population.readout else np.bool_)
    absent = tuple(p.id for p in spiking if p.id not in found)
    if not found:
        hint = f"the network has {', '.join(absent)}"
        raise UserError(f"holds no population of network {network.name}, only {_few(strange)}", hint=hint)
    if len(set(totals.values())) > 1:
        raise UserError(f"its nodes have different numbers of samples: {_few([f'{n} {k}' for n, k in totals.items()])}")
    ordered = [(p, found[p.id]) for p in spiking if p.id in found]
    recording = Recording(
        engine=name,
        spikes={p.id: values for p, values in ordered if not p.readout},
        membrane={p.id: values for p, values in ordered if p.readout},
    )
    return Recorded(recording, next(iter(totals.values())), absent, tuple(strange), same_inputs)


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


def _observables(tree: Tree, place: str, prefix: str) -> Iterator[tuple[str, str, str]]:
    """(node, observable, its place in the tree), nodes of subgraphs with the subgraph's name and a dot in front."""
    for node in _members(tree, f"{place}nodes/"):
        inner = f"{place}nodes/{node}/"
        kind = _kind(tree, inner)
        if kind == "NIRGraphData":
            yield from _observables(tree, inner, f"{prefix}{node}.")
        elif kind == "NIRNodeData":
            for observable in _members(tree, f"{inner}observables/"):
                yield f"{prefix}{node}", observable, f"{inner}observables/{observable}/"
        else:
            raise UserError(f"is of type {kind[:40]!r}, known are NIRGraphData and NIRNodeData", where=f"node {node}")


def _members(tree: Tree, place: str) -> list[str]:
    """Names of the groups in a group, in the file's order."""
    return list(dict.fromkeys(key[len(place) :].split("/")[0] for key in tree if key.startswith(place)))


def _kind(tree: Tree, place: str) -> str:
    found = tree.get(f"{place}/__type__")
    return str(found) if found is not None and found.dtype.kind == "U" and found.ndim == 0 else ""


def _values(tree: Tree, place: str, population: Population, steps: int, samples: int) -> tuple[int, Array]:
    """(samples in the file, the first ones [samples, T, *shape]); those of spikes are 0 or 1, all are finite."""
    kind = _kind(tree, place)
    if kind == "TimeGriddedData":
        data = _array(tree, f"{place}data", "biuf", 3)
        total, values = len(data), data[:samples]
        if data.shape[1:] != (steps, population.size):
            expected = f"(samples, {steps}, {population.size})"
            raise UserError(f"data of shape {data.shape}, expected {expected}: all steps of a window and no others")
    elif kind in ("EventData", "ValuedEventData") and not population.readout:
        total, values = _from_events(tree, place, kind, population.size, steps, samples)
    else:
        raise UserError(f"is of type {kind[:40]!r}, known are TimeGriddedData and, for spikes, EventData")
    if not total:
        raise UserError("holds no sample")
    if not np.isfinite(values).all():
        raise UserError("holds NaN or infinity")
    if not population.readout and not ((values == 0) | (values == 1)).all():
        raise UserError("holds values other than 0 and 1, which are not spikes")
    return total, values.reshape(*values.shape[:2], *population.shape)


def _whole(values: Array) -> bool:
    """Whether these can be membrane potentials of integer neurons."""
    return values.dtype.kind in "biu" or bool((np.abs(values) <= WHOLE).all() and (values == np.rint(values)).all())


def _from_events(
    tree: Tree, place: str, kind: str, neurons: int, steps: int, samples: int
) -> tuple[int, npt.NDArray[np.bool_]]:
    """Spikes of the first samples on the grid of steps; t_max, the length of the recording, is `steps` steps."""
    idx, time = _array(tree, f"{place}idx", "iu", 2), _array(tree, f"{place}time", "iuf", 2)
    said = _number(tree, f"{place}/n_neurons")
    length = _number(tree, f"{place}/t_max")
    if idx.shape != time.shape:
        raise UserError(f"idx of shape {idx.shape}, time of shape {time.shape}, expected the same")
    if said != neurons:
        raise UserError(f"n_neurons is {said:g}, the population has {neurons}")
    if not length > 0:
        raise UserError(f"t_max is {length:g}, must be positive: it is the length of the recording")
    total, idx, time = len(idx), idx[:samples].astype(np.int64), time[:samples].astype(np.float64)
    sample, event = np.nonzero(idx != -1)
    neuron = idx[sample, event]
    with np.errstate(all="ignore"):  # what comes out as NaN or infinity is refused below
        step = np.floor(time[sample, event] * (steps / length) + NEAR)
    if neuron.size and not (neuron.min() >= 0 and neuron.max() < neurons):
        raise UserError(f"events of neurons {neuron.min()}..{neuron.max()}, allowed 0..{neurons - 1}, or -1 for none")
    if not ((step >= 0) & (step < steps)).all():  # NaN and infinity too
        raise UserError(f"events outside of 0 <= time < t_max = {length:g}")
    if kind == "ValuedEventData":
        value = _array(tree, f"{place}value", "biuf", 2)
        if value.shape[0] != total or value.shape[1:] != idx.shape[1:]:
            raise UserError(f"value of shape {value.shape}, expected that of idx")
        if not (value[sample, event] == 1).all():
            raise UserError("holds events of a value other than 1, which are not spikes")
    grid = np.zeros((len(idx), steps, neurons), dtype=np.bool_)
    grid[sample, step.astype(np.int64), neuron] = True
    if np.count_nonzero(grid) != len(neuron):
        raise UserError("two events of a neuron in one step, where it can send one spike", hint="is t_max T steps?")
    return total, grid


def _array(tree: Tree, place: str, kinds: str, axes: int) -> Array:
    found = tree.get(place)
    name = place.rpartition("/")[2]
    if found is None:
        raise UserError(f"has no {name}")
    if found.dtype.kind not in kinds or found.ndim != axes:
        raise UserError(f"{name} has shape {found.shape} and dtype {found.dtype}, expected numbers on {axes} axes")
    return found


def _number(tree: Tree, place: str) -> float:
    found = tree.get(place)
    name = place.rpartition("/")[2]
    if found is None or found.dtype.kind not in "iuf" or found.size != 1 or not np.isfinite(found).all():
        raise UserError(f"has no {name}, or it is not a finite number")
    return float(found.reshape(())[()])


def _few(names: list[str]) -> str:
    return ", ".join([*names[:8], *(["..."] if len(names) > 8 else [])]) or "nothing"
