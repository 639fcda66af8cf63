"""Float against integer, layer by layer: what agrees, what each layer adds, and where answers begin to be lost."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from export.network import Convolution, Dense, Network
from sim import fast, float_model, probe
from sim.deployed import Deployed, deploy
from train import models
from train.config import ModelConfig
from train.data import DataSpec

SPEC = DataSpec("random", (2, 8, 8), 5, 15, (7.0, 7.0), (5.0, 5.0))
STEPS, SAMPLES = 4, 50


@pytest.fixture(scope="module")
def trained() -> tuple[nn.Module, Deployed]:
    torch.manual_seed(3)
    config = ModelConfig(model="small-conv", neuron="lif", width=1 / 4, time_steps=STEPS)
    model = models.build(config, SPEC).eval()
    x = np.random.default_rng(0).integers(0, 16, (5 * SAMPLES, 1, 2, 8, 8)).repeat(STEPS, axis=1)
    with torch.no_grad():
        first, second = model(torch.from_numpy(x).float().transpose(0, 1)).topk(2).values.T
    clear = (second - first).argsort()[:SAMPLES]  # an untrained network hardly tells the others apart
    return model, deploy(model, x[clear.numpy()], levels=15)


def test_numbers_of_each_layer(trained: tuple[nn.Module, Deployed]) -> None:
    model, found = trained
    network, integer = found.network, found.recordings["integer"]
    result = float_model.run(network, model, found.inputs, integer)
    tried = probe.run(network, model, found.inputs, integer, result.answers)
    assert [layer.population for layer in result.layers] == list(integer.spikes)
    assert [layer.population for layer in tried.layers] == list(integer.spikes)
    assert not tried.labelled
    assert tried.samples == tried.float_correct == SAMPLES  # without labels: its own answers
    integer_answers = float_model.answers(network, integer)
    assert tried.integer_correct == int((integer_answers == result.answers).sum())
    own, inherited = [layer.own for layer in tried.layers], [layer.agreement for layer in result.layers]
    assert own[0] == pytest.approx(inherited[0])  # it inherits nothing
    assert own[1:] != pytest.approx(inherited[1:])
    for layer in result.layers:
        assert layer.float_spikes > 0
        assert 0.8 < layer.agreement <= 1
        least = abs(layer.float_spikes - layer.integer_spikes) / layer.float_spikes
        most = (1 - layer.agreement) * integer.spikes[layer.population].size / layer.float_spikes
        assert least - 1e-9 <= layer.count_distance <= most + 1e-9
    assert all(not module._forward_hooks for module in model.modules())


def test_labels_count_right_answers(trained: tuple[nn.Module, Deployed]) -> None:
    model, found = trained
    integer = found.recordings["integer"]
    labels = float_model.answers(found.network, integer)
    float_answers = float_model.run(found.network, model, found.inputs, integer).answers
    tried = probe.run(found.network, model, found.inputs, integer, float_answers, labels)
    assert tried.labelled
    assert tried.integer_correct == SAMPLES
    assert tried.loss_begins is None


def spoilt(network: Network, name: str) -> Network:
    """The network with every weight into a population reversed."""
    changed = []
    for connection in network.connections:
        if connection.target == name:
            weight = (-connection.synapses.weight).clip(-256, 254)
            kind: Dense | Convolution = replace(connection.synapses, weight=weight)
            connection = replace(connection, synapses=kind)
        changed.append(connection)
    return replace(network, connections=tuple(changed))


@pytest.mark.parametrize("index", [0, 1, 2, -1])
def test_a_spoilt_layer_is_where_the_loss_begins(index: int, trained: tuple[nn.Module, Deployed]) -> None:
    model, found = trained
    names = [*found.recordings["integer"].spikes, "readout"]
    assert found.network.readout is not None
    names[-1] = found.network.readout.id
    bad = spoilt(found.network, names[index])
    recording = fast.run(bad, found.inputs)
    answers = float_model.run(bad, model, found.inputs, recording).answers
    tried = probe.run(bad, model, found.inputs, recording, answers)
    sound = [layer for layer in tried.layers if names.index(layer.population) < names.index(names[index])]
    assert all(layer.own > 0.8 for layer in sound)
    counts = [tried.float_correct, *(x.correct for x in tried.layers), tried.integer_correct]
    assert names[int(np.argmin(np.diff(counts)))] == names[index]
    assert tried.loss_begins == names[index]
    if index >= 0:
        assert min(tried.layers, key=lambda layer: layer.own).population == names[index]


def test_a_loss_that_is_made_good_again_is_not_where_it_begins() -> None:
    assert probe.loss_begins({"a": 10, "b": 9, "c": 10, "d": 8, "e": 9}, 10, 0) == "d"
    assert probe.loss_begins({"a": 9, "b": 8}, 10, 0) == "a"
    assert probe.loss_begins({"a": 9, "b": 8}, 10, 1) == "b"
    assert probe.loss_begins({"a": 9, "b": 10}, 10, 0) is None
    assert probe.loss_begins({"a": 11, "b": 12}, 10, 0) is None
