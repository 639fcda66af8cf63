"""Float against integer: another question than equality, with its own numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from torch import nn

from export.network import LIF, Ints, Network
from sim import torch_engine
from sim.recording import Recording


@dataclass(frozen=True)
class LayerAgreement:
    """One population: neuron-steps, at how many float model and integer network agree, and the spikes of both."""

    population: str
    compared: int
    equal: int
    float_spikes: int
    integer_spikes: int

    @property
    def agreement(self) -> float:
        """The fraction of neuron-steps where they agree."""
        return self.equal / self.compared


def joined(parts: Sequence[LayerAgreement]) -> LayerAgreement:
    """The agreement over all samples, from that of its parts."""
    return LayerAgreement(
        parts[0].population,
        sum(p.compared for p in parts),
        sum(p.equal for p in parts),
        sum(p.float_spikes for p in parts),
        sum(p.integer_spikes for p in parts),
    )


@dataclass(frozen=True, eq=False)
class FloatRun:
    """The trained float model on the same samples: agreement by layer, and its answers int64 [samples]."""

    layers: tuple[LayerAgreement, ...]
    answers: Ints


def run(
    network: Network,
    model: nn.Module,
    inputs: Ints,
    integer: Recording,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> FloatRun:
    """Run the float model on inputs int64 [samples, T, *shape] and hold it against the integer engine's recording."""
    spiking = [p for p in network.populations if isinstance(p.program, LIF) and not p.readout]
    ids = {p.origin: p.id for p in spiking}
    logits_path = next(c.origin for c in network.connections if network.population(c.target).readout)
    captured = torch_engine.record(model, {**ids, logits_path: "logits"}, inputs, progress)
    layers = []
    for population in spiking:
        ours, theirs = captured[population.id] > 0, integer.spikes[population.id]
        counts = int(np.count_nonzero(ours)), int(np.count_nonzero(theirs))
        layers.append(LayerAgreement(population.id, ours.size, int(np.count_nonzero(ours == theirs)), *counts))
    return FloatRun(tuple(layers), captured["logits"].mean(1).argmax(1).astype(np.int64))


def answers(network: Network, recording: Recording) -> Ints:
    """The class with the highest membrane potential at the end of each window: int64 [samples]."""
    assert network.readout is not None
    final = recording.membrane[network.readout.id][:, -1]
    return np.asarray(final.argmax(-1), dtype=np.int64)
