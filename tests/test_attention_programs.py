"""Attention in integers: its arithmetic against plain loops in 32 bits, its engines against each other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ints
from hypothesis import given, settings
from hypothesis import strategies as st
from random_networks import attention_network, frequency_gains, payloads
from test_attention import SPEC, STEPS, lively, random_frames, time_first
from test_passes import assert_same

from deploy import chip as chips
from deploy import cost, mapping, rules
from export import execute, whole
from export import graph as g
from export.attention import FrequencyAttention, gain
from export.attention_programs import FrequencyGains, respond
from export.attention_search import float_unit
from export.formats.netx_writer import write_netx
from export.formats.nir_writer import write_nir
from export.gains import Gains
from export.graph import Graph
from export.network import Attention, Ints, Network
from export.passes.retime import retime
from export.pipeline import PASSES, Compiled, compile_graph, lower_graph
from export.quantise_frequency import frequency
from export.store import read_network, write_network
from export.trace import trace
from sim import activity, equivalence, fast, lava, recorded, reference, torch_engine
from sim.recording import Recording
from train.errors import UserError


class Word:
    """32-bit arithmetic in plain Python: every result is checked."""

    @staticmethod
    def of(value: int) -> int:
        assert -(1 << 31) < value < 1 << 31, f"{value} is no 32-bit number"
        return int(value)

    @classmethod
    def total(cls, values: list[int]) -> int:
        result = 0
        for value in values:
            result = cls.of(result + cls.of(value))
        return result

    @classmethod
    def shifted(cls, value: int, shift: int) -> int:
        half = 2 ** (shift - 1) if shift else 0
        return cls.of(value + half) // 2**shift


def look(table: np.ndarray, logit: int) -> int:
    index = logit + len(table) // 2
    return int(table[0] if index < 0 else table[-1] if index >= len(table) else table[index])


def obvious(program: FrequencyGains, a_in: np.ndarray) -> np.ndarray:
    """The equations of `FrequencyGains` for one sample [T, C, H, W], value by value."""
    steps, channels, height, width = a_in.shape
    bias = np.broadcast_to(program.bias, a_in.shape[1:])
    places = [(h, w) for h in range(height) for w in range(width)]
    x = np.zeros_like(a_in)
    for place in np.ndindex(*a_in.shape):
        value = Word.shifted(Word.of(int(a_in[place]) + int(bias[place[1:]])), program.input_shift)
        x[place] = max(-program.limit, min(program.limit, value))
    amplitude, summed = [], np.zeros((steps, height, width), dtype=object)
    for t in range(steps):
        parts = []
        for c in range(channels):
            values = [int(x[t, c, h, w]) for h, w in places]
            parts.append(Word.of(int(program.mean[c]) * Word.shifted(Word.total(values), program.mean_shift)))
            parts.append(Word.of(int(program.highest[c]) * max(values)))
        amplitude.append(Word.shifted(Word.total(parts), program.amplitude_shift))
        for h, w in places:
            values = [Word.of(int(program.common[c]) * int(x[t, c, h, w])) for c in range(channels)]
            summed[t, h, w] = Word.shifted(Word.total(values), program.common_shift)
    step = []
    for t in range(steps):
        logit = Word.total([Word.of(int(program.temporal[t, r]) * amplitude[r]) for r in range(steps)])
        step.append(look(program.step_table, Word.shifted(logit, program.temporal_shift)))
    u = {
        (h, w): Word.shifted(
            Word.total([Word.of(step[t] * summed[t, h, w]) for t in range(steps)]), program.place_shift
        )
        for h, w in places
    }
    side = program.kernels.shape[-1]
    near = [(i // side - side // 2, i % side - side // 2) for i in range(side * side)]
    y = np.zeros_like(a_in)
    for h, w in places:
        logit = 0
        for j, (down, right) in enumerate(near):
            if (h + down, w + right) in u:  # what the first convolution gives beyond the map is nothing
                for i, (lower, further) in enumerate(near):
                    value = u.get((h + down + lower, w + right + further), 0)
                    logit = Word.of(logit + Word.of(int(program.kernels[j].flat[i]) * value))
        place = look(program.place_table, Word.shifted(logit, program.logit_shift))
        for t in range(steps):
            both = Word.shifted(Word.of(step[t] * place), whole.GAIN_BITS)
            for c in range(channels):
                y[t, c, h, w] = Word.shifted(Word.of(int(x[t, c, h, w]) * both), program.gain_shift)
    return y


@given(seed=st.integers(0, 1 << 30))
@settings(max_examples=25, deadline=None)
def test_the_arithmetic_is_that_of_plain_loops_in_32_bits(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shape, steps = tuple(int(n) for n in rng.integers(1, 5, 3)), int(rng.integers(1, 5))
    program = frequency_gains(rng, shape, steps)
    a_in = ints(rng.integers(-2000, 2000, (steps, 2, *shape)) * rng.choice([0.02, 0.2, 1]))
    answer = respond(program, a_in)
    assert np.abs(answer).max() <= program.largest
    for sample in range(2):
        np.testing.assert_array_equal(answer[:, sample], obvious(program, a_in[:, sample]))


def random_node(seed: int, channels: int, steps: int, size: float = 1.0) -> FrequencyAttention:
    rng = np.random.default_rng(seed)
    kernels = rng.normal(0, 0.3, (9, 3, 3))
    spatial = rng.normal(0, 0.3, (9, 3, 3)) * size
    temporal = rng.normal(0, 2, (steps, steps)) * size
    return FrequencyAttention("gate", "gate", (), *rng.uniform(0.2, 1, 2), temporal, kernels, spatial, 0.6, 0.5)


@given(seed=st.integers(0, 1 << 30), size=st.sampled_from([0.1, 1.0, 30.0]), loud=st.sampled_from([0.05, 1.0]))
@settings(max_examples=25, deadline=None)
def test_the_largest_inputs_stay_in_32_bits_and_the_gains_near_the_float_ones(
    seed: int, size: float, loud: float
) -> None:
    """Each channel at a scale of its own; inputs up to the bound that the program was made for."""
    rng = np.random.default_rng(seed)
    shape, steps, samples = (3, 4, 3), 3, 3
    node = random_node(seed, 3, steps, size)
    scale, bias = rng.uniform(2e3, 4e4, 3), ints(rng.integers(-900, 900, (3, 1, 1)))
    bound = int(rng.choice([3_000, 1 << 15, 1 << 19]))
    program = frequency(node, shape, steps, scale, bias, bound + 900, 31_500)
    extreme = ints(rng.choice([-bound, bound], (steps, samples, *shape)))
    np.testing.assert_array_equal(respond(program, extreme)[:, 0], obvious(program, extreme[:, 0]))
    a_in = ints(rng.integers(-bound, bound, (steps, samples, *shape)) * loud)
    units = (a_in + bias) / scale.reshape(3, 1, 1)
    sent = respond(program, a_in) * float_unit(program, scale).reshape(3, 1, 1)
    wanted = units * gain(node, units)
    if size <= 1:
        assert np.sqrt(np.square(sent - wanted).mean() / np.square(wanted).mean()) < 0.05
    assert program.largest <= 31_500


def small_program() -> FrequencyGains:
    shape, scale = (3, 4, 3), np.full(3, 1e4)
    return frequency(random_node(0, 3, 3), shape, 3, scale, ints([[[0]]]), 9999, 31_500)


def test_a_program_whose_largest_value_does_not_fit_is_refused_and_one_below_is_not() -> None:
    program = frequency(random_node(0, 3, 3), (3, 4, 3), 3, np.full(3, 1e4), ints([[[0]]]), 9999, 31_500)
    program.check((3, 4, 3), 3, "gate")
    for name in ("mean", "common", "temporal", "kernels"):
        values = getattr(program, name)
        with pytest.raises(UserError, match=r"gate: .* can reach \d+, 32 bits hold less than 2147483648"):
            replace(program, **{name: values * 64}).check((3, 4, 3), 3, "gate")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"limit": 0}, "limit 0, allowed"),
        ({"limit": 1 << 23}, "limit 8388608"),
        ({"gain_shift": 31}, "shifted by 31, allowed 0..30"),
        ({"input_shift": -1}, "shifted by -1"),
        ({"mean": ints([1, 2])}, "mean int64 of shape"),
        ({"temporal": np.zeros((3, 3))}, "temporal float64"),
        ({"kernels": ints(5)}, "kernels int64 of shape"),
        ({"kernels": ints(np.ones((4, 2, 2)))}, "kernels of side 2, must be odd"),
        ({"bias": ints(np.zeros((3, 4, 9)))}, "bias int64 of shape"),
        ({"step_table": ints([5])}, "step_table int64 of shape"),
        ({"place_table": ints([5, 1 << 20])}, "is not a table"),
    ],
)
def test_what_a_program_may_not_hold(change: dict[str, object], message: str) -> None:
    program = frequency(random_node(0, 3, 3), (3, 4, 3), 3, np.full(3, 1e4), ints([[[0]]]), 9999, 31_500)
    with pytest.raises(UserError, match=message):
        replace(program, **change).check((3, 4, 3), 3, "gate")  # type: ignore[arg-type]


@given(seed=st.integers(0, 1 << 30), guard=st.integers(0, 2), steps=st.integers(1, 6))
@settings(max_examples=15, deadline=None)
def test_integer_and_reference_agree_on_random_attention(seed: int, guard: int, steps: int) -> None:
    network = attention_network(seed, guard, steps)
    x = payloads(network, 4, seed)
    ours, theirs = fast.run(network, x), reference.run(network, x)
    assert ours.graded.keys() == {"gate1", "gate2"}
    for name, values in ours.graded.items():
        np.testing.assert_array_equal(values, theirs.graded[name], err_msg=name)
    for name, spikes in ours.spikes.items():
        np.testing.assert_array_equal(spikes, theirs.spikes[name], err_msg=name)
    np.testing.assert_array_equal(ours.membrane["readout"], theirs.membrane["readout"])


def test_no_sample_sees_its_neighbour() -> None:
    network = attention_network(3, guard=0)
    x = payloads(network, 5, 1)
    together = reference.run(network, x)
    for sample in range(5):
        alone = reference.run(network, x[sample : sample + 1])
        for name, values in alone.graded.items():
            np.testing.assert_array_equal(values[0], together.graded[name][sample])


@pytest.mark.lava
@pytest.mark.parametrize("guard", [0, 1])
def test_lava_agrees_on_random_attention(guard: int) -> None:
    network = attention_network(7 + guard, guard)
    x = payloads(network, 4, 0)
    found = equivalence.compare(network, fast.run(network, x), lava.run(network, x, timeout=120), x)
    assert found.equal, found.difference
    assert [p.id for p in found.populations] == ["gate1", "lif1", "gate2", "lif2", "readout"]
    assert all(p.spikes for p in found.populations if p.id in ("lif1", "lif2"))


def compiled(model: str = "small-conv", width: float = 0.5) -> tuple[torch.nn.Module, Graph, Compiled]:
    trained = lively("fsta", model, width)  # type: ignore[arg-type]
    graph = trace(trained, SPEC, STEPS, "attention")
    stages = lower_graph(graph, attention=True)
    return trained, graph, compile_graph(stages, time_first(random_frames(6)))


@pytest.mark.parametrize(("model", "width"), [("small-conv", 0.5), ("resnet-19", 1 / 32)])
def test_every_pass_and_retiming_keep_attention(model: str, width: float) -> None:
    graph = trace(lively("fsta", model, width), SPEC, STEPS, "attention")  # type: ignore[arg-type]
    stages = lower_graph(graph, attention=True)
    inputs = time_first(random_frames(4))
    for stage in stages.values():
        assert_same(graph, stage, inputs)
    last = stages[PASSES[-1].__name__]
    retimed = retime(last, 1)
    assert_same(graph, retimed, inputs)
    gates = [node for node in retimed.nodes if isinstance(node, g.Gating)]
    assert gates
    assert all(node.sends == node.start + STEPS for node in gates)


@pytest.mark.parametrize(("model", "width"), [("small-conv", 0.5), ("resnet-19", 1 / 32)])
def test_engines_agree_on_quantised_attention(model: str, width: float) -> None:
    trained, graph, result = compiled(model, width)
    network, x = result.network, ints(random_frames(5, seed=2))
    integer = fast.run(network, x)
    engines = [torch_engine.run(network, trained, x), reference.run(network, x[:2])]
    for other in engines:
        found = equivalence.compare(network, integer, other, x)
        assert found.equal, found.difference
        gates = [p for p in found.populations if isinstance(network.population(p.id).program, Attention)]
        assert len(gates) == sum(isinstance(node, FrequencyAttention) for node in graph.nodes)
    assert all(values.any() for values in integer.graded.values())
    errors = [1 - r.spike_agreement for r in network.records if r.population in integer.graded]
    assert max(errors) < 0.02


@pytest.mark.lava
def test_lava_agrees_on_quantised_attention() -> None:
    _, _, result = compiled()
    x = ints(random_frames(3, seed=2))
    found = equivalence.compare(
        result.network, fast.run(result.network, x), lava.run(result.network, x, timeout=120), x
    )
    assert found.equal, found.difference


def changed(network: Network, population: str, change: Callable[[FrequencyGains], FrequencyGains]) -> Network:
    populations = list(network.populations)
    (index,) = (i for i, p in enumerate(populations) if p.id == population)
    program = populations[index].program
    assert isinstance(program, FrequencyGains)
    populations[index] = replace(populations[index], program=change(program))
    return replace(network, populations=tuple(populations))


def faulty_table(program: FrequencyGains) -> FrequencyGains:
    """One unit more in every entry of a table: a gain that is a thousandth off."""
    return replace(program, step_table=program.step_table + 1)


def test_a_gain_that_is_a_thousandth_off_is_caught_and_explained() -> None:
    trained, _, result = compiled()
    network, x = result.network, ints(random_frames(5, seed=2))
    name = next(p.id for p in network.populations if isinstance(p.program, Attention))
    other = changed(network, name, faulty_table)
    assert other.digest != network.digest
    found = equivalence.compare(network, fast.run(network, x), torch_engine.run(other, trained, x), x)
    assert not found.equal
    assert found.divergence is not None
    assert found.divergence.population == name
    assert "integer says a graded spike of" in found.difference
    assert "at this step of the window, sends" in found.difference


def test_attention_that_did_not_run_is_no_equality() -> None:
    _, _, result = compiled()
    x = ints(random_frames(2))
    full = fast.run(result.network, x)
    without = Recording("crippled", full.spikes, full.membrane)
    with pytest.raises(UserError, match=r"did not record population block1\.lif.attention"):
        equivalence.compare(result.network, full, without, x)


def test_recordings_hold_graded_spikes(tmp_path: Path) -> None:
    network = attention_network(7)
    x = payloads(network, 3, 0)
    run = fast.run(network, x)
    recorded.write(tmp_path / "r.nir", network, run, x)
    again = recorded.read(tmp_path / "r.nir", network, x)
    assert not again.absent
    assert not again.strange
    assert equivalence.compare(network, run, again.recording, x, again.populations).equal


def test_the_file_keeps_the_program(tmp_path: Path) -> None:
    network = attention_network(7)
    write_network(tmp_path / "n.h5", network)
    again = read_network(tmp_path / "n.h5")
    assert again.digest == network.digest
    x = payloads(network, 2, 0)
    assert equivalence.compare(network, fast.run(network, x), fast.run(again, x), x).equal


def test_attention_in_a_loop_is_refused() -> None:
    network = attention_network(1)
    synapses = replace(network.connections[2].synapses)
    back = replace(network.connections[2], id="back", source="lif2", target="gate2", synapses=synapses)
    with pytest.raises(UserError, match="population gate2: attention in a loop, which connection back closes"):
        replace(network, connections=(*network.connections, back))


def test_a_shortcut_beside_attention_may_need_more_delay_than_there_is() -> None:
    steps = 61
    eye = np.ones((2, 1, 1, 1))
    gate = replace(random_node(0, 2, steps), inputs=("c1",))
    nodes = (
        g.Input("input", "", (), (2, 3, 3), 15),
        g.Convolution("c1", "", ("input",), eye, None, groups=2),
        gate,
        g.Neuron("lif", "", ("gate",), np.array([0.3]), np.array([1.0])),
        g.Convolution("c2", "", ("lif",), eye, None, groups=2),
        g.Convolution("skip", "", ("input",), eye, None, groups=2),
        g.Add("sum", "", ("c2", "skip")),
        g.Neuron("lif2", "", ("sum",), np.array([0.3]), np.array([1.0])),
        g.Flatten("flat", "", ("lif2",)),
        g.Dense("head", "", ("flat",), np.ones((2, 18)), None),
        g.Accumulate("readout", "", ("head",)),
    )
    last = lower_graph(Graph("long", nodes, steps), attention=True)[PASSES[-1].__name__]
    with pytest.raises(UserError, match=r"Convolution skip: needs a delay of 63 steps, limit 62 \(.*attention"):
        retime(last, 1)


def test_what_has_no_attention_refuses_it_by_name(tmp_path: Path) -> None:
    _, _, result = compiled()
    with pytest.raises(UserError, match=r"FrequencyAttention block1\.lif\.attention: NIR has no such node"):
        write_nir(tmp_path / "m.nir", result.nir)
    with pytest.raises(UserError, match="attention has no netx form"):
        write_netx(tmp_path / "n.net", result.network)
    writer = pytest.importorskip("export.formats.onnx_integer")
    with pytest.raises(UserError, match=r"population block1\.lif\.attention: attention has no ONNX form"):
        writer.to_onnx(result.network)


def test_the_plan_names_what_it_does_not_count() -> None:
    _, _, result = compiled()
    network, x = result.network, ints(random_frames(2))
    (line,) = rules.not_stock(network)
    assert line.startswith("Attention in block1.lif.attention, ")
    assert "not a stock program" in line
    assert_planned(network, x)


def assert_planned(network: Network, x: Ints) -> None:
    """The plan has a ring of T values where attention waits; products are counted, and named as free."""
    chip = chips.load("loihi2")
    gates = [p for p in network.populations if isinstance(p.program, Attention)]
    placed = {p.population: p for p in mapping.plan(network, chip).placements}
    for gate in gates:
        ring = gate.size * network.steps * chip.storage.accumulator_bits.value
        assert placed[gate.id].memory_bits > ring * gate.waits
    counts = cost.count(network, activity.measure(network, fast.run(network, x), x, {}))
    products = sum(p.program.products(p.shape, network.steps) for p in gates if isinstance(p.program, Gains))
    assert counts.attention_products == products > 0
    for energy in cost.energies(network, counts, chip):
        said = f"The {products:,} multiplications of attention, its sums, divisions and tables are not counted."
        assert said in energy.caveat
    broken = rules.violations(network, mapping.plan(network, chips.load("loihi1")))
    assert {v.rule for v in broken} >= {"program", "graded spikes"}


def test_small_batches_of_attention_are_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    network = attention_network(5)
    x = payloads(network, 7, 0)
    whole_batch = fast.run(network, x)
    monkeypatch.setattr(execute, "ATTENDED", 500)
    assert equivalence.compare(network, whole_batch, fast.run(network, x), x).equal
