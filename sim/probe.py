"""Where accuracy is lost: the float model with the integer network's spikes put in, one more population at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from export.network import Ints, Network
from sim import float_model, torch_engine
from sim.recording import Recording

SAMPLES = torch_engine.BATCH  # it takes one run of the float model for each layer, so it gets one batch
NOISE = 0.01  # of the samples: a smaller loss of correct answers is that of single samples


@dataclass(frozen=True)
class LayerProbe:
    """One population.

    Attributes:
        own: fraction of neuron-steps that agree where the float model gets the integer network's spikes in all
            populations before this one: what this population adds, without what it inherits.
        correct: samples that are answered correctly with the integer network's spikes up to here and the float model
            behind; without labels: that keep the float model's answer.
    """

    population: str
    own: float
    correct: int


@dataclass(frozen=True)
class Probe:
    """The first samples, with the float model alone, with the integer network alone, and with part of each.

    Attributes:
        labelled: whether `correct` counts right answers, else answers that are the float model's.
        loss_begins: the first population (the read-out included) from which on fewer answers are correct than with the
            float model alone, by more than NOISE; None where the integer network loses no more than that.
    """

    samples: int
    labelled: bool
    float_correct: int
    integer_correct: int
    layers: tuple[LayerProbe, ...]
    loss_begins: str | None


def run(
    network: Network, model: nn.Module, inputs: Ints, integer: Recording, answers: Ints, labels: Ints | None = None
) -> Probe:
    """Probe the first SAMPLES of inputs int64 [samples, T, *shape].

    Args:
        integer: the integer engine's recording of these inputs.
        answers: the float model's, int64 [samples].
        labels: int64 [samples]; without them the float model's answers are the right ones.
    """
    ids, logits = float_model.spiking(network), float_model.readout_path(network)
    few, forced = inputs[:SAMPLES], {path: integer.spikes[name][:SAMPLES] for path, name in ids.items()}
    right = (answers if labels is None else labels)[:SAMPLES]
    layers = []
    for index, (path, name) in enumerate(ids.items()):
        up_to_here = {path: forced[path] for path in list(ids)[: index + 1]}
        with _in_place(model, up_to_here) as own:
            mixed = float_model.classes(torch_engine.record(model, {logits: "logits"}, few)["logits"])
        layers.append(LayerProbe(name, own[path], int((mixed == right).sum())))
    float_correct = int((answers[:SAMPLES] == right).sum())
    integer_correct = int((float_model.answers(network, integer)[:SAMPLES] == right).sum())
    assert network.readout is not None
    counts = {**{layer.population: layer.correct for layer in layers}, network.readout.id: integer_correct}
    begins = loss_begins(counts, float_correct, int(NOISE * len(few)))
    return Probe(len(few), labels is not None, float_correct, integer_correct, tuple(layers), begins)


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
