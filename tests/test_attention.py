"""Attention through the compiler: the nodes are the model's gates, folding says what it costs, the rest is exact."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_passes import assert_same, graphs, random_inputs
from torch import nn

from export import graph as g
from export.attention import Gain, StepAttention
from export.graph import Graph, Neuron
from export.heal import static_model
from export.interpret import interpret
from export.passes.absorb_gains import absorb_gains
from export.passes.fold_attention import fold_attention, measure
from export.pipeline import PASSES, compile_graph, lower_graph
from export.trace import trace
from sim import equivalence, fast, lava, reference, torch_engine
from train import layers, models
from train.choices import AttentionName, ModelName, NeuronName
from train.config import ModelConfig
from train.data import DataSpec
from train.errors import UserError

SPEC = DataSpec("random", (2, 8, 8), 5, 15, (7.0, 7.0), (5.0, 5.0))
STEPS = 3


def lively(
    attention: AttentionName, model: ModelName = "small-conv", width: float = 0.5, spec: DataSpec = SPEC
) -> models.Classifier:
    """A model with temporal shift in which every layer fires and every gate varies with sample, step and place."""
    torch.manual_seed(1)
    neuron: NeuronName = "adaptive-lif" if attention == "staa" else "lif"
    config = ModelConfig(
        model=model, neuron=neuron, attention=attention, temporal_shift=True, time_steps=STEPS, width=width
    )
    built = models.build(config, spec).double()
    for module in built.modules():
        match module:
            case nn.BatchNorm2d():
                assert module.running_var is not None
                module.running_var.fill_(0.3)
                module.bias.data.uniform_(-0.3, 0.6)
            case layers.FSTA():
                module.temporal.data.normal_()
            case layers.PositionCode():
                module.code.data.uniform_(-0.2, 0.4)
            case layers.GlobalContext():
                module.excite.data.normal_()
                module.excite_bias.data.fill_(1.0)
            case layers.AdaptiveLIF():
                module.m.data.uniform_(0.1, 0.6)
                module.n.data.uniform_(0.7, 1.3)
            case layers.StepAttention():
                module.squeeze.data.normal_(0, 5)
                module.squeeze_bias.data.fill_(2.0)
                module.excite.data.normal_(0, 2)
    return built.eval()


def random_frames(samples: int, seed: int = 0) -> np.ndarray:
    """int64 [samples, T, C, H, W]."""
    return np.random.default_rng(seed).integers(0, 16, (samples, STEPS, *SPEC.shape))


def time_first(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(x.swapaxes(0, 1).astype(np.float64))


@torch.no_grad()
def outputs(model: nn.Module, graph: Graph, inputs: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """What PyTorch gives at every neuron of the graph, [T, B, ...], and the answer."""
    caught: dict[str, np.ndarray] = {}
    handles = []
    for node in graph.nodes:
        if isinstance(node, Neuron):

            def hook(module: nn.Module, arguments: object, output: torch.Tensor, name: str = node.id) -> None:
                caught[name] = output.numpy()

            handles.append(model.get_submodule(node.origin).register_forward_hook(hook))
    answer = model(torch.from_numpy(inputs)).numpy()
    for handle in handles:
        handle.remove()
    return caught, answer


@pytest.mark.parametrize("attention", ["fsta", "staa"])
@pytest.mark.parametrize(("model", "width"), [("small-conv", 0.5), ("resnet-19", 1 / 32)])
def test_the_interpreter_gives_the_models_spikes(attention: AttentionName, model: ModelName, width: float) -> None:
    trained = lively(attention, model, width)
    inputs = time_first(random_frames(4))
    graph = trace(trained, SPEC, STEPS, "attention")
    spikes, answer = outputs(trained, graph, inputs)
    run = interpret(graph, inputs)
    assert spikes.keys() == {node.id for node in graph.nodes if isinstance(node, Neuron)}
    for name, expected in spikes.items():
        assert expected.any()
        np.testing.assert_array_equal(run.values[name], expected, err_msg=name)
    np.testing.assert_allclose(run.logits, answer, rtol=0, atol=1e-12)


@pytest.mark.parametrize("attention", ["fsta", "staa"])
def test_what_is_measured_is_the_mean_and_the_spread_of_the_models_gates(attention: AttentionName) -> None:
    trained = lively(attention)
    inputs = time_first(random_frames(6))
    gates = {gate.id: gate for gate in measure(trace(trained, SPEC, STEPS, "a"), inputs)}
    caught: dict[str, np.ndarray] = {}

    def hook(name: str):  # type: ignore[no-untyped-def]
        def keep(module: nn.Module, arguments: tuple[torch.Tensor], output: torch.Tensor) -> None:
            x = arguments[0].numpy()
            caught[name] = np.divide(output.numpy(), x, out=np.full(x.shape, np.nan), where=x != 0)

        return keep

    kinds = layers.FSTA | layers.GlobalContext | layers.StepAttention
    for name, module in trained.named_modules():
        if isinstance(module, kinds):
            module.register_forward_hook(hook(name))
    with torch.no_grad():
        trained(torch.from_numpy(inputs))
    assert caught
    for name, gains in caught.items():
        gate = gates[name]
        axes = tuple(axis for axis in (2, 3, 4) if gate.mean.shape[axis - 2] == 1)
        each = np.nanmean(gains, axis=axes, keepdims=True)  # one value, wherever it can be seen
        assert np.nanmax(np.abs(gains - each)) < 1e-9
        mean, spread = 0.0, []
        for t in range(STEPS):
            mean = mean + each[t].mean(0) / STEPS
        np.testing.assert_allclose(gate.mean, mean, atol=1e-9)
        for t in range(STEPS):
            for sample in each[t]:
                spread.append(np.square(sample - mean).mean())
        assert np.hypot(gate.over_samples, gate.over_steps) == pytest.approx(np.sqrt(np.mean(spread)), rel=1e-6)
        assert gate.over_samples > 1e-4
        assert gate.over_steps > 1e-4


def without_data(model: nn.Module) -> nn.Module:
    """The same model with gates that ignore their input."""
    for module in model.modules():
        match module:
            case layers.FSTA():
                module.temporal.data.zero_()
                module.spatial.data.zero_()
            case layers.GlobalContext() | layers.StepAttention():
                module.excite.data.zero_()
    for module in model.modules():
        if isinstance(module, layers.StepAttention):
            module.excite_bias.data.fill_(0.7)
    return model


@pytest.mark.parametrize("attention", ["fsta", "staa"])
@pytest.mark.parametrize(("model", "width"), [("small-conv", 0.5), ("resnet-19", 1 / 32)])
def test_folding_gates_that_do_not_vary_is_exact(attention: AttentionName, model: ModelName, width: float) -> None:
    graph = trace(without_data(lively(attention, model, width)), SPEC, STEPS, "still")
    inputs = time_first(random_frames(4))
    gates = measure(graph, inputs)
    assert gates
    assert all(gate.over_samples < 1e-12 and gate.over_steps < 1e-12 for gate in gates)
    stages = lower_graph(graph, gates)
    for stage in stages.values():
        assert_same(graph, stage, inputs)


def test_folding_gates_that_vary_is_not_exact() -> None:
    graph = trace(lively("fsta"), SPEC, STEPS, "varying")
    inputs = time_first(random_frames(4))
    with pytest.raises(AssertionError):
        assert_same(graph, fold_attention(graph, measure(graph, inputs)), inputs)


@st.composite
def graphs_with_gains(draw: st.DrawFn) -> Graph:
    """A random network with gains on currents and on spikes; see `graphs`."""
    graph = draw(graphs())
    rng = np.random.default_rng(draw(st.integers(0, 1 << 30)))
    nodes: list[g.Node] = []
    moved: dict[str, str] = {}
    for original in graph.nodes:
        node = original
        for old in original.inputs:
            node = g.rewire(node, old, moved.get(old, old))
        current = isinstance(node, Neuron) or node.id.endswith(".gain")  # a neuron's, or that before the neuron's gain
        if current and draw(st.booleans()):
            sides = [side if draw(st.booleans()) else 1 for side in graph.shapes[node.id]]
            nodes.append(Gain(f"{node.id}.gate", "", node.inputs, rng.uniform(0.3, 2, sides)))
            node = replace(node, inputs=(nodes[-1].id,))
        nodes.append(node)
        if isinstance(node, Neuron) and draw(st.booleans()):
            sides = [graph.shapes[node.id][0] if draw(st.booleans()) else 1, 1, 1]
            nodes.append(Gain(f"{node.id}.spikes", "", (node.id,), rng.uniform(0.3, 2, sides)))
            moved[node.id] = nodes[-1].id
    return graph.with_nodes(nodes)


@given(graph=graphs_with_gains())
@settings(max_examples=60, deadline=None)
def test_gains_are_absorbed_exactly(graph: Graph) -> None:
    inputs = random_inputs(graph)
    stages = lower_graph(graph)
    for stage in stages.values():
        assert_same(graph, stage, inputs)
    final = stages[PASSES[-1].__name__]
    assert not any(isinstance(node, Gain) for node in final.nodes)


def chain(*between: g.Node) -> Graph:
    nodes = (
        g.Input("input", "", (), (2, 4, 4), 15),
        g.Convolution("conv", "", ("input",), np.ones((3, 2, 3, 3)), None, (1, 1), (1, 1)),
        *between,
    )
    return Graph("chain", nodes, 3)


def test_a_gain_on_a_current_in_a_sum_is_absorbed_exactly() -> None:
    graph = chain(
        Gain("gate", "stage.gate", ("conv",), np.array([0.5, 2.0, 0.7]).reshape(3, 1, 1)),
        g.Convolution("other", "", ("input",), -np.ones((3, 2, 1, 1)), None),
        g.Add("sum", "stage.sum", ("gate", "other")),
        Neuron("lif", "", ("sum",), 0.25, 0.5),
        g.Dense("out", "", ("lif",), np.ones((2, 48)), None),
        g.Accumulate("answer", "", ("out",)),
    )
    inputs = random_inputs(graph)
    for stage in lower_graph(graph).values():
        assert_same(graph, stage, inputs)


def test_a_gain_in_a_sum_of_spikes_goes_into_the_weights_that_read_the_sum() -> None:
    """Behind pooling a padded convolution and a shortcut would not be one convolution."""
    graph = chain(
        Neuron("one", "", ("conv",), 0.25, 0.5),
        g.Convolution("again", "", ("one",), -np.ones((3, 3, 3, 3)), np.full(3, 5.0), (1, 1), (1, 1)),
        Neuron("two", "", ("again",), 0.25, 0.5),
        Gain("gate", "stage.gate", ("one",), np.array([0.5, 2.0, 0.7]).reshape(3, 1, 1)),
        g.Add("both", "", ("two", "gate")),
        g.AveragePool("pool", "", ("both",), (2, 2), (1, 1)),
        g.Convolution("padded", "", ("pool",), np.ones((2, 3, 3, 3)), None, (1, 1), (1, 1)),
        Neuron("lif", "", ("padded",), 0.25, 0.5),
        g.Dense("out", "", ("lif",), np.ones((2, 18)), None),
        g.Accumulate("answer", "", ("out",)),
    )
    inputs = random_inputs(graph)
    for stage in lower_graph(graph).values():
        assert_same(graph, stage, inputs)


@pytest.mark.parametrize(
    ("between", "message"),
    [
        ([Gain("gate", "stage.gate", ("conv",), np.array([[[-0.5]]]))], "Gain stage.gate: a gain of -0.5000"),
        (
            [
                Neuron("lif", "", ("conv",), 0.25, 0.5),
                Gain("gate", "stage.gate", ("lif",), np.ones((1, 4, 1))),
                g.Convolution("next", "stage.conv", ("gate",), np.ones((1, 3, 1, 1)), None),
            ],
            "Convolution stage.conv: Gain stage.gate differs by place",
        ),
        (
            [
                Gain("gate", "stage.gate", ("conv",), np.ones((1, 4, 1))),
                g.Add("sum", "stage.sum", ("gate", "conv")),
            ],
            "Add stage.sum: Gain stage.gate differs by place",
        ),
    ],
)
def test_what_cannot_be_absorbed_is_refused_by_name(between: list[g.Node], message: str) -> None:
    with pytest.raises(UserError) as error:
        absorb_gains(chain(*between))
    assert message in str(error.value)


def test_nodes_that_do_not_fit_are_refused_by_name() -> None:
    step = StepAttention("step", "stage.step", ("flat",), np.eye(3), np.ones(3), np.eye(3), np.ones(3))
    for nodes, message in [
        ([g.Flatten("flat", "", ("conv",)), step], "stage.step: input (48,)"),
        ([Gain("gate", "stage.gate", ("conv",), np.ones((3, 2, 1)))], "stage.gate: gain (3, 2, 1)"),
        ([Neuron("lif", "stage.lif", ("conv",), 0.25, np.ones((3, 2, 1)))], "stage.lif: threshold of shape (3, 2, 1)"),
    ]:
        with pytest.raises(UserError) as error:
            chain(*nodes)  # type: ignore[arg-type]
        assert message in str(error.value)


def test_a_mean_gain_below_zero_is_refused_by_name() -> None:
    model = lively("fsta")
    model.get_submodule("block2.lif.attention").t.data.fill_(-3.0)  # type: ignore[union-attr]
    with pytest.raises(UserError, match=r"block2\.lif\.attention: its mean gain is -\d.*above 0"):
        measure(trace(model, SPEC, STEPS, "negative"), time_first(random_frames(2)))


@pytest.mark.parametrize("attention", ["fsta", "staa"])
def test_the_static_model_is_the_folded_graph(attention: AttentionName) -> None:
    trained = lively(attention)
    inputs = time_first(random_frames(4))
    graph = trace(trained, SPEC, STEPS, "a")
    gates = measure(graph, inputs)
    static = static_model(trained, gates)
    folded = fold_attention(graph, gates)
    assert_same(folded, trace(static, SPEC, STEPS, "a"), inputs)
    spikes, answer = outputs(static, folded, inputs)
    run = interpret(folded, inputs)
    for name, expected in spikes.items():
        np.testing.assert_array_equal(run.values[name], expected, err_msg=name)
    np.testing.assert_allclose(run.logits, answer, rtol=0, atol=1e-12)
    static.train()
    torch.manual_seed(0)
    first = static.logits(torch.from_numpy(inputs)).detach()
    assert torch.isfinite(first).all()
    assert all(module.drop == 0 for module in static.modules() if isinstance(module, layers.STAANeuron))


@pytest.mark.parametrize("attention", ["fsta", "staa"])
def test_folded_networks_are_equal_in_all_engines(attention: AttentionName) -> None:
    trained = lively(attention)
    x = random_frames(5)
    graph = trace(trained, SPEC, STEPS, attention)
    network = compile_graph(lower_graph(graph, measure(graph, time_first(x))), time_first(x)).network
    integer = fast.run(network, x)
    assert all(spikes.any() for spikes in integer.spikes.values())
    for other in (torch_engine.run(network, trained, x), reference.run(network, x)):
        result = equivalence.compare(network, integer, other, x)
        assert result.equal, result.divergence


@pytest.mark.parametrize("attention", ["fsta", "staa"])
def test_folded_residual_networks_are_equal_in_all_engines(attention: AttentionName) -> None:
    """A shortcut of spikes that step attention multiplied is a synapse of that weight, delayed like any other."""
    x = random_frames(2)
    trained = lively(attention, "resnet-19", 1 / 32)
    graph = trace(trained, SPEC, STEPS, attention)
    stages = lower_graph(graph, measure(graph, time_first(x)))
    network = compile_graph(stages, time_first(x)).network
    integer = fast.run(network, x)
    for other in (torch_engine.run(network, trained, x), reference.run(network, x)):
        result = equivalence.compare(network, integer, other, x)
        assert result.equal, result.divergence
        assert result.spikes > 1000


@pytest.mark.lava
@pytest.mark.parametrize("attention", ["fsta", "staa"])
def test_folded_networks_are_equal_in_lava(attention: AttentionName) -> None:
    x = random_frames(2)
    graph = trace(lively(attention, width=0.25), SPEC, STEPS, attention)
    network = compile_graph(lower_graph(graph, measure(graph, time_first(x))), time_first(x)).network
    result = equivalence.compare(network, fast.run(network, x), lava.run(network, x, timeout=120), x)
    assert result.equal, result.divergence
    assert result.spikes > 100
