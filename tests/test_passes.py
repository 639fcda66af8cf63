"""Every pass keeps what the network does: the float interpreter gives the same before and after."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from export import graph as g
from export.graph import Graph
from export.interpret import interpret
from export.passes import distribute_sums as distribution
from export.passes.compose_pooling import compose_pooling
from export.passes.delay_before_pooling import delay_before_pooling
from export.passes.fold_batch_norm import fold_batch_norm
from export.passes.fold_input_scale import fold_input_scale
from export.passes.retime import guard_steps, retime
from export.pipeline import PASSES, lower_graph
from export.terms import terms
from export.trace import trace
from train import data, layers, models
from train.config import ModelConfig
from train.errors import UserError
from train.quantise import composition


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    """A random network: normalisation, convolutions with batch norm, temporal shift of spikes and of currents, pooling
    that overlaps, pads and leaves rows out, residuals around all of it, recurrence, read-out.

    Neurons have leaks and thresholds of every kind, gains of either sign, a synaptic current, a reset that subtracts.
    """
    rng = np.random.default_rng(draw(st.integers(0, 1 << 30)))
    channels, size = draw(st.integers(1, 3)), draw(st.sampled_from([4, 6, 7, 8]))
    nodes: list[g.Node] = [g.Input("input", "", (), (channels, size, size), 15)]

    def add(node: g.Node) -> str:
        nodes.append(node)
        return node.id

    def convolution(name: str, source: str, inputs: int, outputs: int, stride: int, groups: int = 1) -> str:
        weight = rng.normal(0, 0.6, (outputs, inputs // groups, 3, 3))
        bias = rng.normal(0, 0.3, outputs) if draw(st.booleans()) else None
        add(g.Convolution(name, name, (source,), weight, bias, (stride, stride), (1, 1), (1, 1), groups))
        return add(g.Affine(f"{name}.norm", "", (name,), rng.uniform(0.3, 1.5, outputs), rng.normal(0, 0.4, outputs)))

    def neuron(name: str, current: str, count: int, synaptic: bool = True) -> str:
        if draw(st.booleans()):
            gain = rng.uniform(0.3, 1.5, count) * rng.choice([1, 1, 1, -1], count)
            current = add(g.Affine(f"{name}.gain", "", (current,), gain, np.zeros(count)))
        leak = draw(st.sampled_from([0.0, 0.25, 1.0])) if draw(st.booleans()) else rng.uniform(0, 1, count)
        threshold = 0.5 if draw(st.booleans()) else rng.uniform(0.3, 0.8, count)
        current_leak = rng.choice([0.0, 0.5, 0.8], count) if synaptic and draw(st.booleans()) else 0.0
        reset = draw(st.sampled_from(["zero", "subtract"]))
        return add(g.Neuron(name, "", (current,), leak, threshold, current_leak=current_leak, reset=reset))

    def shift(name: str, source: str) -> str:
        future = draw(st.integers(0, width))
        past = draw(st.integers(future, width))
        return add(g.TemporalShift(name, "", (source,), draw(st.floats(-0.8, 0.8)), future, past))

    def pool(name: str, source: str, side: int) -> tuple[str, int]:
        kernel, stride = draw(st.integers(1, min(3, side))), draw(st.integers(1, 3))
        padding, divisor = draw(st.integers(0, kernel // 2)), draw(st.sampled_from([None, 1, 3]))
        add(g.AveragePool(name, "", (source,), (kernel, kernel), (stride, stride), (padding, padding), divisor))
        return name, (side + 2 * padding - kernel) // stride + 1

    def feedback(name: str, neuron: str, side: int) -> str:
        shape, steps = (width, side, side), rng.integers(1, 3, width)
        late = g.Delay(f"{name}.late", "", (add(g.Feedback(f"{name}.spikes", "", (), neuron, shape)),), steps)
        weight = rng.normal(0, 0.4, (width, width, 1, 1))
        return add(g.Convolution(name, "", (add(late),), weight, None))

    scale, offset = rng.uniform(0.02, 0.2, channels), rng.normal(0, 0.5, channels)
    add(g.Affine("normalise", "", ("input",), scale, offset))
    width = draw(st.sampled_from([4, 6]))
    last = neuron("lif0", convolution("conv0", "normalise", channels, width, 1), width, synaptic=False)
    for index in range(1, draw(st.integers(1, 3)) + 1):
        if draw(st.booleans()):
            last, size = pool(f"pool{index}", last, size)
        source = shift(f"shift{index}", last) if draw(st.booleans()) else last
        current = convolution(f"conv{index}", source, width, width, 1, draw(st.sampled_from([1, 2])))
        if draw(st.booleans()):
            current = add(g.Add(f"join{index}", "", (current, last)))
        if source == last and draw(st.booleans()):
            current = shift(f"late{index}", current)
        if draw(st.booleans()):
            current = add(g.Add(f"loop{index}", "", (current, feedback(f"back{index}", f"lif{index}", size))))
        last = neuron(f"lif{index}", current, width)
    if draw(st.booleans()):
        last = add(g.Add("both", "", (last, "lif0"))) if size == nodes[0].shape[1] else last  # type: ignore[attr-defined]
    if draw(st.booleans()):
        last, size = pool("pool", last, size)
    if draw(st.booleans()):
        current = convolution("last", last, width, width, 2)
        last, size = add(g.Neuron("lif-last", "", (current,), 0.25, 0.5)), (size + 1) // 2
    flat = add(g.Flatten("flatten", "", (last,)))
    add(g.Dense("head", "", (flat,), rng.normal(0, 0.3, (5, width * size * size)), rng.normal(0, 0.2, 5)))
    add(g.Accumulate("readout", "", ("head",)))
    return Graph("random", tuple(nodes), draw(st.integers(1, 5)))


def random_inputs(graph: Graph, seed: int = 0, samples: int = 2) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 16, (graph.steps, samples, *graph.shapes["input"])).astype(np.float64)


def assert_same(before: Graph, after: Graph, inputs: np.ndarray) -> None:
    first, second = interpret(before, inputs), interpret(after, inputs)
    before_gates, after_gates = ({n.id for n in x.nodes if isinstance(n, g.Gating)} for x in (before, after))
    folded = before_gates - after_gates
    clocks = {n.id for n in before.nodes if isinstance(n, g.Clock)}  # a pass may add some, or drop what drives nobody
    kept = {name: values for name, values in first.values.items() if name not in folded | clocks}
    assert kept.keys() <= second.values.keys()
    for name, values in kept.items():
        np.testing.assert_allclose(values, second.values[name], rtol=0, atol=1e-9, err_msg=name)


@given(graph=graphs())
@settings(max_examples=60, deadline=None)
def test_every_pass_keeps_every_population_at_every_step(graph: Graph) -> None:
    inputs = random_inputs(graph)
    for step in PASSES:
        after = step(graph)
        assert_same(graph, after, inputs)
        graph = after
    loops = any(isinstance(node, g.Feedback) for node in graph.nodes)
    for synapse_steps in (0, 1) if loops else (0, 1, 3):
        assert_same(graph, retime(graph, synapse_steps), inputs)


@given(graph=graphs())
@settings(max_examples=30, deadline=None)
def test_passes_leave_what_they_promise(graph: Graph) -> None:
    final = lower_graph(graph)[PASSES[-1].__name__]
    gone = g.Affine | g.TemporalShift | g.AveragePool | g.Flatten
    assert not any(isinstance(node, gone) for node in final.nodes)
    retimed = retime(final, 1)
    assert guard_steps(retimed) == guard_steps(final)
    for node in retimed.windowed():
        for term in terms(retimed, node):
            assert term.delay.min() >= 0
            reach = node.start - term.source.start - 1 - term.delay
            assert np.abs(reach).max() <= guard_steps(final)


@given(graph=graphs())
@settings(max_examples=20, deadline=None)
def test_passes_keep_ids_and_origins_of_populations(graph: Graph) -> None:
    final = retime(lower_graph(graph)[PASSES[-1].__name__], 1)
    before, after = ({n.id: n.origin for n in of.windowed() if not isinstance(n, g.Clock)} for of in (graph, final))
    assert before == after


def test_a_wrong_fold_would_show() -> None:
    """The comparison has teeth: one batch norm's shift forgotten is seen."""
    graph = _chain()
    forgotten = fold_batch_norm(
        graph.with_nodes(
            [
                g.Affine(n.id, n.origin, n.inputs, n.scale, 0 * n.shift) if n.id == "norm" else n  # type: ignore[attr-defined]
                for n in graph.nodes
            ]
        )
    )
    with pytest.raises(AssertionError):
        assert_same(graph, forgotten, random_inputs(graph))


def _chain(*extra: g.Node) -> Graph:
    rng = np.random.default_rng(1)
    nodes = (
        g.Input("input", "", (), (2, 4, 4), 15),
        g.Convolution("conv", "", ("input",), rng.normal(0, 0.2, (3, 2, 3, 3)), None, (1, 1), (1, 1)),
        g.Affine("norm", "", ("conv",), np.array([1.0, 0.5, 2.0]), np.array([0.4, -0.2, 0.3])),
        g.Neuron("lif", "", ("norm",), 0.25, 0.5),
        *extra,
    )
    return Graph("chain", nodes, 3)


def test_padding_of_a_shifted_input_becomes_a_bias_for_each_neuron() -> None:
    rng = np.random.default_rng(2)
    nodes = (
        g.Input("input", "", (), (1, 5, 5), 15),
        g.Affine("normalise", "", ("input",), np.array([0.1]), np.array([-0.7])),
        g.Convolution("conv", "", ("normalise",), rng.normal(0, 1, (2, 1, 3, 3)), None, (1, 1), (1, 1)),
        g.Neuron("lif", "", ("conv",), 0.25, 0.5),
    )
    graph = Graph("padded", nodes, 3)
    folded = fold_input_scale(graph)
    convolution = folded["conv"]
    assert isinstance(convolution, g.Convolution)
    assert convolution.bias is not None
    assert convolution.bias.shape == (2, 5, 5)
    assert_same(graph, folded, random_inputs(graph))


def test_a_skip_over_too_many_layers_is_refused() -> None:
    nodes: list[g.Node] = [*_chain().nodes]
    last = "lif"
    for index in range(70):
        weight = np.ones((3, 3, 1, 1))
        nodes.append(g.Convolution(f"c{index}", "", (last,), weight, None))
        nodes.append(g.Neuron(f"n{index}", "", (f"c{index}",), 0.25, 0.5))
        last = f"n{index}"
    nodes += [g.Add("join", "", (nodes[-2].id, "lif")), g.Neuron("final", "", ("join",), 0.25, 0.5)]
    graph = lower_graph(Graph("deep", tuple(nodes), 2))[PASSES[-1].__name__]
    with pytest.raises(UserError, match=r"delay of \d+ steps, limit 62"):
        retime(graph, 1)


class Unknown(nn.Module):
    """A model with an operation that the exporter does not know."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = layers.Conv2d(1, 2, 3)
        self.strange = nn.Softmax(-1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.strange(self.conv(x))


def test_unknown_layer_is_refused_by_module_path() -> None:
    with pytest.raises(UserError, match=r"^strange: no rule for a layer of type Softmax"):
        trace(Unknown(), data.spec("digits"), 4, "unknown")


def test_traced_model_gives_the_models_numbers(shift_model: nn.Module) -> None:
    graph = trace(shift_model, data.spec("digits"), 4, "digits")
    x = np.random.default_rng(0).integers(0, 17, (4, 3, 1, 8, 8)).astype(np.float64)
    with torch.no_grad():
        expected = shift_model(torch.from_numpy(x))
    np.testing.assert_allclose(interpret(graph, x).logits, expected.numpy(), atol=1e-12)


@pytest.fixture
def shift_model() -> nn.Module:
    torch.manual_seed(0)
    model = models.build(ModelConfig(temporal_shift=True), data.spec("digits")).double()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.uniform_(-0.5, 0.5)
            module.running_var.uniform_(0.05, 0.3)
    return model.eval()


# --- each new identity by itself, and a planted fault that it would show ---


def _pooled(kernel: int, stride: int, padding: int, size: int) -> Graph:
    rng = np.random.default_rng(4)
    pair = [(value, value) for value in (kernel, stride, padding)]
    nodes = (
        g.Input("input", "", (), (3, size, size), 15),
        g.AveragePool("pool", "", ("input",), pair[0], pair[1], pair[2]),
        g.Convolution("conv", "", ("pool",), rng.normal(0, 0.2, (3, 3, 3, 3)), rng.normal(0, 1, 3), (2, 2), (1, 1)),
        g.Neuron("lif", "", ("conv",), 0.25, 0.5),
    )
    return Graph("pooled", nodes, 3)


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "size", "parts"),
    [(2, 2, 0, 8, 1), (3, 2, 1, 15, 1), (3, 2, 1, 14, 4), (2, 2, 0, 7, 4), (3, 3, 0, 8, 1), (3, 1, 1, 6, 4)],
)
def test_pooling_before_a_convolution_takes_as_few_convolutions_as_its_edges_need(
    kernel: int, stride: int, padding: int, size: int, parts: int
) -> None:
    graph = _pooled(kernel, stride, padding, size)
    composed = compose_pooling(graph)
    assert_same(graph, composed, random_inputs(graph))
    assert sum(isinstance(node, g.Convolution) for node in composed.nodes) == parts


def test_a_forgotten_crop_would_show(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = _pooled(3, 2, 1, 14)
    taps = composition._taps
    monkeypatch.setattr(composition, "_taps", lambda *a: [replace(tap, crop=(0, 0)) for tap in taps(*a)])
    with pytest.raises(AssertionError, match="lif"):
        assert_same(graph, compose_pooling(graph), random_inputs(graph))


def _loop(delay: int, length: int = 1) -> Graph:
    """`length` neurons one behind the other, the last one fed back to the first `delay` steps later."""
    rng = np.random.default_rng(5)
    nodes: list[g.Node] = [
        g.Input("input", "", (), (6,), 15),
        g.Dense("in", "", ("input",), rng.normal(0, 0.1, (4, 6)), None),
        g.Feedback("spikes", "", (), f"n{length - 1}", (4,)),
        g.Delay("late", "", ("spikes",), np.full(4, delay)),
        g.Dense("back", "", ("late",), rng.normal(0, 2, (4, 4)), None),
        g.Add("sum", "", ("in", "back")),
        g.Neuron("n0", "", ("sum",), 0.5, 0.5),
    ]
    for index in range(1, length):
        nodes.append(g.Dense(f"d{index}", "", (f"n{index - 1}",), rng.normal(0.3, 0.5, (4, 4)), None))
        nodes.append(g.Neuron(f"n{index}", "", (f"d{index}",), 0.5, 0.5))
    nodes.append(g.Dense("head", "", (f"n{length - 1}",), rng.normal(0, 0.3, (2, 4)), None))
    return Graph("loop", (*nodes, g.Accumulate("readout", "", ("head",))), 6)


def by_hand(graph: Graph, x: np.ndarray, delay: int) -> np.ndarray:
    """The spikes of `_loop(delay)`, one step after the other; [T, B, 4]."""
    weight_in, weight_back = (graph[name].weight for name in ("in", "back"))  # type: ignore[attr-defined]
    spikes = np.zeros((len(x) + delay, x.shape[1], 4))
    v = np.zeros((x.shape[1], 4))
    for t in range(len(x)):
        v = 0.5 * v + x[t] @ weight_in.T + spikes[t] @ weight_back.T
        spikes[t + delay] = v > 0.5
        v = v * (1 - spikes[t + delay])
    return spikes[delay:]


@pytest.mark.parametrize("delay", [1, 2, 3])
def test_a_recurrent_layer_is_what_it_says(delay: int) -> None:
    graph = _loop(delay)
    x = random_inputs(graph, samples=4)
    expected = by_hand(graph, x, delay)
    for version in (graph, retime(graph, 0), retime(graph, 1)):
        np.testing.assert_array_equal(interpret(version, x).values["n0"], expected)
    assert not np.array_equal(by_hand(graph, x, delay + 1), expected)  # a step more would show
    (own,) = (t for t in terms(retime(graph, 1), retime(graph, 1)["n0"]) if t.source.id == "n0")  # type: ignore[arg-type]
    assert set(own.delay) == {delay - 1}  # the synapse takes the first step
    assert guard_steps(retime(graph, 1)) == delay  # no spike of one window reaches the next


@pytest.mark.parametrize(("delay", "length"), [(2, 2), (3, 2), (3, 3)])
def test_a_loop_over_several_layers_is_met_where_it_leaves_a_step_for_each_synapse(delay: int, length: int) -> None:
    graph = _loop(delay, length)
    assert_same(graph, retime(graph, 1), random_inputs(graph))


@pytest.mark.parametrize(("delay", "length"), [(1, 2), (2, 3), (0, 1)])
def test_a_loop_whose_synapses_take_too_long_is_refused_by_name(delay: int, length: int) -> None:
    names = " -> ".join([*(f"n{i}" for i in range(length)), "n0"])
    rotated = {" -> ".join([*(f"n{(i + s) % length}" for i in range(length)), f"n{s}"]) for s in range(length)}
    assert names in rotated
    with pytest.raises(UserError, match=rf"take {length} steps, and the network gives them {delay}") as caught:
        retime(_loop(delay, length), 1)
    assert str(caught.value).split(":")[0].removeprefix("loop ") in rotated


def test_a_loop_without_a_delay_has_no_meaning() -> None:
    graph = _loop(0)
    stop = [replace(n, weight=np.full((4, 4), -99.0)) if n.id == "back" else n for n in graph.nodes]  # type: ignore[call-arg]
    with pytest.raises(UserError, match="without a delay"):
        interpret(graph.with_nodes(stop), random_inputs(graph))


def test_feedback_of_what_is_no_neuron_is_refused() -> None:
    graph = _loop(1)
    nodes = [replace(node, of="head") if isinstance(node, g.Feedback) else node for node in graph.nodes]
    with pytest.raises(UserError, match="feedback of 'head'"):
        graph.with_nodes(nodes)


def test_a_shifted_current_loses_its_bias_at_the_edge() -> None:
    """What the clock is for: without its synapses the first and the last step of a window are wrong."""
    nodes = [
        *_chain().nodes[:-1],
        g.TemporalShift("shift", "", ("norm",), 0.5, 1, 2),
        g.Neuron("lif", "", ("shift",), 0.25, 0.5),
    ]
    graph = Graph("edges", tuple(nodes), 3)
    final = lower_graph(graph)[PASSES[-1].__name__]
    assert_same(graph, final, random_inputs(graph))
    edges = next(node for node in final.nodes if node.id.endswith(".edges"))
    constant = [replace(n, weight=0 * n.weight) if n is edges else n for n in final.nodes]  # type: ignore[attr-defined]
    with pytest.raises(AssertionError, match="lif"):
        assert_same(graph, final.with_nodes(constant), random_inputs(graph))


def _summed() -> Graph:
    """A dense layer with a bias that reads the sum of two layers of spikes, and a gain on a sum."""
    rng = np.random.default_rng(7)
    nodes = (
        g.Input("input", "", (), (4,), 15),
        *(g.Dense(f"d{i}", "", ("input",), rng.normal(0, 0.1, (5, 4)), None) for i in (0, 1)),
        *(g.Neuron(f"n{i}", "", (f"d{i}",), np.array([0.25]), np.array([0.5])) for i in (0, 1)),
        g.Add("sum", "", ("n0", "n1")),
        g.Dense("head", "", ("sum",), rng.normal(0, 0.3, (5, 5)), rng.normal(0, 0.5, 5)),
        g.Add("join", "", ("head", "n1")),
        g.Affine("gain", "", ("join",), rng.uniform(0.5, 1.5, 5), np.zeros(5)),
        g.Neuron("n2", "", ("gain",), np.array([0.5]), np.array([0.5])),
        g.Dense("out", "", ("n2",), rng.normal(0, 0.3, (2, 5)), None),
        g.Accumulate("readout", "", ("out",)),
    )
    return Graph("summed", nodes, 4)


def test_a_layer_behind_a_sum_becomes_one_for_each_summand() -> None:
    graph = _summed()
    final = lower_graph(graph)[PASSES[-1].__name__]
    assert_same(graph, final, random_inputs(graph))
    assert [t.source.id for t in terms(final, final["n2"])] == ["n0", "n1", "n1"]  # type: ignore[arg-type]


def test_a_bias_given_to_every_summand_would_show(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = _summed()
    monkeypatch.setattr(
        distribution,
        "_part",
        lambda node, i, source, taken: replace(node, id=f"{node.id}.{i}" if i else node.id, inputs=(source,)),
    )
    with pytest.raises(AssertionError, match="n2"):
        assert_same(graph, distribution.distribute_sums(graph), random_inputs(graph))


@given(graph=graphs(), side=st.integers(0, 1))
@settings(max_examples=15, deadline=None)
def test_a_delay_before_or_behind_a_pool_is_the_same(graph: Graph, side: int) -> None:
    rng = np.random.default_rng(side)
    shape = graph.shapes["input"]
    steps = rng.integers(-1, 2, shape[0])
    pool = g.AveragePool("pooled", "", ("input",), (2, 2), (1, 1), (side, side))
    late = g.Delay("late", "", ("pooled",), steps)
    weight = rng.normal(0, 0.1, (2, shape[0], 1, 1))
    conv = g.Convolution("conv", "", ("late",), weight, None)
    nodes = (graph.nodes[0], pool, late, conv, g.Neuron("lif", "", ("conv",), np.array([0.25]), np.array([0.5])))
    behind = Graph("late", nodes, graph.steps)
    before = delay_before_pooling(behind)
    assert isinstance(before[conv.inputs[0]], g.AveragePool)
    assert_same(behind, before, random_inputs(behind))
