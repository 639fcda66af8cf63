"""Float against integer: another question than equality, with its own numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from export.network import LIF, Ints, Network
from sim import torch_engine
from sim.recording import Recording

PROBE = torch_engine.BATCH  # samples for what takes one run of the float model for each layer; one batch

NOISE = 0.01  # of the probe's samples: a smaller loss of correct answers is that of single samples


@dataclass(frozen=True)
class LayerAgreement:
    """One population of the float model against the integer network.

    Attributes:
        agreement: fraction of neuron-steps where both fire or both are silent.
        own: the same where the float model gets the integer network's spikes in all populations before this one: what
            this population adds, without what it inherits. On the probe's samples.
        count_distance: sum over neurons and samples of |spikes in the window, float - integer|, over the float spikes
            (over 1 where there are none).
        correct: samples of the probe that are answered correctly with the integer network's spikes up to here and the
            float model behind; without labels: that keep the float model's answer.
    """

    population: str
    agreement: float
    own: float
    count_distance: float
    float_spikes: int
    integer_spikes: int
    correct: int


@dataclass(frozen=True)
class Probe:
    """The first samples, with the float model alone and with the integer network alone.

    Attributes:
        labelled: whether `correct` counts right answers, else answers that are the float model's.
        loss_begins: the first population (the read-out included) from which on fewer answers are correct than with the
            float model alone, by more than NOISE; None where the integer network loses no more than that.
    """

    samples: int
    labelled: bool
    float_correct: int
    integer_correct: int
    loss_begins: str | None


@dataclass(frozen=True, eq=False)
class FloatRun:
    """The trained float model on the same samples: agreement by layer, and its answers int64 [samples]."""

    layers: tuple[LayerAgreement, ...]
    answers: Ints
    probe: Probe


def run(
    network: Network,
    model: nn.Module,
    inputs: Ints,
    integer: Recording,
    labels: Ints | None = None,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> FloatRun:
    """Run the float model on inputs int64 [samples, T, *shape] and hold it against the integer engine's recording."""
    spiking = [p for p in network.populations if isinstance(p.program, LIF) and not p.readout]
    ids = {p.origin: p.id for p in spiking}
    logits_path = next(c.origin for c in network.connections if network.population(c.target).readout)
    captured = torch_engine.record(model, {**ids, logits_path: "logits"}, inputs, progress)
    answered = _classes(captured["logits"])
    few, forced = inputs[:PROBE], {path: integer.spikes[name][:PROBE] for path, name in ids.items()}
    right = answered[:PROBE] if labels is None else labels[:PROBE]
    layers = []
    for index, population in enumerate(spiking):
        up_to_here = {path: forced[path] for path in list(ids)[: index + 1]}
        with _in_place(model, up_to_here) as own:
            mixed = _classes(torch_engine.record(model, {logits_path: "logits"}, few)["logits"])
        ours, theirs = captured[population.id] > 0, integer.spikes[population.id]
        float_spikes, integer_spikes = (int(np.count_nonzero(spikes)) for spikes in (ours, theirs))
        distance = int(np.abs(ours.sum(1, dtype=np.int64) - theirs.sum(1, dtype=np.int64)).sum())
        layers.append(
            LayerAgreement(
                population.id,
                float(np.mean(ours == theirs)),
                own[population.origin],
                distance / max(1, float_spikes),
                float_spikes,
                integer_spikes,
                int((mixed == right).sum()),
            )
        )
    float_correct = int((answered[:PROBE] == right).sum())
    integer_correct = int((answers(network, integer)[:PROBE] == right).sum())
    counts = {**{layer.population: layer.correct for layer in layers}, _readout(network): integer_correct}
    begins = loss_begins(counts, float_correct, int(NOISE * len(few)))
    return FloatRun(
        tuple(layers), answered, Probe(len(few), labels is not None, float_correct, integer_correct, begins)
    )


def loss_begins(correct: Mapping[str, int], before: int, noise: int) -> str | None:
    """The first population from which on all have fewer correct answers than `before` - `noise`; None without one.

    A layer whose loss is made good again behind it is not where the loss begins, nor is one of few samples.
    """
    found = None
    for name, count in reversed(list(correct.items())):
        if count >= before - noise:
            break
        found = name
    return found


@contextmanager
def _in_place(model: nn.Module, spikes: Mapping[str, npt.NDArray[np.bool_]]) -> Iterator[dict[str, float]]:
    """Have the modules at these paths put out these spikes, bool [samples, T, *shape], for one batch of all samples.

    Yields:
        path -> the fraction of neuron-steps where the module itself would have put out the same; filled by the run.
    """
    agreement: dict[str, float] = {}

    def hook(path: str, given: Tensor) -> Callable[[nn.Module, Any, Tensor], Tensor]:
        def replace(module: nn.Module, arguments: Any, output: Tensor) -> Tensor:
            wanted = given.to(output.device).reshape(output.shape)
            agreement[path] = float(((output > 0) == wanted).double().mean())
            return wanted.to(output.dtype)

        return replace

    handles = [
        model.get_submodule(path).register_forward_hook(hook(path, torch.from_numpy(values.swapaxes(0, 1).copy())))
        for path, values in spikes.items()
    ]
    try:
        yield agreement
    finally:
        for handle in handles:
            handle.remove()


def _classes(logits: npt.NDArray[np.floating[Any]]) -> Ints:
    """Classes of logits [samples, T, classes]: int64 [samples]."""
    return np.asarray(logits.mean(1).argmax(1), dtype=np.int64)


def _readout(network: Network) -> str:
    assert network.readout is not None
    return network.readout.id


def answers(network: Network, recording: Recording) -> Ints:
    """The class with the highest membrane potential at the end of each window: int64 [samples]."""
    final = recording.membrane[_readout(network)][:, -1]
    return np.asarray(final.argmax(-1), dtype=np.int64)
