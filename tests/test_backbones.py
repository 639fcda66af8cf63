"""Every backbone with every neuron and every place of the temporal shift: it exports, and all engines give one answer.

In `make test` each backbone meets each place of the shift, and each neuron each place in one backbone; the rest, and
Lava's runtime on all of them, is `pytest -m slow tests/test_backbones.py`.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import NamedTuple, get_args

import nir_machine
import numpy as np
import pytest
import torch
from torch import nn

from export.formats.nir_writer import write_nir
from export.interpret import interpret
from export.network import Dense, Ints, Network
from export.pipeline import PASSES, Compiled, compile_graph, lower_graph
from export.trace import trace
from sim import equivalence, fast, lava, reference, torch_engine
from sim.equivalence import Comparison
from train import models
from train.choices import ModelName, NeuronName, ShiftPosition
from train.config import ModelConfig
from train.data import DataSpec
from train.quantise.prepare import prepare

SPEC = DataSpec("random", (2, 16, 16), 5, 15, (7.0, 7.0), (5.0, 5.0))
STEPS, SAMPLES = 3, 2
NEURONS: tuple[NeuronName, ...] = ("lif", "plif", "da-lif", "if")
SHIFTS: tuple[ShiftPosition | None, ...] = (None, *get_args(ShiftPosition))
BACKBONES: tuple[ModelName, ...] = tuple(name for name in get_args(ModelName) if name != "recurrent")


class Case(NamedTuple):
    """One combination."""

    model: ModelName
    neuron: NeuronName
    shift: ShiftPosition | None

    @property
    def config(self) -> ModelConfig:
        """Its smallest network."""
        width = 1 / 32 if self.model not in ("small-conv", "recurrent") else 1 / 4
        plain = ModelConfig(model=self.model, neuron=self.neuron, width=width, time_steps=STEPS)
        return plain if self.shift is None else replace(plain, temporal_shift=True, shift_position=self.shift)


ALL = [
    *(Case(model, neuron, shift) for model in BACKBONES for neuron in NEURONS for shift in SHIFTS),
    *(Case("recurrent", neuron, None) for neuron in NEURONS),
]
LARGE = ("resnet-34", "resnet-34-imagenet")  # their blocks are those of resnet-18 and resnet-18-imagenet
SOME = {
    *(
        Case(m, NEURONS[(i + j) % 4], s)
        for i, m in enumerate(BACKBONES)
        for j, s in enumerate(SHIFTS)
        if m not in LARGE
    ),
    *(Case(model, "da-lif", "current") for model in LARGE[:1]),
    *(Case("small-conv", neuron, shift) for neuron in NEURONS for shift in SHIFTS),
    *(Case("recurrent", neuron, None) for neuron in NEURONS),
}
IN_LAVA = {
    Case("small-conv", "da-lif", "current"),
    Case("recurrent", "plif", None),
    Case("vgg-11", "lif", "block-input"),
    Case("resnet-18-imagenet", "if", None),
    Case("resnet-20", "plif", "conv-input"),
}


def lively(case: Case) -> nn.Module:
    """An untrained model whose batch norms have seen its currents, so that all its layers fire; odd gains, shifts."""
    torch.manual_seed(1)
    model = models.build(case.config, SPEC).double()
    x = torch.from_numpy(frames(8).swapaxes(0, 1).astype(np.float64))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.5
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.2, 0.6)
    if isinstance(model, models.RecurrentDense):
        nn.init.normal_(model.input.weight, 0, 0.1)
        nn.init.normal_(model.hidden.weight, 0, 0.3)
    with torch.no_grad():
        for _ in range(8):
            model(x)
    return model.eval()


def frames(samples: int, seed: int = 0) -> Ints:
    """Random frames that change from step to step, int64 [samples, T, C, H, W]."""
    return np.random.default_rng(seed).integers(0, 16, (samples, STEPS, *SPEC.shape))


@cache
def compiled(case: Case) -> tuple[nn.Module, Compiled]:
    """The model and what the compiler makes of it; the float graph is held against the model on the way."""
    model = lively(case)
    graph = trace(model, SPEC, STEPS, case.model)
    x = frames(4, seed=1).swapaxes(0, 1).astype(np.float64)
    with torch.no_grad():
        np.testing.assert_allclose(interpret(graph, x).logits, model(torch.from_numpy(x)).numpy(), atol=1e-9)
    return model, compile_graph(lower_graph(graph), x)


def exact(network: Network, first: object, second: object, x: Ints) -> Comparison:
    """The comparison, where nothing differs and every population fired."""
    result = equivalence.compare(network, first, second, x)  # type: ignore[arg-type]
    assert result.equal, result.divergence
    silent = [p.id for p in result.populations if p.spikes == 0]
    assert not silent, f"nothing to compare in {silent}"
    return result


def label(case: Case) -> str:
    return "-".join((case.model, case.neuron, case.shift or "unshifted"))


@pytest.mark.parametrize(
    "case", [pytest.param(c, id=label(c), marks=() if c in SOME else pytest.mark.slow) for c in ALL]
)
def test_integer_reference_and_torch_are_equal(case: Case) -> None:
    model, network = compiled(case)[0], compiled(case)[1].network
    x = frames(SAMPLES)
    integer = fast.run(network, x)
    assert exact(network, integer, torch_engine.run(network, model, x), x).spikes > 0
    assert exact(network, integer, reference.run(network, x), x).spikes > 0


@pytest.mark.parametrize(
    "case", [pytest.param(c, id=label(c), marks=() if c in SOME else pytest.mark.slow) for c in ALL]
)
def test_trained_in_integers_is_the_network(case: Case) -> None:
    """--quantize takes it; nothing is searched, and the training model shares no number with the network file."""
    model = prepare(lively(case).float(), SPEC, STEPS)  # type: ignore[arg-type]
    stages = lower_graph(trace(model, SPEC, STEPS, case.model))
    network = compile_graph(stages, frames(1, seed=1).swapaxes(0, 1).astype(np.float64)).network
    assert all(record.spike_agreement == 1 and record.saturated == 0 for record in network.records)
    x = frames(SAMPLES)
    own = torch_engine.run(network, model, x)
    assert exact(network, fast.run(network, x), own, x).spikes > 0
    assert exact(network, reference.run(network, x[:1]), own, x[:1]).spikes > 0


@pytest.mark.lava
@pytest.mark.parametrize(
    "case", [pytest.param(c, id=label(c), marks=() if c in IN_LAVA else pytest.mark.slow) for c in ALL]
)
def test_integer_and_lava_are_equal(case: Case) -> None:
    network = compiled(case)[1].network
    x = frames(SAMPLES)
    result = exact(network, fast.run(network, x), lava.run(network, x, timeout=600.0), x)
    print(f"{label(case)}: {len(result.populations)} populations, {result.spikes} spikes equal")


@pytest.mark.parametrize("fault", ["weight", "delay", "missing"])
def test_a_fault_in_recurrence_shows(fault: str) -> None:
    model, network = compiled(Case("recurrent", "lif", None))[0], compiled(Case("recurrent", "lif", None))[1].network
    (loop,) = (c for c in network.connections if c.source == c.target)
    others = tuple(c for c in network.connections if c is not loop)
    if fault == "weight":
        assert isinstance(loop.synapses, Dense)
        flipped = -loop.synapses.weight.clip(-254)
        others = (*others, replace(loop, synapses=Dense(flipped)))
    elif fault == "delay":
        network = replace(network, period=network.period + 1)
        others = (*others, replace(loop, delay=loop.delay + 1))
    x = frames(8)
    faulty = replace(network, connections=others, records=())
    own = torch_engine.run(network, model, x)
    assert equivalence.compare(network, own, fast.run(network, x), x).equal
    for engine in (fast, reference):
        assert not equivalence.compare(network, own, engine.run(faulty, x), x).equal


@pytest.mark.parametrize(
    "case",
    [Case("recurrent", "lif", None), Case("resnet-18-imagenet", "lif", "conv-input"), Case("resnet-20", "lif", None)],
)
def test_the_nir_file_gives_the_float_models_spikes(case: Case, tmp_path: Path) -> None:
    """Loops, cropped convolutions and pooled shortcuts in a file that knows none of them by name, back to back."""
    stages = compiled(case)[1]
    x = frames(SAMPLES)
    write_nir(tmp_path / "model.nir", stages.nir)
    outputs = nir_machine.run(tmp_path / "model.nir", x.astype(np.float64))
    expected = interpret(stages.stages[PASSES[-1].__name__], x.swapaxes(0, 1).astype(np.float64))
    *spiking, readout = expected.values.items()
    for name, values in spiking:
        if name in outputs or not name.startswith("input"):
            np.testing.assert_allclose(outputs[name.replace(".", "_")].swapaxes(0, 1), values, atol=1e-9, err_msg=name)
    np.testing.assert_allclose(outputs["output"].swapaxes(0, 1).cumsum(0), readout[1], atol=1e-9)
