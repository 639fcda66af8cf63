"""STAA-SNN's gates in integers: their arithmetic against plain loops in 32 bits, their engines against each other."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ints
from hypothesis import given, settings
from hypothesis import strategies as st
from lava_witness import run_all
from random_networks import context_gains, payloads, staa_network, step_gains
from test_attention import SPEC, STEPS, lively, random_frames, time_first
from test_attention_programs import Word, assert_planned, look
from test_passes import assert_same

from deploy import rules
from export import context_gains as context_gains_module
from export import graph as g
from export import step_gains as step_gains_module
from export.attention import GlobalContext, Relay, StepAttention, gain
from export.attention_programs import Attention, ContextGains, StepGains, UnitGains, respond
from export.attention_search import STEP_BITS, float_unit
from export.context_gains import NORMAL_BITS
from export.formats.netx_writer import write_netx
from export.formats.nir_writer import write_nir
from export.gains import Gains
from export.graph import Graph
from export.network import Network
from export.passes.relay_readout import relay_readout
from export.passes.retime import retime
from export.pipeline import PASSES, Compiled, compile_graph, lower_graph
from export.quantise_context import context
from export.quantise_step import step
from export.store import read_network, write_network
from export.trace import trace
from sim import equivalence, fast, lava, reference, torch_engine
from train import layers
from train.errors import UserError


def clipped(program: Gains, a_in: np.ndarray, lowest: int) -> np.ndarray:
    bias = np.broadcast_to(program.bias, a_in.shape[1:])
    x = np.zeros_like(a_in)
    for place in np.ndindex(*a_in.shape):
        value = Word.shifted(Word.of(int(a_in[place]) + int(bias[place[1:]])), program.input_shift)
        x[place] = max(lowest, min(program.limit, value))
    return x


def rounded(value: int, by: int) -> int:
    """value / by, half up."""
    return Word.of(2 * value + by) // Word.of(2 * by)


def weighed(weights: np.ndarray, values: list[int], bias: int = 0) -> int:
    return Word.of(Word.total([Word.of(int(w) * v) for w, v in zip(weights, values, strict=True)]) + int(bias))


def obvious_context(program: ContextGains, a_in: np.ndarray) -> np.ndarray:
    """The equations of `ContextGains` for one sample [T, C, H, W], value by value."""
    x = clipped(program, a_in, -program.limit)
    y = np.zeros_like(x)
    for t in range(len(x)):
        gains = context_of_a_step(program, x[t])
        for place in np.ndindex(*x[t].shape):
            y[t][place] = Word.shifted(Word.of(int(x[t][place]) * gains[place[0]]), program.gain_shift)
    return y


def context_of_a_step(program: ContextGains, x: np.ndarray) -> list[int]:
    channels, hidden = range(len(x)), len(program.squeeze)
    w = 0
    while int(np.abs(x).max()) >= 1 << program.value_bits + w:
        w += 1
    v = [[Word.shifted(int(value), w) for value in x[c].flat] for c in channels]
    places = range(len(v[0]))
    score = [Word.shifted(weighed(program.key, [v[c][n] for c in channels]), program.score_shift - w) for n in places]
    last = len(program.exp_table) - 1
    e = [int(program.exp_table[min(Word.of(max(score) - each), last)]) for each in score]
    z = [rounded(Word.total([Word.of(e[n] * v[c][n]) for n in places]), Word.total(e)) for c in channels]
    h = [
        Word.of(Word.shifted(weighed(row, z), program.squeeze_shift - w) + int(bias))
        for row, bias in zip(program.squeeze, program.squeeze_bias, strict=True)
    ]
    d = [Word.of(Word.of(hidden * each) - Word.total(h)) for each in h]
    bits = max(b for b in range(16) if hidden * 4**b <= 1 << 30)
    k = program.centre_shift
    while max(abs(each) for each in d) >> k >= 1 << bits:
        k += 1
    n = [Word.shifted(each, k) for each in d]
    epsilon = program.epsilon // 4 ** (k - program.centre_shift)
    q = math.isqrt(Word.of(Word.total([Word.of(each * each) for each in n]) + epsilon))
    o = [rounded(Word.of(each * 2**NORMAL_BITS), q) for each in n]
    p = [
        max(0, Word.shifted(Word.of(Word.of(int(scale) * each) + int(shift)), program.normal_shift))
        for each, scale, shift in zip(o, program.scale, program.shift, strict=True)
    ]
    logits = [weighed(row, p, bias) for row, bias in zip(program.excite, program.excite_bias, strict=True)]
    return [look(program.gain_table, Word.shifted(logit, program.logit_shift)) for logit in logits]


def obvious_step(program: StepGains, a_in: np.ndarray) -> np.ndarray:
    """The equations of `StepGains` for one sample [T, C, H, W], value by value."""
    x = clipped(program, a_in, 0)
    m = [Word.shifted(Word.total([int(value) for value in frame.flat]), program.count_shift) for frame in x]
    p = [
        max(0, Word.shifted(weighed(row, m, bias), program.hidden_shift))
        for row, bias in zip(program.squeeze, program.squeeze_bias, strict=True)
    ]
    y = np.zeros_like(x)
    for t in range(len(x)):
        logit = Word.shifted(weighed(program.excite[t], p, program.excite_bias[t]), program.logit_shift)
        each = look(program.gain_table, logit)
        for place in np.ndindex(*x[t].shape):
            y[t][place] = Word.shifted(Word.of(int(x[t][place]) * each), program.gain_shift)
    return y


def shapes(rng: np.random.Generator) -> tuple[tuple[int, ...], int]:
    return tuple(int(n) for n in rng.integers(1, 5, 3)), int(rng.integers(1, 5))


@given(seed=st.integers(0, 1 << 30))
@settings(max_examples=40, deadline=None)
def test_context_is_that_of_plain_loops_in_32_bits(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shape, steps = shapes(rng)
    program = context_gains(rng, shape)
    a_in = ints(rng.integers(-9000, 9000, (steps, 2, *shape)) * rng.choice([0, 0.02, 0.2, 1]))
    answer = respond(program, a_in)
    assert np.abs(answer).max() <= program.largest
    for sample in range(2):
        np.testing.assert_array_equal(answer[:, sample], obvious_context(program, a_in[:, sample]))
        alone = np.concatenate([respond(program, a_in[t : t + 1]) for t in range(steps)])  # it does not wait
        np.testing.assert_array_equal(answer, alone)


@given(seed=st.integers(0, 1 << 30))
@settings(max_examples=25, deadline=None)
def test_step_attention_is_that_of_plain_loops_in_32_bits(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shape, steps = shapes(rng)
    program = step_gains(rng, shape, steps)
    a_in = ints(2 * (rng.random((steps, 2, *shape)) < rng.random((steps, 2, 1, 1, 1))))
    answer = respond(program, a_in - 5 * (rng.random(a_in.shape) < 0.05))  # below 0 is no spike
    assert answer.min() >= 0
    assert answer.max() <= program.largest
    clean = respond(program, a_in)
    for sample in range(2):
        np.testing.assert_array_equal(clean[:, sample], obvious_step(program, a_in[:, sample]))


def test_a_relay_rounds_and_nothing_else() -> None:
    program = UnitGains(limit=1000, bias=ints([3]), input_shift=0, gain_shift=2)
    program.check((1,), 1, "relay")
    sent = respond(program, ints([-2000, -9, -5, -3, -1, 3, 2000]).reshape(-1, 1, 1))
    assert sent.reshape(-1).tolist() == [-250, -1, 0, 0, 1, 2, 250]
    assert program.largest == 250


def context_node(rng: np.random.Generator, channels: int, hidden: int, size: float = 1.0) -> GlobalContext:
    return GlobalContext(
        "gate",
        "gate",
        (),
        key=rng.normal(0, size, channels),
        squeeze=rng.normal(0, size, (hidden, channels)),
        squeeze_bias=rng.normal(0, 0.3, hidden),
        scale=rng.uniform(0.5, 1.5, hidden),
        shift=rng.normal(0, 0.3, hidden),
        epsilon=1e-5,
        excite=rng.normal(0, size, (channels, hidden)),
        excite_bias=rng.normal(0, 1, channels),
    )


def step_node(rng: np.random.Generator, steps: int) -> StepAttention:
    hidden = int(rng.integers(1, 5))
    parts = rng.normal(0, 5, (hidden, steps)), rng.normal(1, 1, hidden), rng.normal(0, 2, (steps, hidden))
    return StepAttention("gate", "gate", (), *parts, rng.normal(0, 1, steps))


@given(
    seed=st.integers(0, 1 << 30), size=st.sampled_from([0.05, 1.0, 20.0]), loud=st.sampled_from([0.0, 0.001, 0.05, 1.0])
)
@settings(max_examples=40, deadline=None)
def test_the_largest_currents_stay_in_32_bits_and_the_gains_near_the_float_ones(
    seed: int, size: float, loud: float
) -> None:
    """Each channel at a scale of its own; inputs up to the bound that the program was made for."""
    rng = np.random.default_rng(seed)
    shape, steps, samples = (5, 4, 3), 3, 3
    node = context_node(rng, 5, int(rng.integers(3, 7)), size)
    scale, bias = rng.uniform(2e3, 4e4, 5), ints(rng.integers(-900, 900, (5, 1, 1)))
    bound = int(rng.choice([3_000, 1 << 15, 1 << 19, 1 << 22]))
    program = context(node, shape, scale, bias, bound + 900, 31_500)
    extreme = ints(rng.choice([-bound, bound], (steps, samples, *shape)))
    np.testing.assert_array_equal(respond(program, extreme)[:, 0], obvious_context(program, extreme[:, 0]))
    a_in = ints(rng.integers(-bound, bound + 1, (steps, samples, *shape)) * loud)
    np.testing.assert_array_equal(respond(program, a_in)[:, 0], obvious_context(program, a_in[:, 0]))
    units = (a_in + bias) / scale.reshape(5, 1, 1)
    wanted = gain(node, units)
    found = program.gain(program.taken(a_in)) / 2**program.gain_bits
    if size <= 1 and loud >= 0.05 and bound < 1 << 19:  # beyond, the softmax of these currents is a step
        assert np.sqrt(np.square(found - wanted).mean() / np.square(wanted).mean()) < 0.02
    assert program.largest <= 31_500


@given(seed=st.integers(0, 1 << 30), channels=st.sampled_from([1, 3, 600]))
@settings(max_examples=25, deadline=None)
def test_every_pattern_of_spikes_stays_in_32_bits_and_its_gains_near_the_float_ones(seed: int, channels: int) -> None:
    rng = np.random.default_rng(seed)
    shape, steps = (channels, 4, 3), int(rng.integers(1, 6))
    node = step_node(rng, steps)
    program = step(node, shape, steps, 2, STEP_BITS)
    spikes = rng.random((steps, 3, *shape)) < rng.random((steps, 3, 1, 1, 1))
    spikes[:, 0] = True
    answer = respond(program, 2 * spikes.astype(np.int64))
    np.testing.assert_array_equal(answer[:, 0], obvious_step(program, ints(2 * spikes[:, 0])))
    wanted = spikes * gain(node, spikes.astype(np.float64))
    found = answer * float_unit(program, np.array([2.0]))
    np.testing.assert_allclose(found, wanted, atol=0.5 / (1 << STEP_BITS) + 0.01)
    assert program.largest <= 1 << STEP_BITS


def test_many_hidden_channels_and_places_still_fit() -> None:
    rng = np.random.default_rng(0)
    for shape, hidden in (((512, 2, 2), 128), ((64, 32, 32), 16), ((1, 1, 1), 2), ((2, 1, 1), 1)):
        node = context_node(rng, shape[0], hidden, size=shape[0] ** -0.5)
        program = context(node, shape, np.full(shape[0], 1e4), ints([[[0]]]), 1 << 22, 31_500)
        a_in = ints(rng.normal(0, 3e4, (1, 4, *shape)))
        wanted = gain(node, a_in / 1e4)
        found = program.gain(program.taken(a_in)) / 2**program.gain_bits
        assert np.sqrt(np.square(found - wanted).mean() / np.square(wanted).mean()) < 0.005


def small_context() -> ContextGains:
    return context(
        context_node(np.random.default_rng(0), 3, 4), (3, 4, 3), np.full(3, 1e4), ints([[[0]]]), 9999, 31_500
    )


def small_step() -> StepGains:
    return step(step_node(np.random.default_rng(0), 3), (3, 4, 3), 3, 2, STEP_BITS)


@pytest.mark.parametrize(
    ("make", "name", "factor"),
    [
        (small_context, "key", 1 << 13),
        (small_context, "exp_table", 32),
        (small_context, "squeeze", 64),
        (small_context, "squeeze_bias", 1 << 20),
        (small_context, "scale", 1 << 12),
        (small_context, "shift", 1 << 20),
        (small_context, "excite", 1 << 12),
        (small_context, "excite_bias", 1 << 20),
        (small_step, "squeeze", 1 << 14),
        (small_step, "excite", 1 << 14),
    ],
)
def test_a_program_whose_largest_value_does_not_fit_is_refused(
    make: Callable[[], ContextGains | StepGains], name: str, factor: int
) -> None:
    program = make()
    program.check((3, 4, 3), 3, "gate")
    values = ints(np.where(getattr(program, name) == 0, 1, getattr(program, name)) * factor)
    with pytest.raises(UserError, match=r"gate: .* (can reach|holds) \d+, 32 bits hold less than 2147483648"):
        replace(program, **{name: values}).check((3, 4, 3), 3, "gate")


@pytest.mark.parametrize(
    ("make", "change", "message"),
    [
        (small_context, {"limit": 0}, "limit 0, allowed"),
        (small_context, {"gain_shift": 31}, "shifted by 31, allowed 0..30"),
        (small_context, {"centre_shift": -1}, "shifted by -1"),
        (small_context, {"score_shift": 0}, "the score is shifted by -"),
        (small_context, {"value_bits": 23}, "value_bits 23, allowed 1..22"),
        (small_context, {"centre_shift": 31}, "shifted by 31"),
        (small_context, {"key": ints([1, 2])}, "key int64 of shape"),
        (small_context, {"squeeze": ints(5)}, "squeeze int64 of shape"),
        (small_context, {"excite": np.zeros((3, 4))}, "excite float64"),
        (small_context, {"epsilon": 0}, "epsilon 0, allowed 1.."),
        (small_context, {"epsilon": 1 << 30}, "epsilon 1073741824, allowed"),
        (small_context, {"exp_table": ints([0, 1])}, "exp_table must begin above 0"),
        (small_context, {"exp_table": ints([5, -1])}, "exp_table must begin above 0"),
        (small_context, {"gain_table": ints([5])}, "gain_table int64 of shape"),
        (small_context, {"bias": ints(np.zeros((3, 4, 9)))}, "bias int64 of shape"),
        (small_step, {"squeeze": ints(np.zeros((2, 5)))}, "squeeze int64 of shape"),
        (small_step, {"excite_bias": ints([1])}, "excite_bias int64 of shape"),
        (small_step, {"gain_table": ints([5, -1])}, "gain_table holds a negative gain"),
        (small_step, {"gain_table": ints([5, 1 << 20])}, "is not a table"),
        (small_step, {"count_shift": 40}, "shifted by 40"),
        (small_step, {"limit": 1 << 23}, "limit 8388608"),
    ],
)
def test_what_a_program_may_not_hold(
    make: Callable[[], ContextGains | StepGains], change: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        replace(make(), **change).check((3, 4, 3), 3, "gate")


@given(seed=st.integers(0, 1 << 30), guard=st.integers(0, 2), steps=st.integers(1, 6))
@settings(max_examples=15, deadline=None)
def test_integer_and_reference_agree_on_random_programs(seed: int, guard: int, steps: int) -> None:
    network = staa_network(seed, guard, steps)
    x = payloads(network, 4, seed)
    ours, theirs = fast.run(network, x), reference.run(network, x)
    assert ours.graded.keys() == {"context1", "step1", "context2", "step2", "sum"}
    for name, values in ours.graded.items():
        np.testing.assert_array_equal(values, theirs.graded[name], err_msg=name)
    for name, spikes in ours.spikes.items():
        np.testing.assert_array_equal(spikes, theirs.spikes[name], err_msg=name)
    np.testing.assert_array_equal(ours.membrane["readout"], theirs.membrane["readout"])


@pytest.mark.lava
def test_the_lava_models_agree_on_random_programs() -> None:
    networks = [staa_network(seed, guard) for seed, guard in ((7, 1), (8, 0), (9, 2))]
    cases = [(network, payloads(network, 6, 0)) for network in networks]
    for (network, x), models in zip(cases, run_all(cases), strict=True):
        found = equivalence.compare(network, fast.run(network, x), models, x)
        assert found.equal, found.difference
        assert all(p.spikes for p in found.populations if p.id in ("lif1", "lif2"))


@cache
def compiled(
    model: str = "small-conv", width: float = 0.5, code: bool = True
) -> tuple[torch.nn.Module, Graph, Compiled]:
    trained = lively("staa", model, width)  # type: ignore[arg-type]
    for module in trained.modules():
        if isinstance(module, layers.PositionCode):
            module.code.data *= code
    graph = trace(trained, SPEC, STEPS, "staa")
    return trained, graph, compile_graph(lower_graph(graph, attention=True), time_first(random_frames(6)))


@pytest.mark.parametrize(("model", "width"), [("small-conv", 0.5), ("resnet-19", 1 / 32)])
def test_every_pass_and_retiming_keep_the_gates(model: str, width: float) -> None:
    graph = trace(lively("staa", model, width), SPEC, STEPS, "staa")  # type: ignore[arg-type]
    stages = lower_graph(graph, attention=True)
    inputs = time_first(random_frames(4))
    for stage in stages.values():
        assert_same(graph, stage, inputs)
    retimed = retime(stages[PASSES[-1].__name__], 1)
    assert_same(graph, retimed, inputs)
    gates = [node for node in retimed.nodes if isinstance(node, g.Gating)]
    assert {type(node) for node in gates} == {GlobalContext, StepAttention, Relay}
    for node in gates:
        assert node.sends == node.start + (STEPS if isinstance(node, StepAttention) else 0)


@pytest.mark.parametrize(("model", "width"), [("small-conv", 0.5), ("resnet-19", 1 / 32)])
def test_engines_agree_on_quantised_gates(model: str, width: float) -> None:
    """The torch engine has the model's own wiring, so what a shortcut takes is what the model's takes."""
    trained, graph, result = compiled(model, width)
    network, x = result.network, ints(random_frames(5, seed=2))
    integer = fast.run(network, x)
    for other in (torch_engine.run(network, trained, x), reference.run(network, x[:2])):
        found = equivalence.compare(network, integer, other, x)
        assert found.equal, found.difference
        gates = [p for p in found.populations if isinstance(network.population(p.id).program, Attention)]
        assert len(gates) == 1 + sum(isinstance(node, GlobalContext | StepAttention) for node in graph.nodes)
    assert all(values.any() for values in integer.graded.values())
    contexts = [r for r in network.records if isinstance(network.population(r.population).program, ContextGains)]
    assert np.median([1 - r.spike_agreement for r in contexts]) < 0.005
    assert max(1 - r.spike_agreement for r in contexts) < 0.05  # a hidden layer of two is a step, almost


@pytest.mark.lava
def test_lava_agrees_on_quantised_gates() -> None:
    _, _, result = compiled()
    x = ints(random_frames(3, seed=2))
    integer = fast.run(result.network, x)
    found = equivalence.compare(result.network, integer, lava.run(result.network, x, timeout=120), x)
    assert found.equal, found.difference


def changed(network: Network, population: str, **change: Any) -> Network:
    populations = [
        replace(p, program=replace(p.program, **change)) if p.id == population else p for p in network.populations
    ]
    return replace(network, populations=tuple(populations))


@pytest.mark.parametrize("gate", ["context", "step"])
def test_a_gain_that_is_a_little_off_is_caught_and_explained(gate: str) -> None:
    trained, _, result = compiled()
    network, x = result.network, ints(random_frames(5, seed=2))
    name = f"block1.lif.{gate}"
    program = network.population(name).program
    assert isinstance(program, ContextGains | StepGains)
    other = changed(network, name, gain_table=program.gain_table + (1 << program.gain_bits - STEP_BITS))
    assert other.digest != network.digest
    found = equivalence.compare(network, fast.run(network, x), torch_engine.run(other, trained, x), x)
    assert not found.equal
    assert found.divergence is not None
    assert found.divergence.population == name
    assert "integer says a graded spike of" in found.difference


def other_value(name: str, value: int | np.ndarray) -> int | np.ndarray:
    if isinstance(value, np.ndarray):
        return ints(2 * value + 5)
    return {"limit": max(1, value // 8), "epsilon": (1 << 30) - value}.get(name, value + 1)


@pytest.mark.parametrize("kind", [ContextGains, StepGains, UnitGains])
def test_each_number_of_a_program_decides_something(kind: type[Gains]) -> None:
    """The loops above could leave out none of them unseen."""
    deciding: set[str] = set()
    names = {field.name for field in fields(kind)}
    for seed in range(12):
        rng = np.random.default_rng(seed)
        program: Attention = {
            ContextGains: lambda rng: context_gains(rng, (3, 4, 4)),
            StepGains: lambda rng: step_gains(rng, (3, 4, 4), 5),
            UnitGains: lambda rng: UnitGains(limit=40, bias=ints(np.zeros((1, 1, 1))), input_shift=0, gain_shift=2),
        }[kind](rng)
        a_in = ints(rng.integers(-3000, 3000, (5, 6, 3, 4, 4)) * rng.choice([0.002, 0.1, 1]))
        if isinstance(program, StepGains):
            program = replace(program, limit=9)
        right = respond(program, a_in)
        for name in names - deciding:
            try:
                other = replace(program, **{name: other_value(name, getattr(program, name))})  # type: ignore[arg-type]
                other.check((3, 4, 4), 5, "gate")
            except UserError:
                continue
            if not np.array_equal(respond(other, a_in), right):
                deciding.add(name)
    assert deciding == names


@dataclass(frozen=True)
class Fault:
    """`old` in the source of a program becomes `new`."""

    old: str
    new: str
    module: ModuleType = context_gains_module


LATER = ", 0)\n        logit"
FAULTS = {
    "values not scaled": Fault("v = shifted(pixels, w)", "v = shifted(pixels, w * 0)"),
    "scale of the score forgotten": Fault("self.score_shift - w[..., 0]", "self.score_shift"),
    "softmax of the lowest score": Fault(
        "score.max(-1, keepdims=True) - score", "score - score.min(-1, keepdims=True)"
    ),
    "mean over places": Fault("e = fallen(", "e = 1 + 0 * fallen("),
    "division rounds down": Fault("z = divided(", "z = np.floor_divide("),
    "scale of the hidden value forgotten": Fault("self.squeeze_shift - w[..., 0]", "self.squeeze_shift"),
    "mean not taken away": Fault("hidden * h - h.sum(-1, keepdims=True)", "hidden * h"),
    "epsilon not scaled": Fault(">> 2 * (k - self.centre_shift)", ">> 0 * k"),
    "squares a bit short": Fault("- square_bits(hidden)", "- square_bits(hidden) + 1"),
    "no ReLU in the context": Fault(LATER, ", -(10**9))\n        logit"),
    "gains of other channels": Fault("logit)[..., None, None]", "logit)[..., ::-1, None, None]"),
    "no ReLU of steps": Fault(LATER, ", -(10**9))\n        logit", step_gains_module),
    "gains of other steps": Fault("logit)[..., None,", "logit)[::-1, ..., None,", step_gains_module),
    "bias of steps left out": Fault(" + self.excite_bias[:, None]", "", step_gains_module),
    "steps for places": Fault("self.squeeze @ m", "self.squeeze[:, ::-1] @ m", step_gains_module),
}


def with_fault(fault: Fault) -> ModuleType:
    source = inspect.getsource(fault.module)
    assert source.count(fault.old) == 1, f"not in the program any more: {fault.old}"
    module = ModuleType(fault.module.__name__)
    exec(compile(source.replace(fault.old, fault.new), "faulty program", "exec"), module.__dict__)
    return module


@pytest.mark.parametrize("name", FAULTS)
def test_the_loops_catch_a_planted_fault(name: str) -> None:
    faulty = with_fault(FAULTS[name])
    caught = False
    for seed in range(40):
        rng = np.random.default_rng(seed)
        shape, steps = shapes(rng)
        context_fault = FAULTS[name].module is context_gains_module
        program = context_gains(rng, shape) if context_fault else step_gains(rng, shape, steps)
        other = getattr(faulty, type(program).__name__)(**vars(program))
        a_in = ints(rng.integers(-9000, 9000, (steps, 1, *shape)) * rng.choice([0.02, 0.2, 1]))
        if isinstance(program, ContextGains):
            right = obvious_context(program, a_in[:, 0])
        else:
            a_in = ints(2 * (rng.random(a_in.shape) < 0.5))
            right = obvious_step(program, a_in[:, 0])
        np.testing.assert_array_equal(respond(program, a_in)[:, 0], right)
        caught |= not np.array_equal(respond(other, a_in)[:, 0], right)
    assert caught


def test_the_file_keeps_the_programs(tmp_path: Path) -> None:
    network = staa_network(7)
    write_network(tmp_path / "n.h5", network)
    again = read_network(tmp_path / "n.h5")
    assert again.digest == network.digest
    assert [type(p.program) for p in again.populations] == [type(p.program) for p in network.populations]
    x = payloads(network, 2, 0)
    assert equivalence.compare(network, fast.run(network, x), fast.run(again, x), x).equal


def test_what_has_no_attention_refuses_it_by_name(tmp_path: Path) -> None:
    _, _, result = compiled(code=False)  # nor has NIR clocks, which come first
    with pytest.raises(UserError, match=r"GlobalContext block1\.lif\.context: NIR has no such node"):
        write_nir(tmp_path / "m.nir", result.nir)
    with pytest.raises(UserError, match="attention has no netx form"):
        write_netx(tmp_path / "n.net", result.network)
    writer = pytest.importorskip("export.formats.onnx_integer")
    with pytest.raises(UserError, match=r"population block1\.lif\.context: attention has no ONNX form"):
        writer.to_onnx(result.network)


def test_step_attention_of_a_sum_is_refused_by_name() -> None:
    rng = np.random.default_rng(0)
    neuron = g.Neuron("lif", "", ("c1",), np.array([0.3]), np.array([1.0]))
    nodes = (
        g.Input("input", "", (), (2, 3, 3), 15),
        g.Convolution("c1", "", ("input",), np.ones((2, 1, 1, 1)), None, groups=2),
        neuron,
        replace(neuron, id="lif2"),
        g.Add("both", "", ("lif", "lif2")),
        replace(step_node(rng, 3), inputs=("both",)),
        g.Flatten("flat", "", ("gate",)),
        g.Dense("head", "", ("flat",), np.ones((2, 18)), None),
        g.Accumulate("readout", "", ("head",)),
    )
    stages = lower_graph(Graph("sum", nodes, 3), attention=True)
    inputs = rng.integers(0, 16, (3, 4, 2, 3, 3)).astype(np.float64)
    with pytest.raises(UserError, match="StepAttention gate: takes something else than the spikes of one population"):
        compile_graph(stages, inputs)


def test_a_read_out_without_step_attention_gets_no_relay() -> None:
    graph = lower_graph(trace(lively("fsta"), SPEC, STEPS, "fsta"), attention=True)[PASSES[-1].__name__]
    assert relay_readout(graph).nodes == graph.nodes


def test_the_plan_names_what_it_does_not_count() -> None:
    _, _, result = compiled()
    network, x = result.network, ints(random_frames(2))
    (line,) = rules.not_stock(network)
    assert line.startswith("Attention in block1.lif.context, block1.lif.step, ")
    assert "readout.sum: not a stock program" in line
    assert_planned(network, x)
