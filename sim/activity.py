"""Count what an engine did: spikes, neuron updates, synaptic operations. The report reads the result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from deploy.activity import Activity, ConnectionActivity, PopulationActivity, raster_neurons
from deploy.synapses import fan_out
from export.interpret import ticks
from export.network import Clock, Driven, Ints, Network, Population, Source
from sim.recording import Recording


def measure(network: Network, recording: Recording, inputs: Ints, accuracy: Mapping[str, tuple[int, int]]) -> Activity:
    """Activity of a recording of raw inputs int64 [samples, T, *shape]; what is sent and not zero is an event."""
    return complete(network, recording.engine, populations(network, recording, inputs), len(inputs), accuracy)


def populations(network: Network, recording: Recording, inputs: Ints) -> tuple[PopulationActivity, ...]:
    """What the populations sent, with the raster of the first sample; those of some samples can be `joined`."""
    samples = len(inputs)
    return tuple(
        _population(
            p,
            _events(p, recording, inputs),
            samples * network.steps * p.size if isinstance(p.program, Driven) else 0,
        )
        for p in network.populations
        if not p.readout
    )


def joined(parts: Sequence[tuple[PopulationActivity, ...]]) -> tuple[PopulationActivity, ...]:
    """The counts of all samples, from those of parts in their order."""
    return tuple(
        replace(
            same[0],
            spikes_per_step=sum((p.spikes_per_step for p in same[1:]), same[0].spikes_per_step),
            spikes_per_neuron=sum((p.spikes_per_neuron for p in same[1:]), same[0].spikes_per_neuron),
            neuron_updates=sum(p.neuron_updates for p in same),
        )
        for same in zip(*parts, strict=True)
    )


def complete(
    network: Network,
    engine: str,
    populations: tuple[PopulationActivity, ...],
    samples: int,
    accuracy: Mapping[str, tuple[int, int]],
) -> Activity:
    """With what follows from it: events and synaptic operations of every connection."""
    by_id = {p.id: p for p in populations}
    connections = []
    for connection in network.connections:
        source, target = network.population(connection.source), network.population(connection.target)
        drives = fan_out(connection, source, target)
        per_neuron = by_id[source.id].spikes_per_neuron
        connections.append(ConnectionActivity(connection.id, by_id[source.id].spikes, int((per_neuron * drives).sum())))
    return Activity(
        network=network.digest,
        engine=engine,
        samples=samples,
        steps=network.steps,
        raster_sample=0,
        populations=populations,
        connections=tuple(connections),
        accuracy=dict(accuracy),
    )


def _events(population: Population, recording: Recording, inputs: Ints) -> npt.NDArray[np.bool_]:
    match population.program:
        case Source() as program:
            return np.asarray(program.encode(inputs) != 0)
        case Clock():
            every_sample = ticks(population.shape, len(inputs)).astype(np.bool_)
            return every_sample.swapaxes(0, 1)
    sent = recording.values(population.id)
    assert sent is not None, "an engine records all that connections drive"
    return np.asarray(sent != 0)


def _population(population: Population, sent: npt.NDArray[np.bool_], updates: int) -> PopulationActivity:
    shown = raster_neurons(population.size)
    return PopulationActivity(
        id=population.id,
        spikes_per_step=sent.sum(axis=(0, *range(2, sent.ndim)), dtype=np.int64),
        spikes_per_neuron=sent.sum(axis=(0, 1), dtype=np.int64),
        neuron_updates=updates,
        raster=sent[0].reshape(len(sent[0]), -1)[:, shown],
        raster_neurons=shown,
    )
