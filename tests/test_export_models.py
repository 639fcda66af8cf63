"""Models of `train` through the whole compiler: the machine gives the spikes of the quantised PyTorch model."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from export.interpret import interpret
from export.pipeline import compile_graph, lower_graph
from export.trace import trace
from sim import equivalence, fast, reference, torch_engine
from train import models
from train.choices import ModelName, NeuronName
from train.config import ModelConfig
from train.data import DataSpec
from train.errors import UserError

SPEC = DataSpec("random", (2, 16, 16), 5, 15, (7.0, 7.0), (5.0, 5.0))


def lively(config: ModelConfig) -> nn.Module:
    """A model whose batch norms let every layer fire."""
    torch.manual_seed(1)
    model = models.build(config, SPEC).double()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_var is not None
            module.running_var.fill_(0.3)
            module.bias.data.uniform_(-0.3, 0.6)
    return model.eval()


@pytest.mark.parametrize(
    ("model", "neuron", "shift"),
    [
        ("small-conv", "da-lif", True),
        ("small-conv", "plif", False),
        ("small-conv", "if", False),
        ("vgg-11", "lif", False),
    ],
)
def test_chains_are_exact(model: ModelName, neuron: NeuronName, shift: bool) -> None:
    config = ModelConfig(model=model, neuron=neuron, temporal_shift=shift, width=0.125 if model != "small-conv" else 1)
    trained = lively(config)
    x = np.random.default_rng(0).integers(0, 16, (4, 4, 2, 16, 16))  # [samples, T, C, H, W]
    graph = trace(trained, SPEC, 4, model)
    inputs = x.swapaxes(0, 1).astype(np.float64)
    with torch.no_grad():
        np.testing.assert_allclose(
            interpret(graph, inputs).logits, trained(torch.from_numpy(inputs)).numpy(), atol=1e-9
        )
    network = compile_graph(lower_graph(graph), inputs).network
    integer = fast.run(network, x)
    assert all(spikes.any() for spikes in integer.spikes.values())
    for other in (torch_engine.run(network, trained, x), reference.run(network, x)):
        result = equivalence.compare(network, integer, other, x)
        assert result.equal, result.divergence


@pytest.mark.parametrize("neuron", ["lif", "da-lif"])
def test_residual_networks_are_exact_in_the_machine(neuron: NeuronName) -> None:
    """ResNet-19 with temporal shift: joins by delays; the machine equals the layer-wise engine."""
    trained = lively(ModelConfig(model="resnet-19", neuron=neuron, temporal_shift=True, width=1 / 32, time_steps=3))
    x = np.random.default_rng(0).integers(0, 16, (2, 3, 2, 16, 16))
    graph = trace(trained, SPEC, 3, "resnet")
    stages = lower_graph(graph)
    inputs = x.swapaxes(0, 1).astype(np.float64)
    with torch.no_grad():
        np.testing.assert_allclose(
            interpret(graph, inputs).logits, trained(torch.from_numpy(inputs)).numpy(), atol=1e-9
        )
    network = compile_graph(stages, inputs).network
    integer, machine = fast.run(network, x), reference.run(network, x)
    assert equivalence.compare(network, integer, machine, x).equal
    assert sum(int(spikes.sum()) for spikes in integer.spikes.values()) > 1000


def test_negative_gain_is_refused_by_name() -> None:
    model = lively(ModelConfig(neuron="da-lif"))
    neuron = model.get_submodule("block2.lif")
    neuron.tau_a.data.fill_(-0.5)  # type: ignore[union-attr]
    with pytest.raises(UserError, match=r"block2\.lif: gain -0\.46"):
        trace(model, SPEC, 4, "negative")


def test_one_decay_for_each_channel_is_refused_by_name() -> None:
    model = lively(ModelConfig(neuron="da-lif", per_channel=True))
    with pytest.raises(UserError, match=r"block1\.lif: one leak for each channel"):
        trace(model, SPEC, 4, "channels")


def test_attention_is_refused_by_name() -> None:
    model = lively(ModelConfig(attention="fsta"))
    with pytest.raises(UserError, match=r"block1\.lif\.attention: no rule for a layer of type FSTA"):
        trace(model, SPEC, 4, "attention")
