"""What `--attention fold` does to a run: measure its gates, make them static, heal, and count what each step costs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from export import execute
from export.graph import Floats, Graph, Neuron
from export.heal import heal, static_model
from export.interpret import interpret
from export.network import Network
from export.passes.fold_attention import Gate, depends_on_data, fold_attention, measure
from export.trace import trace
from train import data
from train.errors import UserError
from train.models import Classifier
from train.restore import Trained, coded, dataset_of

BATCH = 256


@dataclass(frozen=True)
class Folding:
    """The command line's choices: epochs and learning rate of healing (0 epochs: none), test samples of the report."""

    name: ClassVar[str] = "fold"

    heal: int = 0
    heal_rate: float = 0.01
    test_samples: int = 1000

    def __post_init__(self) -> None:
        if self.heal < 0 or self.test_samples < 1:
            name, value = ("heal", self.heal) if self.heal < 0 else ("test-samples", self.test_samples)
            raise UserError(f"--{name} {value}, must be at least {0 if name == 'heal' else 1}")
        if not 0 < self.heal_rate < float("inf"):
            raise UserError(f"--heal-rate {self.heal_rate}, must be above 0")


@dataclass(frozen=True, eq=False)
class Version:
    """One form of the model: its name, correct answers of the float model, and of its integers (None: not compiled)."""

    name: str
    correct: int
    integer: int | None = None


@dataclass(frozen=True, eq=False)
class Folded:
    """The folded graph to compile, before or after healing, with what it took to get there.

    Attributes:
        graph: to be lowered with `gates`.
        gates: those that are still to be folded in it; none after healing, which has them static.
        lost: (gate, agreement of the neurons next to it with those of the model with attention) for every gate.
        versions: accuracies so far; those of the integers of `graph` are to come.
        losses: of the epochs of healing.
    """

    graph: Graph
    gates: tuple[Gate, ...]
    lost: tuple[tuple[Gate, float], ...]
    versions: tuple[Version, ...]
    losses: tuple[float, ...]
    inputs: Tensor
    labels: Tensor


def has_attention(graph: Graph) -> bool:
    """Whether a graph holds gates that `fold` would make static."""
    return any(map(depends_on_data, graph.nodes))


def fold(
    trained: Trained,
    run: Path,
    graph: Graph,
    calibration: Floats,
    how: Folding,
    integers: Callable[[Graph, tuple[Gate, ...]], Network],
) -> Folded:
    """Fold the attention of a run's model, and heal it where asked to.

    Args:
        graph: of the model with attention.
        calibration: raw inputs [T, B, *shape] on which gains are measured.
        integers: compiles a graph with the gates to fold in it.

    Raises:
        UserError: a gate that cannot be folded; what `heal` raises.
    """
    model = trained.model
    assert isinstance(model, Classifier)
    gates = measure(graph, calibration)
    lost = _agreement(graph, gates, calibration)
    inputs, labels = test_inputs(trained, how.test_samples)
    static = static_model(model, gates)
    versions = [Version("with attention", correct(model, inputs, labels))]
    folded = Version("folded", correct(static, inputs, labels))
    if not how.heal:
        return Folded(graph, gates, lost, (*versions, folded), (), inputs, labels)
    unhealed = integers(graph, gates)
    versions.append(Version("folded", folded.correct, correct_integers(unhealed, inputs, labels)))
    losses = tuple(heal(trained, run, static, how.heal, how.heal_rate))
    versions.append(Version(f"folded, healed for {how.heal} epochs", correct(static, inputs, labels)))
    healed = trace(static, trained.data, trained.config.model.time_steps, graph.name)
    return Folded(healed, (), lost, tuple(versions), losses, inputs, labels)


def test_inputs(trained: Trained, samples: int) -> tuple[Tensor, Tensor]:
    """Inputs [T, B, *shape] and labels of samples spread evenly over the test set."""
    split = dataset_of(trained.config).test
    chosen = data.spread(len(split), min(samples, len(split)))
    return coded(trained.config, trained.data, split.read(chosen)), split.labels[chosen]


@torch.no_grad()
def correct(model: nn.Module, inputs: Tensor, labels: Tensor) -> int:
    """Samples of inputs [T, B, *shape] that the float model answers as its labels say."""
    model.eval()
    return sum(
        int((model(batch.float()).argmax(1) == wanted).sum())
        for batch, wanted in zip(inputs.split(BATCH, dim=1), labels.split(BATCH), strict=True)
    )


def correct_integers(network: Network, inputs: Tensor, labels: Tensor) -> int:
    """The same for an integer network."""
    answers = execute.answers(network, inputs.transpose(0, 1).long().numpy())
    return int(np.count_nonzero(answers == labels.numpy()))


def _agreement(graph: Graph, gates: tuple[Gate, ...], calibration: Floats) -> tuple[tuple[Gate, float], ...]:
    """How many spikes and silences of the neurons at each gate survive the fold, all layers before folded too."""
    before, after = interpret(graph, calibration), interpret(fold_attention(graph, gates), calibration)
    same = {name: float(np.mean(value == before.values[name])) for name, value in after.values.items()}
    return tuple((gate, same[_neuron_at(graph, gate.id)]) for gate in gates)


def _neuron_at(graph: Graph, gate: str) -> str:
    """The neuron that a gate's current drives, or that sends the spikes it multiplies."""
    node = graph[gate]
    if isinstance(graph[node.inputs[0]], Neuron):
        return node.inputs[0]
    while not isinstance(node, Neuron):
        node = graph.consumers(node.id)[0]
    return node.id
