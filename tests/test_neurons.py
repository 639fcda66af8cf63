"""Neuron programs: decays of each channel, synaptic currents, the reset that subtracts, clocks; every engine, equal."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import nir_machine
import numpy as np
import pytest
import torch
from conftest import ints
from hypothesis import given, settings
from hypothesis import strategies as st

from export import command, limits, proof
from export import graph as g
from export.formats.nir_writer import write_nir
from export.interpret import interpret
from export.network import LIF, Clock, Connection, Convolution, Dense, Gate, Network, Population, Source
from export.passes.bias_to_clock import bias_to_clock
from export.passes.retime import retime
from export.pipeline import compile_graph, lower_graph
from sim import equivalence, fast, reference
from sim.pytest_plugin import assert_spikes_equal
from train.errors import UserError
from train.kernels import fixed_point

STEPS = 6


@st.composite
def programs(draw: st.DrawFn, shape: tuple[int, ...]) -> LIF:
    """A LIF program anywhere in its legal ranges, each number one for all or one for each channel or neuron."""

    def numbers(low: int, high: int, *corners: int) -> np.ndarray:
        size = draw(st.sampled_from([(), (shape[0],) + (1,) * (len(shape) - 1), shape]))
        values = st.one_of(st.integers(low, high), st.sampled_from([low, high, *corners]))
        count = int(np.prod(size))
        return ints(draw(st.lists(values, min_size=count, max_size=count))).reshape(size)

    return LIF(
        du=numbers(*limits.DU_RANGE, 0, 4094),
        dv=numbers(*limits.DV_RANGE, 1),
        vth=numbers(0, limits.VTH_LIMIT - 1, 1),
        bias_mant=numbers(*limits.BIAS_MANT_RANGE, 0),
        bias_exp=draw(st.integers(*limits.BIAS_EXP_RANGE)),
        reset=draw(st.sampled_from(["zero", "subtract"])),
    )


def driven(program: LIF, shape: tuple[int, ...], seed: int, exponent: int) -> Network:
    """Graded events and a clock into one population, whose currents may wrap and whose potentials may clip."""
    rng = np.random.default_rng(seed)
    size = int(np.prod(shape))
    weights = [ints(2 * rng.integers(-128, 128, (size, inputs))) for inputs in (5, STEPS)]
    for weight in weights:
        weight[0, 0] |= 2
    return Network(
        name="driven",
        steps=STEPS,
        period=STEPS,
        populations=(
            Population("clock", "", (STEPS,), 1, Clock()),
            Population("input", "", (5,), 0, Source(payload_bits=8)),
            Population("neurons", "", shape, 2, program),
        ),
        connections=(
            Connection("in", "", "input", "neurons", Dense(weights[0]), exponent, ints([1] * 5)),
            Connection("told", "", "clock", "neurons", Dense(weights[1]), min(exponent + 4, 9), ints([0] * STEPS)),
        ),
    )


SHAPES = st.sampled_from([(3,), (2, 2, 2)])


@given(data=st.data(), shape=SHAPES, seed=st.integers(0, 10_000), exponent=st.integers(0, 9))
@settings(max_examples=150, deadline=None)
def test_engines_are_equal_over_all_programs(
    data: st.DataObject, shape: tuple[int, ...], seed: int, exponent: int
) -> None:
    """The machine, the layer-wise engine and the arithmetic of training, wraps and clips included."""
    program = data.draw(programs(shape))
    network = driven(program, shape, seed, exponent)
    inputs = ints(np.random.default_rng(seed).integers(0, 256, (3, STEPS, 5)))
    slow, quick = reference.run(network, inputs), fast.run(network, inputs)
    np.testing.assert_array_equal(slow.spikes["neurons"], quick.spikes["neurons"])
    stream = reference.simulate(network, inputs)
    current = reference.windows(stream.current["neurons"], network.populations[2], network)
    arrays = (torch.from_numpy(values) for values in (program.vth, program.bias, program.dv, program.du))
    spikes, membrane = fixed_point.loihi_lif(
        torch.from_numpy(np.moveaxis(current, 1, 0).copy()), *arrays, subtract=program.reset == "subtract"
    )
    np.testing.assert_array_equal(np.moveaxis(spikes.numpy(), 0, 1), slow.spikes["neurons"])
    window = reference.windows(stream.membrane["neurons"], network.populations[2], network)
    np.testing.assert_array_equal(np.moveaxis(membrane.numpy(), 0, 1), window)


# --- planted faults ---


def lively() -> Network:
    """Graded input -> four maps with decays of their own and a clock -> dense, subtracting -> read-out."""
    rng = np.random.default_rng(3)
    even = lambda *shape: ints(2 * rng.integers(-30, 36, shape))  # noqa: E731
    decays, fades = ints([3000, 500, 2048, 0]).reshape(4, 1, 1), ints([4095, 1000, 3000, 4095]).reshape(4, 1, 1)
    maps = LIF(decays * 0 + fades, decays, ints(180), ints(rng.integers(-300, 400, (4, 1, 1))), 3, Gate(256, 8))
    dense = LIF(
        ints([4095, 2000] * 3), ints([0, 100, 900, 2000, 3000, 4095]), ints(400), ints(40), 2, Gate(256, 8), "subtract"
    )
    return Network(
        name="lively",
        steps=5,
        period=6,
        populations=(
            Population("input", "", (2, 5, 5), 1, Source(payload_bits=4)),
            Population("clock", "", (5, 5, 5), 1, Clock()),
            Population("maps", "", (4, 5, 5), 2, maps),
            Population("dense", "", (6,), 3, dense),
            Population("readout", "", (3,), 4, LIF(4095, 0, limits.VTH_LIMIT - 1, 0, 0), readout=True),
        ),
        connections=(
            Connection("in", "", "input", "maps", Convolution(even(4, 2, 3, 3), padding=(1, 1)), 0, ints([0] * 2)),
            Connection("told", "", "clock", "maps", Convolution(even(4, 5, 1, 1)), 1, ints([0] * 5)),
            Connection("maps-dense", "", "maps", "dense", Dense(even(6, 100)), 0, ints([0] * 4)),
            Connection("dense-out", "", "dense", "readout", Dense(even(3, 6)), 0, ints([0] * 6)),
        ),
    )


def lively_inputs(samples: int = 20) -> np.ndarray:
    return ints(np.random.default_rng(0).integers(0, 16, (samples, 5, 2, 5, 5)))


def with_program(network: Network, name: str, **change: object) -> Network:
    populations = tuple(
        replace(p, program=replace(p.program, **change)) if p.id == name else p for p in network.populations
    )
    return replace(network, populations=populations)


def test_lively_network_is_equal_and_lively() -> None:
    network, inputs = lively(), lively_inputs()
    slow, quick = reference.run(network, inputs), fast.run(network, inputs)
    result = assert_spikes_equal(network, quick, slow, inputs)
    assert [p.id for p in result.populations] == ["maps", "dense", "readout"]
    for name, spikes in slow.spikes.items():
        rates = spikes.mean((0, 1)).reshape(len(spikes[0, 0]), -1).mean(1)
        assert rates.min() > 0, name
        assert rates.max() < 1, name


def shifted_clock(network: Network) -> Network:
    """The clock one step late: its first spike meets the second step of the window."""
    populations = tuple(replace(p, start=2) if p.id == "clock" else p for p in network.populations)
    return replace(network, populations=populations)


def moved(network: Network, name: str, parameter: str, channel: int) -> Network:
    """One number of one channel off by one."""
    program = network.population(name).program
    values = getattr(program, parameter).copy()
    values[channel] += 1
    return with_program(network, name, **{parameter: values})


FAULTS = {
    "decay of one channel off by one": (lambda n: moved(n, "maps", "dv", 3), "maps"),
    "current decay of one channel off by one": (lambda n: moved(n, "maps", "du", 2), "maps"),
    "reset to zero instead of subtracting": (lambda n: with_program(n, "dense", reset="zero"), "dense"),
    "reset that subtracts instead of to zero": (lambda n: with_program(n, "maps", reset="subtract"), "maps"),
    "clock shifted by a step": (shifted_clock, "maps"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_caught(fault: str) -> None:
    plant, where = FAULTS[fault]
    network, inputs = lively(), lively_inputs(400)
    good, bad = fast.run(network, inputs), fast.run(plant(network), inputs)
    result = equivalence.compare(network, good, bad, inputs)
    assert not result.equal
    assert result.divergence is not None
    assert result.divergence.population == where


# --- the float graph ---


def obvious(x: np.ndarray, node: g.Neuron) -> np.ndarray:
    """Neuron by neuron, step by step: x [T, B, C, H, W] to spikes."""
    out = np.zeros_like(x)
    steps, samples, channels, height, width = x.shape

    def of(values: np.ndarray, c: int, i: int, j: int) -> float:
        if values.ndim == 3:
            return float(np.broadcast_to(values, (channels, height, width))[c, i, j])
        return float(values[c] if len(values) > 1 else values[0])

    for b, c, i, j in np.ndindex(samples, channels, height, width):
        leak, threshold, keeps = (of(v, c, i, j) for v in (node.leak, node.threshold, node.current_leak))
        current = potential = 0.0
        for t in range(steps):
            current = keeps * current + x[t, b, c, i, j]
            potential = leak * potential + current
            if potential > threshold:
                out[t, b, c, i, j] = 1
                potential = 0.0 if node.reset == "zero" else potential - threshold
    return out


@given(seed=st.integers(0, 10_000), reset=st.sampled_from(["zero", "subtract"]), shape=st.integers(0, 2))
@settings(max_examples=60, deadline=None)
def test_the_interpreter_does_what_the_equations_say(seed: int, reset: g.Reset, shape: int) -> None:
    rng = np.random.default_rng(seed)
    size = [(1,), (3,), (3, 2, 2)][shape]
    leak, threshold = rng.uniform(0, 1, size), rng.uniform(0.2, 4, size[:1])
    node = g.Neuron("n", "", ("input",), leak, threshold, current_leak=rng.uniform(0, 0.9, size), reset=reset)
    graph = g.Graph("one", (g.Input("input", "", (), (3, 2, 2), 3), node), 7)
    x = rng.integers(0, 4, (7, 2, 3, 2, 2)).astype(np.float64)
    spikes = interpret(graph, x).values["n"]
    assert spikes.any() or threshold.min() > 2
    np.testing.assert_array_equal(spikes, obvious(x, node))
    other = replace(node, reset="zero" if reset == "subtract" else "subtract")
    if not np.array_equal(obvious(x, other), spikes):  # the two resets can be told apart
        with pytest.raises(AssertionError):
            np.testing.assert_array_equal(spikes, interpret(graph.with_nodes([graph.nodes[0], other]), x).values["n"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"leak": 1.5}, r"a leak of 1\.5, allowed 0\.\.1"),
        ({"leak": np.array([0.5, -0.1, 0.5])}, r"a leak of -0\.1"),
        ({"leak": np.array([0.5, 0.5])}, r"leak of shape \(2, 1, 1\) for an output of \(3, 2, 2\)"),
        ({"current_leak": np.nan}, "a current leak of nan"),
        ({"threshold": np.array([5.0, -1.0, 0.0])}, "a threshold of -1, allowed finite and at least 0"),
        ({"threshold": np.inf}, "a threshold of inf"),
        ({"reset": "half"}, "reset 'half', known are zero, subtract"),
    ],
)
def test_neurons_are_checked_on_construction(change: dict[str, object], message: str) -> None:
    node = g.Neuron("n", "stage.n", ("input",), 0.5, 0.5)
    with pytest.raises(UserError, match=rf"stage\.n: {message}"):
        g.Graph("one", (g.Input("input", "", (), (3, 2, 2), 3), replace(node, **change)), 2)


def test_a_clock_tells_the_steps_of_its_window() -> None:
    nodes = (g.Input("input", "", (), (1,), 1), g.Clock("clock", "", (), (4, 2, 2)))
    sent = interpret(g.Graph("told", nodes, 4), np.zeros((4, 3, 1))).values["clock"]
    for step, sample, row, column in np.ndindex(4, 3, 2, 2):
        assert sent[step, sample, :, row, column].tolist() == [float(t == step) for t in range(4)]
    with pytest.raises(UserError, match="tells 4 steps, the window has 5"):
        g.Graph("told", nodes, 5)


# --- passes ---


def told(steps: int = 4, shift: bool = False) -> g.Graph:
    """A residual block with gains of both signs, a code for each step, a synaptic current behind a bias.

    `shift`: with a temporal shift in front of the synaptic current, so that there are guard steps and gates.
    """
    rng = np.random.default_rng(2)
    gain = np.array([0.7, -0.8, 1.3])

    def convolution(name: str, source: str, inputs: int, spread: float) -> g.Convolution:
        weight = rng.normal(0, spread, (3, inputs, 3, 3))
        return g.Convolution(name, "", (source,), weight, rng.normal(0, 0.2, 3), (1, 1), (1, 1))

    return g.Graph(
        "told",
        (
            g.Input("input", "", (), (2, 4, 4), 15),
            g.Convolution(
                "c1", "", ("input",), rng.normal(0, 0.1, (3, 2, 3, 3)), rng.normal(0, 0.2, 3), (1, 1), (1, 1)
            ),
            g.Neuron("n1", "", ("c1",), rng.uniform(0, 1, 3), 0.5),
            convolution("c2", "n1", 3, 0.4),
            g.Add("join", "", ("c2", "n1")),
            g.Clock("clock", "", (), (steps, 4, 4)),
            g.Convolution("code", "", ("clock",), rng.normal(0, 0.3, (3, steps, 1, 1)), None),
            g.Add("coded", "", ("join", "code")),
            g.Affine("gain", "", ("coded",), gain, np.array([0.1, 0.2, -0.1])),
            g.Neuron("n2", "", ("gain",), rng.uniform(0, 1, 3), 0.5, reset="subtract"),
            *([g.TemporalShift("shift", "", ("n2",), 0.4, 1, 2)] if shift else []),
            convolution("c3", "shift" if shift else "n2", 3, 0.4),
            g.Neuron("n3", "", ("c3",), 0.5, 0.5, current_leak=np.array([0.0, 0.5, 0.8])),
            g.Dense("d4", "", ("n3",), rng.normal(0, 0.3, (5, 48)), rng.normal(0, 0.2, 5)),
            g.Neuron("n4", "", ("d4",), 0.5, 0.5, current_leak=0.7),
            g.Dense("head", "", ("n4",), rng.normal(0, 0.3, (2, 5)), None),
            g.Accumulate("readout", "", ("head",)),
        ),
        steps,
    )


def told_inputs(samples: int = 6) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 16, (4, samples, 2, 4, 4)).astype(np.float64)


def test_gains_go_into_sums_and_shortcuts() -> None:
    graph, x = told(), told_inputs()
    after = lower_graph(graph)["fold_input_scale"]
    assert not any(isinstance(n, g.Affine) for n in after.nodes)
    shortcut = next(n for n in after.nodes if isinstance(n, g.Convolution) and n.inputs == ("n1",) and n.groups == 3)
    assert shortcut.weight.ravel().tolist() == [0.7, -0.8, 1.3]
    before, found = interpret(graph, x), interpret(after, x)
    for name in ("n1", "n2", "n3", "n4"):
        assert before.values[name].any()
        np.testing.assert_array_equal(found.values[name], before.values[name])


def test_a_bias_before_a_synaptic_current_comes_from_a_clock() -> None:
    graph, x = told(), told_inputs()
    final = lower_graph(graph)["gather_currents"]
    after = bias_to_clock(final)
    assert {n.id for n in after.nodes} - {n.id for n in final.nodes} >= {"n3.clock", "n3.bias", "n4.clock", "n4.bias"}
    expected = interpret(graph, x)
    found = interpret(after, x)
    for name, values in expected.values.items():
        np.testing.assert_allclose(found.values[name], values, atol=1e-9, err_msg=name)
    wrong = [replace(n, weight=n.weight * (np.arange(4) != 3)) if n.id == "n4.bias" else n for n in after.nodes]  # type: ignore[attr-defined]
    assert not np.array_equal(interpret(after.with_nodes(wrong), x).values["readout"], expected.values["readout"])


def test_a_clock_starts_when_it_is_needed_and_needs_no_delay() -> None:
    graph = lower_graph(told())["bias_to_clock"]
    network = compile_graph(lower_graph(told()), told_inputs()).network
    retimed = retime(graph, 1)
    starts = {n.id: n.start for n in retimed.windowed()}
    assert starts["clock"] == starts["n2"] - 1
    assert starts["n3.clock"] == starts["n3"] - 1
    for connection in network.connections:
        if isinstance(network.population(connection.source).program, Clock):
            assert not connection.delay.any()


def test_a_clock_of_two_populations_starts_for_the_first_and_waits_for_the_second() -> None:
    graph = told()
    nodes = [replace(n, inputs=("c3", "late")) if n.id == "join3" else n for n in graph.nodes]
    at = next(i for i, n in enumerate(nodes) if n.id == "n3")
    late = g.Convolution("late", "", ("clock",), np.ones((3, 4, 1, 1)) * 0.2, None)
    nodes[at : at + 1] = [late, g.Add("join3", "", ("c3", "late")), replace(nodes[at], inputs=("join3",))]
    graph, x = graph.with_nodes(nodes), told_inputs()
    retimed = retime(lower_graph(graph)["bias_to_clock"], 1)
    starts = {n.id: n.start for n in retimed.windowed()}
    assert starts["clock"] == starts["n2"] - 1 == starts["n3"] - 2
    delays = {n.id: n.steps for n in retimed.nodes if isinstance(n, g.Delay)}
    assert delays["late.delay"].tolist() == [1] * 4
    before, after = interpret(graph, x), interpret(retimed, x)
    for name, values in before.values.items():
        np.testing.assert_allclose(after.values[name], values, atol=1e-9, err_msg=name)


def test_a_threshold_of_each_place_reaches_the_machine() -> None:
    """A spatial gain is a threshold for each neuron: (1, H, W)."""
    graph = told()
    place = np.random.default_rng(5).uniform(0.3, 0.9, (1, 4, 4))
    changed = graph.with_nodes([replace(n, threshold=place) if n.id == "n1" else n for n in graph.nodes])
    network = check_compiled(changed)
    program = network.population("n1").program
    assert isinstance(program, LIF)
    assert program.vth.shape == (3, 4, 4)
    assert len(np.unique(program.vth[0])) == 16


@pytest.mark.parametrize("shift", [False, True])
def test_a_compiled_network_of_every_program_is_equal(shift: bool) -> None:
    network = check_compiled(told(shift=shift))
    assert (network.period > network.steps) == shift


def check_compiled(graph: g.Graph) -> Network:
    x = told_inputs(30)
    network = compile_graph(lower_graph(graph), x).network
    inputs = x.swapaxes(0, 1).astype(np.int64)
    slow, quick = reference.run(network, inputs), fast.run(network, inputs)
    result = assert_spikes_equal(network, quick, slow, inputs)
    assert all(p.spikes for p in result.populations if p.id != "readout")
    for record in network.records:
        assert record.spike_agreement > 0.93, record
    return network


# --- NIR ---


def test_leaks_of_each_channel_in_nir(tmp_path: Path) -> None:
    """The file, run as its nodes are written, gives the spikes of the graph."""
    rng = np.random.default_rng(4)
    nodes = (
        g.Input("input", "", (), (2, 4, 4), 15),
        g.Convolution("c", "", ("input",), rng.normal(0, 0.1, (3, 2, 3, 3)), rng.normal(0, 0.2, 3), (1, 1), (1, 1)),
        g.Neuron("n", "", ("c",), np.array([0.2, 0.5, 0.9]), rng.uniform(0.3, 0.9, (1, 4, 4))),
        g.Dense("head", "", ("n",), rng.normal(0, 0.3, (2, 48)), None),
        g.Accumulate("readout", "", ("head",)),
    )
    graph, x = g.Graph("leaks", nodes, 4), told_inputs()
    write_nir(tmp_path / "model.nir", graph)
    expected, found = interpret(graph, x).values, nir_machine.run(tmp_path / "model.nir", x.swapaxes(0, 1))
    assert expected["n"].any()
    np.testing.assert_array_equal(found["n"].swapaxes(0, 1), expected["n"])
    np.testing.assert_allclose(found["output"].swapaxes(0, 1).cumsum(0), expected["readout"], atol=1e-9)


def test_what_nir_cannot_say_is_named_and_stops_only_who_asked_for_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nodes = (*told().nodes[:2], g.Neuron("n", "stage.n", ("c1",), 0.5, 0.5, reset="subtract"))
    graph, path = g.Graph("subtracts", nodes, 4), tmp_path / "model.nir"
    path.write_text("of an export before")
    with pytest.raises(UserError, match=r"stage\.n: NIR has no reset that subtracts"):
        command._write_nir(path, graph, asked=True)
    command._write_nir(path, graph, asked=False)
    assert not path.exists()
    assert "NIR has no reset that subtracts" in " ".join(capsys.readouterr().out.split())


# --- proofs ---


@given(
    data=st.data(),
    reach=st.integers(0, 4000),
    seed=st.integers(0, 10_000),
    steps=st.integers(1, 8),
)
@settings(max_examples=150, deadline=None)
def test_proved_programs_neither_wrap_nor_fire_outside_their_windows(
    data: st.DataObject, reach: int, seed: int, steps: int
) -> None:
    """Any input within the bounds, the highest and lowest first, then gated steps, then again: one neuron each."""
    program = replace(data.draw(programs((3,))), reset=data.draw(st.sampled_from(["zero", "subtract"])))
    rng = np.random.default_rng(seed)
    high, low = ints(rng.integers(0, reach + 1, 3)), ints(-rng.integers(0, reach + 1, 3))
    proved = proof.prove(program, low, high, steps, gated=True, readout=False)
    if proved is None:
        return
    program, (least, most) = proved
    assert program.gate is not None
    guard = int(rng.integers(1, 30))
    for kind in ("highest", "lowest", "random"):
        u = v = np.zeros(3, dtype=np.int64)
        for t in range(steps + guard):
            draw = {"highest": high, "lowest": low, "random": rng.integers(low, high + 1)}[kind]
            a_in = draw - (program.gate.current if t >= steps else 0)
            exact = np.sign(u) * (np.abs(u) * (4095 - program.du) >> 12) + (a_in << 6)
            assert np.abs(exact).max() < 1 << 23
            assert least << 6 <= exact.min()
            assert exact.max() <= most << 6
            u, v = reference._update(program, u, v, a_in)
            fired = v > program.threshold
            assert t < steps or not fired.any(), (kind, t)
            v = np.where(fired, v - program.threshold if program.reset == "subtract" else 0, v)


def test_a_current_with_memory_wraps_although_its_input_does_not() -> None:
    program = LIF(4095, 100, 1000, 0, 0)
    low, high = ints([0]), ints([60_000])
    assert proof.prove(program, low, high, 4, gated=False, readout=False) is not None
    slow = replace(program, du=ints(40))
    assert proof.prove(slow, low, high, 2, gated=False, readout=False) is not None
    assert proof.prove(slow, low, high, 4, gated=False, readout=False) is None


@pytest.mark.parametrize(
    "program",
    [LIF(1000, 0, 5000, 0, 0), LIF(4095, 0, 300, 0, 0, reset="subtract")],
    ids=["what the current remembers", "what the reset leaves"],
)
def test_a_gate_that_forgets_what_the_window_leaves_is_too_weak(program: LIF) -> None:
    """The highest input for a window, then the gate: silent with what `prove` chooses, not with the gate for a_in."""
    low, high, steps = ints([0]), ints([2000]), 4
    proved = proof.prove(program, low, high, steps, gated=True, readout=False)
    weak = proof.gate_for(high, ints([0]))
    assert proved is not None
    assert proved[0].gate is not None
    assert weak is not None
    spikes = {}
    for name, gate in (("proved", proved[0].gate), ("weak", weak)):
        current = torch.from_numpy(ints([[2000]] * steps + [[2000 - gate.current]] * 3))[..., None]
        arrays = (torch.from_numpy(values) for values in (program.vth, program.bias, program.dv, program.du))
        fired, _ = fixed_point.loihi_lif(current, *arrays, subtract=program.reset == "subtract")
        spikes[name] = fired.flatten().tolist()
    assert any(spikes["proved"][:steps])
    assert not any(spikes["proved"][steps:])
    assert any(spikes["weak"][steps:])


def test_one_step_of_a_clock_at_a_time() -> None:
    """The bound of a clock's synapses is that of its strongest step, not their sum; with delays it is the sum."""
    rng = np.random.default_rng(0)
    weight = ints(2 * rng.integers(-100, 100, (3, 5)))
    node = g.Dense("d", "", ("clock",), weight.astype(np.float64), None)
    low, high = proof.current_bounds([proof.Driver(node, weight, 1, (5,), proof.payload(Clock(), 5))])
    np.testing.assert_array_equal(high, np.maximum(weight.max(1), 0) << 1)
    np.testing.assert_array_equal(low, np.minimum(weight.min(1), 0) << 1)
    loose = proof.current_bounds([proof.Driver(node, weight, 1, (5,), proof.payload(Clock(), 5, aligned=False))])
    assert (loose[1] >= high).all()
    assert (loose[1] > high).any()
