"""The chip plan: counts against a recount by expansion, rules against planted violations, files against damage."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from conftest import ints, recurrent_network
from hypothesis import given, settings
from hypothesis import strategies as st

from deploy import chip as chips
from deploy import cost, mapping, rules
from deploy.activity import Activity, ConnectionActivity, PopulationActivity, check_matches, raster_neurons
from deploy.activity_store import read_activity, write_activity
from deploy.chip import Chip
from deploy.synapses import fan_in, fan_out, reach, unique_weights
from export.network import LIF, Clock, Connection, Convolution, Dense, Gate, Network, Population, Source
from sim import fast
from sim.activity import measure
from train.errors import UserError

LIMITS = (
    "cores",
    "neurons_per_core",
    "memory_per_core",
    "axons_in",
    "axons_out",
    "delay",
    "weight_bits",
    "payload_bits",
)


def make_activity(network: Network, samples: int = 3, seed: int = 0) -> Activity:
    """Random spikes, counted the way the simulator counts them."""
    rng = np.random.default_rng(seed)
    populations, totals = [], {}
    for p in network.populations:
        if p.readout:
            continue
        spikes = rng.random((samples, network.steps, p.size)) < 0.2
        totals[p.id] = ints(spikes.sum((0, 1))).reshape(p.shape)
        shown = raster_neurons(p.size)
        updates = 0 if isinstance(p.program, Source) else samples * network.steps * p.size
        populations.append(
            PopulationActivity(p.id, ints(spikes.sum((0, 2))), totals[p.id], updates, spikes[0][:, shown], shown)
        )
    connections = tuple(
        ConnectionActivity(
            c.id,
            int(totals[c.source].sum()),
            int((fan_out(c, network.population(c.source), network.population(c.target)) * totals[c.source]).sum()),
        )
        for c in network.connections
    )
    return Activity(
        network.digest, "integer", samples, network.steps, 0, tuple(populations), connections, {"integer": (2, samples)}
    )


def with_limit(chip: Chip, **values: int) -> Chip:
    """The chip with some limits replaced."""
    new = {key: dataclasses.replace(getattr(chip.limits, key), value=value) for key, value in values.items()}
    return dataclasses.replace(chip, limits=dataclasses.replace(chip.limits, **new))


def expand(connection: Connection, source: Population, target: Population) -> np.ndarray:
    """The obvious weight matrix [target.size, source.size] of a connection, one synapse at a time."""
    synapses = connection.synapses
    if isinstance(synapses, Dense):
        return synapses.weight
    matrix = np.zeros((*target.shape, *source.shape), dtype=np.int64)
    per_group_in, per_group_out = synapses.weight.shape[1], synapses.weight.shape[0] // synapses.groups
    for (o, i, k, m), weight in np.ndenumerate(synapses.weight):
        channel = o // per_group_out * per_group_in + i
        for y, x in np.ndindex(target.shape[1:]):
            row = y * synapses.stride[0] - synapses.padding[0] + k * synapses.dilation[0]
            column = x * synapses.stride[1] - synapses.padding[1] + m * synapses.dilation[1]
            (top, bottom), (left, right) = synapses.crop
            if top <= row < source.shape[1] - bottom and left <= column < source.shape[2] - right:
                matrix[o, y, x, channel, row, column] = weight
    return matrix.reshape(target.size, source.size)


@st.composite
def convolutions(draw: Any) -> tuple[Connection, Population, Population]:
    groups = draw(st.integers(1, 2))
    inputs, outputs = draw(st.integers(1, 2)), groups * draw(st.integers(1, 2))
    kernel = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    pair = st.tuples(st.integers(1, 2), st.integers(1, 2))
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    weight = ints(2 * rng.integers(-1, 2, (outputs, inputs, *kernel)))
    side = st.tuples(st.integers(0, 2), st.integers(0, 2))
    synapses = Convolution(weight, draw(pair), draw(pair), draw(pair), groups, (draw(side), draw(side)))
    source = Population("a", "", (inputs * groups, draw(st.integers(5, 7)), draw(st.integers(5, 7))), 0, Source(1))
    target = Population("b", "", synapses.output_shape(source.shape), 1, Source(1))
    return Connection("a-b", "", "a", "b", synapses, 0, ints([0] * source.shape[0])), source, target


def test_a_recurrent_network_is_planned_with_the_axons_that_lead_back() -> None:
    """One core a population: every neuron of b reaches the read-out, b and a; of a it reaches a and b."""
    network = recurrent_network(0)
    plan = mapping.plan(network, chips.load("loihi2"))
    out = {p.population: next(use.used for use in p.uses if use.resource == "axons out") for p in plan.placements}
    assert {p.population: p.cores for p in plan.placements} == {"a": 1, "b": 1, "readout": 1}
    row = np.ones((3, 4, 4), dtype=np.int64)
    read = row.copy()  # what the 3 x 3 convolutions leave out: the last row and the first column
    read[:, 3], read[:, :, 0] = 0, 0
    assert out == {"a": int((row + read).sum()), "b": int((row + row + read).sum()), "readout": 0}
    small = mapping.plan(network, with_limit(chips.load("loihi2"), neurons_per_core=12))
    assert all(p.uses[0].used <= 12 for p in small.placements)
    assert next(p for p in small.placements if p.population == "a").uses[3].used > out["a"] // 4


@settings(max_examples=40, deadline=None)
@given(convolutions())
def test_synapses_are_counted_as_by_expansion(case: tuple[Connection, Population, Population]) -> None:
    connection, source, target = case
    matrix = expand(connection, source, target)
    np.testing.assert_array_equal(fan_out(connection, source, target).ravel(), np.count_nonzero(matrix, axis=0))
    np.testing.assert_array_equal(fan_in(connection, source, target).ravel(), np.count_nonzero(matrix, axis=1))
    assert unique_weights(connection).sum() == np.count_nonzero(connection.synapses.weight)
    channels, rows, columns = reach(connection, source, target)
    rectangle = np.einsum("ac,by,dx->abdcyx", channels, rows, columns).reshape(matrix.shape)
    assert np.all(rectangle[matrix != 0]), "the rectangle misses a synapse"


def test_synapses_of_the_fixture(shift_network: Network) -> None:
    for connection in shift_network.connections:
        source, target = (shift_network.population(end) for end in (connection.source, connection.target))
        matrix = expand(connection, source, target)
        np.testing.assert_array_equal(fan_out(connection, source, target).ravel(), np.count_nonzero(matrix, axis=0))


def tiny_network() -> Network:
    """Two graded inputs -> three neurons -> a read-out of one; T = 2, two guard steps."""
    lif = LIF(4095, 0, ints(10), ints(0), 0, Gate(256, 7))
    return Network(
        name="tiny",
        steps=2,
        period=4,
        populations=(
            Population("in", "", (2,), 0, Source(4)),
            Population("mid", "", (3,), 1, lif),
            Population("out", "", (1,), 2, LIF(4095, 0, ints(10), ints(0), 0), readout=True),
        ),
        connections=(
            Connection("in-mid", "", "in", "mid", Dense(ints([[2, 0], [4, 2], [0, 6]])), 0, ints([0, 1])),
            Connection("mid-out", "", "mid", "out", Dense(ints([[2, 2, 0]])), 0, ints([0, 0, 0])),
        ),
    )


def tiny_activity() -> Activity:
    """Two samples; in: 3 and 1 events, mid: 2, 0 and 1 spikes."""
    flat = raster_neurons
    return Activity(
        network=tiny_network().digest, engine="integer", samples=2, steps=2, raster_sample=1,
        populations=(
            PopulationActivity("in", ints([2, 2]), ints([3, 1]), 0, np.zeros((2, 2), dtype=bool), flat(2)),
            PopulationActivity("mid", ints([1, 2]), ints([2, 0, 1]), 12, np.ones((2, 3), dtype=bool), flat(3)),
        ),
        connections=(ConnectionActivity("in-mid", 4, 3 * 2 + 1 * 2), ConnectionActivity("mid-out", 3, 2)),
    )  # fmt: skip


def test_cost_of_a_tiny_network_by_hand() -> None:
    network = tiny_network()
    check_matches(tiny_activity(), network)
    counts = cost.count(network, tiny_activity())
    assert [c.synaptic_operations for c in counts.connections] == [4, 1]
    assert (counts.spikes, counts.input_events) == (1.5, 2)
    assert counts.gate_operations == 3 * 2  # three gated neurons, two guard steps
    assert counts.synaptic_operations == 4 + 1 + 6
    assert (counts.neuron_updates, counts.guard_updates) == (4 * 2, 4 * 2)
    assert counts.dense_input_macs == 4 * 2
    borrowed, literature = cost.energies(network, counts, chips.load("loihi2"))
    assert borrowed.low == pytest.approx(11 * 23.6 + 16 * 52 + 1.5 * 1.7)
    assert borrowed.high == pytest.approx(11 * 23.6 + 16 * 81 + 1.5 * 1.7)
    assert "Loihi (2018)" in borrowed.label
    assert "Loihi 2 (2021) has no published constants" in borrowed.caveat
    assert literature.low == literature.high == pytest.approx(8 * 4.6 + 1 * 0.9)
    timing = cost.timing(network, chips.load("loihi2"))
    assert (timing.latency, timing.period) == (4, 4)
    assert "Loihi (2018)" in timing.label


def test_memory_of_a_tiny_network_by_hand() -> None:
    mid, out = mapping.plan(tiny_network(), chips.load("loihi2")).placements
    assert (mid.synapses, mid.unique_weights, mid.cores) == (4 + 3, 4 + 3, 1)
    assert mid.shared_bits == 4 * (8 + 13 + 6) + 3 * (8 + 13) + 3 * 24  # synapses with delay, gates, one accumulator
    assert out.shared_bits == 2 * (8 + 13)
    assert {use.resource: use.used for use in mid.uses} == {"neurons": 3, "memory": 31, "axons in": 2, "axons out": 2}


def test_convolutions_are_shared_unless_delayed(shift_network: Network) -> None:
    conv1, conv2, _ = mapping.plan(shift_network, chips.load("loihi2")).placements
    assert conv1.shared_bits < conv1.expanded_bits
    assert conv2.shared_bits == conv2.expanded_bits


@pytest.mark.parametrize("neurons", [1, 3, 7, 16, 64, 1000])
def test_a_plan_respects_every_limit(shift_network: Network, neurons: int) -> None:
    chip = with_limit(chips.load("loihi2"), neurons_per_core=neurons, axons_in=200, memory_per_core=4000)
    plan = mapping.plan(shift_network, chip)
    for placement in plan.placements:
        assert all(use.used <= use.limit for use in placement.uses)
        assert placement.cores >= placement.neurons / neurons
    assert plan.cores == sum(p.cores for p in plan.placements)


def cores_of(placement: mapping.Placement, population: Population) -> np.ndarray:
    """int64 [size]: the core of each neuron, from how many blocks the plan cuts the population into."""
    shape = (*population.shape, 1, 1)[:3]
    axes = []
    for side, blocks in zip(shape, placement.blocks, strict=True):
        width = next(width for width in range(1, side + 1) if -(-side // width) == blocks)
        axes.append(np.arange(side) // width)
    return np.ravel_multi_index(np.ix_(*axes), placement.blocks).ravel()


def test_axons_of_a_cut_are_those_of_the_expanded_synapses(shift_network: Network) -> None:
    plan = mapping.plan(shift_network, with_limit(chips.load("loihi2"), neurons_per_core=16))
    placed = {p.population: (p, cores_of(p, shift_network.population(p.population))) for p in plan.placements}
    assert [p.cores for p in plan.placements] == [16, 4, 1]
    arrives: dict[str, set[tuple[str, int, int]]] = {name: set() for name in placed}
    for connection in shift_network.connections:
        source, target = (shift_network.population(end) for end in (connection.source, connection.target))
        cores = placed[target.id][1]
        for to, fro in np.argwhere(expand(connection, source, target)):
            arrives[target.id].add((source.id, int(fro), int(cores[to])))
    for name, (placement, cores) in placed.items():
        used = {use.resource: use.used for use in placement.uses}
        into = np.bincount([core for _, _, core in arrives[name]])
        assert used["axons in"] == into.max()
        sent = [cores[fro] for pairs in arrives.values() for source, fro, _ in pairs if source == name]
        assert used["axons out"] == (np.bincount(sent).max() if sent else 0)


PLANTED = {
    "one chip": {"cores": 1},
    "memory": {"memory_per_core": 10},
    "axons in": {"axons_in": 5},
    "delay": {"delay": 1},
    "weight bits": {"weight_bits": 4},
    "graded spikes": {"payload_bits": 1},
}


@pytest.mark.parametrize("rule", PLANTED)
def test_a_planted_violation_is_found(shift_network: Network, rule: str) -> None:
    chip = with_limit(chips.load("loihi2"), **PLANTED[rule])
    broken = rules.violations(shift_network, mapping.plan(shift_network, chip))
    assert rule in {v.rule for v in broken}
    for violation in broken:
        assert violation.value > violation.limit
        assert violation.remedy
        assert f"limit {violation.limit:,}" in str(violation)


def test_output_axons_of_a_single_neuron_can_be_too_many(shift_network: Network) -> None:
    chip = with_limit(chips.load("loihi2"), axons_out=2, neurons_per_core=1)
    broken = rules.violations(shift_network, mapping.plan(shift_network, chip))
    assert "axons out" in {v.rule for v in broken}


def test_all_violations_are_collected(shift_network: Network) -> None:
    everything = {key: value for planted in PLANTED.values() for key, value in planted.items()}
    chip = with_limit(chips.load("loihi2"), **everything)
    broken = rules.violations(shift_network, mapping.plan(shift_network, chip))
    assert set(PLANTED) <= {v.rule for v in broken}


def test_the_fixture_fits_loihi2_and_not_loihi1(shift_network: Network) -> None:
    assert not rules.violations(shift_network, mapping.plan(shift_network, chips.load("loihi2")))
    (only,) = rules.violations(shift_network, mapping.plan(shift_network, chips.load("loihi1")))
    assert (only.rule, only.value, only.limit) == ("graded spikes", 5, 1)


def test_a_reset_that_subtracts_needs_programmed_neurons(shift_network: Network) -> None:
    populations = list(shift_network.populations)
    program = populations[1].program
    assert isinstance(program, LIF)
    populations[1] = dataclasses.replace(populations[1], program=dataclasses.replace(program, reset="subtract"))
    network = dataclasses.replace(shift_network, populations=tuple(populations))
    assert not rules.violations(network, mapping.plan(network, chips.load("loihi2")))
    found = {v.rule: v for v in rules.violations(network, mapping.plan(network, chips.load("loihi1")))}
    assert (found["reset"].where, found["reset"].value) == ("population conv1", 4 * 8 * 8)
    assert rules.not_stock(shift_network) == []
    (line,) = rules.not_stock(network)
    assert "in conv1: not a stock neuron of Lava or Loihi" in line


def test_a_clock_takes_no_core_and_its_spikes_count() -> None:
    network = tiny_network()
    clock = Population("clock", "", (2,), 0, Clock())
    told = Connection("told", "", "clock", "mid", Dense(ints([[2, 4], [0, 2], [2, 0]])), 0, ints([0, 0]))
    network = dataclasses.replace(
        network, populations=(*network.populations[:1], clock, *network.populations[1:]),
        connections=(*network.connections, told),
    )  # fmt: skip
    x = ints(np.random.default_rng(0).integers(0, 16, (3, 2, 2)))
    measured = measure(network, fast.run(network, x), x, {})
    check_matches(measured, network)
    assert [p.spikes for p in measured.populations if p.id == "clock"] == [2 * 3]
    assert [c.synaptic_operations for c in measured.connections if c.id == "told"] == [3 * (2 + 2)]
    assert [p.population for p in mapping.plan(network, chips.load("loihi2")).placements] == ["mid", "out"]
    assert cost.count(network, measured).spikes == pytest.approx(
        2 + sum(p.spikes for p in measured.populations if p.id == "mid") / 3
    )


def test_chips_name_their_sources() -> None:
    for name in chips.known():
        chip = chips.load(name)
        parts = [getattr(chip.limits, key) for key in LIMITS] + list(chip.energy.values()) + list(chip.time.values())
        assert all(part.source and part.certainty in chips.CERTAINTIES for part in parts)
    assert not chips.load("loihi2").energy, "nobody has published an energy table of Loihi 2"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("axons_in:", "axon_in:", "unknown key 'axon_in' (did you mean axons_in?)"),
        ("  delay: {", "  delay: [", "not YAML"),
        ("energy: {}", "", "missing key 'energy'"),
        ("value: 8192", "value: lots", "limits.neurons_per_core.value: expected a whole number"),
        ("value: 8192", "value: 0", "limits.neurons_per_core.value: expected a whole number"),
        ("value: 8192", "value: true", "limits.neurons_per_core.value: expected a whole number"),
        ("value: shared", "value: both", "storage.convolution.value: expected 'shared' or 'expanded'"),
        ("value: any", "value: some", "neurons.reset.value: expected 'zero' or 'any'"),
        ("certainty: official", "certainty: sure", "expected one of official, secondary, assumption"),
        ("energy: {}", "energy: {a: 1}", "unknown key 'a'"),
        ("energy: {}", "energy: 3", "energy: is int, expected a mapping"),
        ("title: Intel", "title: !!python/object:os.system Intel", "not YAML"),
    ],
)
def test_a_wrong_chip_file_is_one_clear_line(tmp_path: Path, old: str, new: str, message: str) -> None:
    text = (chips.FOLDER / "loihi2.yaml").read_text()
    assert old in text
    path = tmp_path / "mine.yaml"
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(UserError) as caught:
        chips.load(str(path))
    assert message in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "[]", "[" * 1500, "a: &a [*a]", "\x00", "limits: 3"])
def test_nonsense_is_no_chip(tmp_path: Path, text: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(UserError):
        chips.load(str(path))


def test_an_unknown_chip_names_the_known_ones() -> None:
    with pytest.raises(UserError, match="one of loihi1, loihi2, or a file"):
        chips.load("loihi3")


def test_activity_round_trip(tmp_path: Path, shift_network: Network) -> None:
    activity = make_activity(shift_network)
    write_activity(tmp_path / "activity.h5", activity)
    again = read_activity(tmp_path / "activity.h5")
    check_matches(again, shift_network)
    assert again.connections == activity.connections
    assert again.accuracy == activity.accuracy
    assert [p.id for p in again.populations] == [p.id for p in activity.populations]
    for old, new in zip(activity.populations, again.populations, strict=True):
        for name in ("spikes_per_step", "spikes_per_neuron", "raster", "raster_neurons"):
            np.testing.assert_array_equal(getattr(old, name), getattr(new, name))
        assert (old.neuron_updates, old.spikes) == (new.neuron_updates, new.spikes)


def _remove_attribute(file: h5py.File) -> None:
    del file.attrs["samples"]


def _other_format(file: h5py.File) -> None:
    file.attrs["format"] = "something"


def _other_version(file: h5py.File) -> None:
    file.attrs["schema_version"] = 99


def _link(file: h5py.File) -> None:
    del file["populations/conv1/raster"]
    file["populations/conv1/raster"] = h5py.ExternalLink("/etc/passwd", "/")


def _negative(file: h5py.File) -> None:
    file["populations/conv1/spikes_per_step"][0] = -1


def _too_many(file: h5py.File) -> None:
    file["populations/conv1/spikes_per_step"][0] = 10**9


def _raster_outside(file: h5py.File) -> None:
    file["populations/conv1/raster_neurons"][0] = 10**6


def _wrong_type(file: h5py.File) -> None:
    del file["populations/conv1/raster"]
    file["populations/conv1/raster"] = np.zeros(3)


def _accuracy(file: h5py.File) -> None:
    file["accuracy/integer"].attrs["correct"] = 10**6


@pytest.mark.parametrize(
    "damage",
    [
        _remove_attribute, _other_format, _other_version, _link, _negative, _too_many, _raster_outside, _wrong_type,
        _accuracy,
    ],
)  # fmt: skip
def test_damaged_activity_is_one_clear_line(tmp_path: Path, shift_network: Network, damage: Any) -> None:
    path = tmp_path / "activity.h5"
    write_activity(path, make_activity(shift_network))
    with h5py.File(path, "a") as file:
        damage(file)
    with pytest.raises(UserError) as caught:
        read_activity(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("length", [0, 10, 500, 2000])
def test_truncated_activity(tmp_path: Path, shift_network: Network, length: int) -> None:
    path = tmp_path / "activity.h5"
    write_activity(path, make_activity(shift_network))
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(UserError):
        read_activity(path)


def test_activity_of_another_network_is_refused(shift_network: Network) -> None:
    with pytest.raises(UserError, match="simulate this network again"):
        check_matches(make_activity(shift_network), tiny_network())


def test_raster_neurons_are_evenly_spaced() -> None:
    assert raster_neurons(3).tolist() == [0, 1, 2]
    shown = raster_neurons(10_000, most=512)
    assert len(set(shown.tolist())) == 512
    assert shown[-1] < 10_000
    assert set(np.diff(shown).tolist()) <= {19, 20}
