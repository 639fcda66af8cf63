"""Models of `train` through the whole compiler: the machine gives the spikes of the quantised PyTorch model."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import nn

from export.interpret import interpret
from export.network import LIF, Clock, Network
from export.pipeline import compile_graph, lower_graph
from export.trace import trace
from sim import fast, lava, reference, torch_engine
from sim.pytest_plugin import assert_spikes_equal
from train import layers, models
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
        if isinstance(module, layers.AdaptiveLIF):
            module.m.data.uniform_(0, 1)
            module.n.data.uniform_(0.5, 1.5)
            module.n.data[::5] *= -1
        if isinstance(module, layers.DALIF) and module.tau_a.ndim:
            module.tau_a.data.uniform_(-0.5, 1.5)
            module.tau_b.data.uniform_(0, 2)
    return model.eval()


@pytest.mark.parametrize(
    ("model", "neuron", "shift"),
    [
        ("small-conv", "da-lif", True),
        ("small-conv", "plif", False),
        ("small-conv", "adaptive-lif", True),
        ("small-conv", "if", False),
        ("vgg-11", "lif", False),
    ],
)
def test_chains_are_exact(model: ModelName, neuron: NeuronName, shift: bool) -> None:
    config = ModelConfig(model=model, neuron=neuron, temporal_shift=shift, width=0.125 if model != "small-conv" else 1)
    network = check_exact(lively(config))
    if neuron == "adaptive-lif":
        program = network.population("block1.lif").program
        assert isinstance(program, LIF)
        assert len(np.unique(program.dv)) > 10


def check_exact(trained: nn.Module) -> Network:
    """The exported network of a chain of layers, equal in every engine and close to the float model."""
    x = np.random.default_rng(0).integers(0, 16, (4, 4, 2, 16, 16))  # [samples, T, C, H, W]
    graph = trace(trained, SPEC, 4, "model")
    inputs = x.swapaxes(0, 1).astype(np.float64)
    with torch.no_grad():
        np.testing.assert_allclose(
            interpret(graph, inputs).logits, trained(torch.from_numpy(inputs)).numpy(), atol=1e-9
        )
    network = compile_graph(lower_graph(graph), inputs).network
    integer = fast.run(network, x)
    assert all(spikes.any() for spikes in integer.spikes.values())
    for other in (torch_engine.run(network, trained, x), reference.run(network, x)):
        assert_spikes_equal(network, integer, other, x)
    return network


@pytest.mark.parametrize("neuron", ["da-lif", "plif"])
def test_leaks_and_gains_of_each_channel_are_exact(neuron: NeuronName) -> None:
    check_exact(lively(ModelConfig(neuron=neuron, per_channel=True)))


def test_a_negative_gain_of_a_layer_is_exact() -> None:
    model = lively(ModelConfig(neuron="da-lif"))
    model.get_submodule("block2.lif").tau_a.data.fill_(-0.5)  # type: ignore[union-attr]
    check_exact(model)


def test_a_position_code_is_exact() -> None:
    """What STAA adds at each step of the window comes from a clock; in the PyTorch model it is an integer code."""
    model = lively(ModelConfig())
    code = layers.PositionCode(32, 4).double()
    torch.nn.init.normal_(code.code, 0, 0.4)
    block = model.block2
    assert isinstance(block, nn.Sequential)
    parts = OrderedDict(block.named_children())
    model.block2 = nn.Sequential(OrderedDict(conv=parts["conv"], norm=parts["norm"], code=code, lif=parts["lif"]))
    network = check_exact(model.eval())
    clock = network.population("block2.code.clock")
    assert isinstance(clock.program, Clock)
    assert clock.start == network.population("block2.lif").start - 1


@pytest.mark.lava
def test_adaptive_lif_is_equal_in_lava() -> None:
    model = lively(ModelConfig(neuron="adaptive-lif", width=0.25))
    network = check_exact(model)
    x = np.random.default_rng(1).integers(0, 16, (3, 4, 2, 16, 16))
    result = assert_spikes_equal(network, fast.run(network, x), lava.run(network, x, timeout=120), x)
    assert all(p.spikes for p in result.populations if p.spikes is not None)


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
    assert_spikes_equal(network, integer, machine, x)
    assert sum(int(spikes.sum()) for spikes in integer.spikes.values()) > 1000


def test_leak_that_the_chip_does_not_have_is_refused_by_name() -> None:
    model = lively(ModelConfig(neuron="adaptive-lif"))
    model.get_submodule("block2.lif").m.data[3] = 1.02  # type: ignore[union-attr]
    with pytest.raises(UserError, match=r"block2\.lif: leak 1\.0200 of channel 3, a chip's decay allows 0\.\.1"):
        trace(model, SPEC, 4, "leaks")


def test_attention_is_refused_by_name() -> None:
    graph = trace(lively(ModelConfig(attention="fsta")), SPEC, 4, "attention")
    with pytest.raises(UserError, match=r"block1\.lif\.attention: attention .*--attention fold"):
        lower_graph(graph)
