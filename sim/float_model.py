"""The float model beside the integer network: where the spikes agree, and what each of them answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import nn

from export.network import LIF, Attention, Ints, Network
from sim import torch_engine
from sim.recording import Recording


@dataclass(frozen=True)
class LayerAgreement:
    """One population of the float model against the integer network.

    Attributes:
        compared: neuron-steps.
        equal: of these, where both fire or both are silent.
        distance: sum over neurons and samples of |spikes in the window, float - integer|.
        float_spikes: in all windows; `integer_spikes` likewise.
    """

    population: str
    compared: int
    equal: int
    distance: int
    float_spikes: int
    integer_spikes: int

    @property
    def agreement(self) -> float:
        """The fraction of neuron-steps where they agree."""
        return self.equal / self.compared

    @property
    def count_distance(self) -> float:
        """`distance` over the float spikes (over 1 where there are none)."""
        return self.distance / max(1, self.float_spikes)


def joined(parts: Sequence[LayerAgreement]) -> LayerAgreement:
    """The agreement over all samples, from that of its parts."""
    return LayerAgreement(
        parts[0].population,
        sum(p.compared for p in parts),
        sum(p.equal for p in parts),
        sum(p.distance for p in parts),
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
    ids, logits = spiking(network), readout_path(network)
    captured = torch_engine.record(model, {**ids, logits: "logits"}, inputs, progress)
    layers = []
    for name in ids.values():
        ours, theirs = captured[name] > 0, integer.spikes[name]
        apart = np.abs(ours.sum(1, dtype=np.int64) - theirs.sum(1, dtype=np.int64))
        equal, *spikes = (int(np.count_nonzero(values)) for values in (ours == theirs, ours, theirs))
        layers.append(LayerAgreement(name, ours.size, equal, int(apart.sum()), *spikes))
    return FloatRun(tuple(layers), classes(captured["logits"]))


def spiking(network: Network) -> dict[str, str]:
    """Module path -> population id, of every spiking population but the read-out, in network order."""
    return {p.origin: p.id for p in network.populations if isinstance(p.program, LIF) and not p.readout}


def readout_path(network: Network) -> str:
    """Path of the module whose outputs are the logits."""
    last = next(c for c in network.connections if network.population(c.target).readout)
    source = network.population(last.source)
    return source.origin if isinstance(source.program, Attention) else last.origin  # a relay is its layer's


def classes(logits: npt.NDArray[np.floating[Any]]) -> Ints:
    """Classes of logits [samples, T, classes]: int64 [samples]."""
    return np.asarray(logits.mean(1).argmax(1), dtype=np.int64)


def answers(network: Network, recording: Recording) -> Ints:
    """The class with the highest membrane potential at the end of each window: int64 [samples]."""
    assert network.readout is not None
    final = recording.membrane[network.readout.id][:, -1]
    return np.asarray(final.argmax(-1), dtype=np.int64)
