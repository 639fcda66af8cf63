"""What a simulation did, in counts: the simulator makes it, the report reads it (`deploy.activity_store`)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from export.network import Driven, Ints, Network
from train.errors import UserError

RASTER_NEURONS = 512  # of one population: more rows than a screen can show
COMMAND = "python -m sim"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,119}")


@dataclass(frozen=True, eq=False)
class PopulationActivity:
    """What one population sent; for the input population a spike is a graded event, a value that is not zero.

    Attributes:
        id: the population's id.
        spikes_per_step: int64 [T], summed over samples and neurons; step t is window step t.
        spikes_per_neuron: int64 [*shape], summed over samples and steps.
        neuron_updates: neurons x machine steps within windows (0 for input and clocks, which the host sends).
        raster: bool [T, n], the spikes of one sample for n of the neurons.
        raster_neurons: int64 [n], their flat indices; see `raster_neurons`.
    """

    id: str
    spikes_per_step: Ints
    spikes_per_neuron: Ints
    neuron_updates: int
    raster: npt.NDArray[np.bool_]
    raster_neurons: Ints

    @property
    def spikes(self) -> int:
        """All spikes, over samples, steps and neurons."""
        return int(self.spikes_per_step.sum())


@dataclass(frozen=True)
class ConnectionActivity:
    """What one connection carried, over all samples.

    Attributes:
        events: spikes (or graded events) that its source sent into it.
        synaptic_operations: sum over events of the nonzero synapses that each drives (`deploy.synapses.fan_out`).
    """

    id: str
    events: int
    synaptic_operations: int


@dataclass(frozen=True, eq=False)
class Activity:
    """What one engine did with some samples.

    Attributes:
        network: the digest of the network that ran.
        engine: "integer", "lava", ...
        samples: number of samples that every count is summed over.
        steps: T, the steps of a window.
        raster_sample: which sample the rasters show.
        populations: those that send spikes or graded events (no read-out), in network order.
        connections: every connection, in network order.
        accuracy: engine or model ("float", "integer", "lava", "torch") -> (correct, total).

    Raises:
        UserError: on construction, when the counts contradict each other.
    """

    network: str
    engine: str
    samples: int
    steps: int
    raster_sample: int
    populations: tuple[PopulationActivity, ...]
    connections: tuple[ConnectionActivity, ...]
    accuracy: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _validate(self)


def raster_neurons(size: int, most: int = RASTER_NEURONS) -> Ints:
    """int64 [min(size, most)]: flat indices of the neurons that a raster shows, evenly spaced."""
    count = min(size, most)
    return np.arange(count, dtype=np.int64) * size // count


def check_matches(activity: Activity, network: Network) -> None:
    """Make sure that the counts belong to this network.

    Raises:
        UserError: another window length, or a part of another shape or that the network does not have.
    """
    stale = "simulate this network again: " + COMMAND
    if activity.network != network.digest:
        raise UserError("belongs to another network, or to one exported before", hint=stale)
    if activity.steps != network.steps:
        raise UserError(f"windows of {activity.steps} steps, the network has {network.steps}", hint=stale)
    steps = activity.samples * activity.steps
    shapes = {p.id: p.shape for p in network.populations if not p.readout}
    neurons = {p.id for p in network.populations if isinstance(p.program, Driven)}
    for population in activity.populations:
        if shapes.get(population.id) != population.spikes_per_neuron.shape:
            raise UserError(f"population {population.id} is not in the network, or has another shape there", hint=stale)
        updates = population.spikes_per_neuron.size * steps if population.id in neurons else 0
        if population.neuron_updates != updates:
            raise UserError(f"population {population.id}: {population.neuron_updates} neuron updates, not {updates}")
    missing = {c.id for c in network.connections} ^ {c.id for c in activity.connections}
    missing |= set(shapes) ^ {p.id for p in activity.populations}
    if missing:
        raise UserError(f"{min(missing)} is in only one of activity and network", hint=stale)


def _check(condition: bool, what: str) -> None:
    if not condition:
        raise UserError(what, where="activity")


def _validate(activity: Activity) -> None:
    _check(activity.samples >= 1 and activity.steps >= 1, f"{activity.samples} samples of {activity.steps} steps")
    _check(0 <= activity.raster_sample < activity.samples, f"raster of sample {activity.raster_sample}")
    for name in [p.id for p in activity.populations] + [c.id for c in activity.connections]:
        _check(_NAME.fullmatch(name) is not None, f"id {name[:80]!r}")
    for population in activity.populations:
        _validate_population(population, activity)
    for connection in activity.connections:
        _check(
            connection.events >= 0 and connection.synaptic_operations >= 0,
            f"connection {connection.id} has a negative count",
        )
    for name, (correct, total) in activity.accuracy.items():
        _check(_NAME.fullmatch(name) is not None, f"accuracy of {name[:80]!r}")
        _check(0 <= correct <= total and total >= 1, f"accuracy of {name}: {correct} of {total}")


def _validate_population(population: PopulationActivity, activity: Activity) -> None:
    where = f"population {population.id}"
    neurons = population.spikes_per_neuron.size
    _check(population.spikes_per_step.shape == (activity.steps,), f"{where}: spikes_per_step is not one per step")
    for counts, most in (
        (population.spikes_per_step, activity.samples * neurons),
        (population.spikes_per_neuron, activity.samples * activity.steps),
    ):
        _check(bool(np.all((counts >= 0) & (counts <= most))), f"{where}: a count outside 0..{most}")
    _check(int(population.spikes_per_neuron.sum()) == population.spikes, f"{where}: two different spike totals")
    _check(population.neuron_updates >= 0, f"{where}: neuron_updates {population.neuron_updates}")
    shown = population.raster_neurons
    _check(
        shown.ndim == 1
        and population.raster.shape == (activity.steps, shown.size)
        and bool(np.all((shown >= 0) & (shown < neurons))),
        f"{where}: its raster does not fit its neurons",
    )
