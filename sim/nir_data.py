"""The parts of a NIR data file, checked: nodes with observables, on a grid of steps or as events."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from export.hdf5_tree import Tree
from export.network import LIF, Population
from train.errors import UserError

NEAR = 1e-4  # of a step: how close below a step's start an event still belongs to it, since times are rounded
WHOLE = 1 << 53  # up to here float64 holds every whole number

Array: TypeAlias = npt.NDArray[Any]


def observables(tree: Tree, place: str, prefix: str) -> Iterator[tuple[str, str, str]]:
    """(node, observable, its place in the tree), nodes of subgraphs with the subgraph's name and a dot in front."""
    for node in _members(tree, f"{place}nodes/"):
        inner = f"{place}nodes/{node}/"
        kind = kind_of(tree, inner)
        if kind == "NIRGraphData":
            yield from observables(tree, inner, f"{prefix}{node}.")
        elif kind == "NIRNodeData":
            for observable in _members(tree, f"{inner}observables/"):
                yield f"{prefix}{node}", observable, f"{inner}observables/{observable}/"
        else:
            raise UserError(f"is of type {kind[:40]!r}, known are NIRGraphData and NIRNodeData", where=f"node {node}")


def _members(tree: Tree, place: str) -> list[str]:
    """Names of the groups in a group, in the file's order."""
    return list(dict.fromkeys(key[len(place) :].split("/")[0] for key in tree if key.startswith(place)))


def kind_of(tree: Tree, place: str) -> str:
    """The type that a group says it is of, "" for none."""
    found = tree.get(f"{place}/__type__")
    return str(found) if found is not None and found.dtype.kind == "U" and found.ndim == 0 else ""


def values_of(tree: Tree, place: str, population: Population, steps: int, samples: int) -> tuple[int, Array]:
    """(samples in the file, the first ones [samples, T, *shape]); those of spikes are 0 or 1, all are finite."""
    kind = kind_of(tree, place)
    if kind == "TimeGriddedData":
        data = array_of(tree, f"{place}data", "biuf", 3)
        total, values = len(data), data[:samples]
        if data.shape[1:] != (steps, population.size):
            expected = f"(samples, {steps}, {population.size})"
            raise UserError(f"data of shape {data.shape}, expected {expected}: all steps of a window and no others")
    elif kind in ("EventData", "ValuedEventData") and is_spiking(population):
        total, values = from_events(tree, place, kind, population.size, steps, samples)
    else:
        raise UserError(f"is of type {kind[:40]!r}, known are TimeGriddedData and, for spikes, EventData")
    if not total:
        raise UserError("holds no sample")
    if not np.isfinite(values).all():
        raise UserError("holds NaN or infinity")
    if is_spiking(population) and not ((values == 0) | (values == 1)).all():
        raise UserError("holds values other than 0 and 1, which are not spikes")
    return total, values.reshape(*values.shape[:2], *population.shape)


def is_spiking(population: Population) -> bool:
    """Whether its values are spikes: neither graded ones nor a membrane potential."""
    return isinstance(population.program, LIF) and not population.readout


def whole(values: Array) -> bool:
    """Whether these can be membrane potentials of integer neurons, or graded spikes."""
    return values.dtype.kind in "biu" or bool((np.abs(values) <= WHOLE).all() and (values == np.rint(values)).all())


def from_events(
    tree: Tree, place: str, kind: str, neurons: int, steps: int, samples: int
) -> tuple[int, npt.NDArray[np.bool_]]:
    """Spikes of the first samples on the grid of steps; t_max, the length of the recording, is `steps` steps."""
    idx, time = array_of(tree, f"{place}idx", "iu", 2), array_of(tree, f"{place}time", "iuf", 2)
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
        value = array_of(tree, f"{place}value", "biuf", 2)
        if value.shape[0] != total or value.shape[1:] != idx.shape[1:]:
            raise UserError(f"value of shape {value.shape}, expected that of idx")
        if not (value[sample, event] == 1).all():
            raise UserError("holds events of a value other than 1, which are not spikes")
    grid = np.zeros((len(idx), steps, neurons), dtype=np.bool_)
    grid[sample, step.astype(np.int64), neuron] = True
    if np.count_nonzero(grid) != len(neuron):
        raise UserError("two events of a neuron in one step, where it can send one spike", hint="is t_max T steps?")
    return total, grid


def array_of(tree: Tree, place: str, kinds: str, axes: int) -> Array:
    """The array at `place`, of a dtype whose kind is one of `kinds` and with so many axes."""
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
