"""What the engine compiles: sums by events and by patterns, and neurons: exact against whole-number arithmetic, and
inside networks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import ints
from hypothesis import given, settings
from hypothesis import strategies as st
from random_networks import networks, payloads

from export import arriving, execute, limits, neurons, patterns
from export.network import LIF, Connection, Convolution, Dense, Network, Population, Source
from sim import fast, reference
from sim.pytest_plugin import assert_spikes_equal
from train.kernels import cells, fixed_point, loihi
from train.kernels.loihi_compiled import TILE

NEVER = 1 << 62


def watched_sums(connections: tuple[Connection, ...], network: Network, spikes: list[np.ndarray]) -> np.ndarray:
    """a_in from the spikes that arrive, read off neurons that keep nothing and never fire: int64 [B, T, *shape]."""
    target = network.populations[-1]
    tables = arriving.tables(connections, network, target)
    assert tables is not None
    shape = (*target.shape[1:], target.shape[0])
    largest, none = ints(limits.VTH_LIMIT - 1), ints(0)
    cells = loihi.neurons(largest, none, ints(4096), ints(4095), shape)
    flat = [np.moveaxis(x, 2, -1).reshape(*x.shape[:2], -1).astype(np.uint8) for x in spikes]
    fired = np.empty((*flat[0].shape[:2], target.size), dtype=np.uint8)
    membrane = np.empty(fired.shape, dtype=np.int64)
    parts = tuple(table.arriving(x) for table, x in zip(tables.tables, flat, strict=True))
    loihi.layer(cells, parts, tables.exponent, cells.at_rest(len(fired)), fired, membrane, tables.sums)
    assert not fired.any()
    assert not (membrane & 63).any()
    return np.moveaxis((membrane >> 6).reshape(*fired.shape[:2], *shape), -1, 2)


def two_layers(
    source: tuple[int, ...], target: tuple[int, ...], synapses: list[Dense | Convolution], exponents: list[int]
) -> Network:
    program = LIF(4095, 0, ints(limits.VTH_LIMIT - 1), ints(0), 0)
    populations = Population("a", "", source, 0, Source(1)), Population("b", "", target, 1, program)
    connections = tuple(
        Connection(f"c{i}", "", "a", "b", s, e, ints(np.zeros(source[0])))
        for i, (s, e) in enumerate(zip(synapses, exponents, strict=True))
    )
    return Network("sums", populations, connections, 3, 3)


@pytest.mark.parametrize("way", ["events", "patterns"])
@given(
    seed=st.integers(0, 10_000),
    channels=st.sampled_from([1, 2, 3, 8, 16, 24]),
    outputs=st.sampled_from([1, 16, 31, 32, 33, 130]),
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    stride=st.tuples(st.integers(1, 2), st.integers(1, 3)),
    padding=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    crop=st.tuples(*[st.tuples(st.integers(0, 2), st.integers(0, 2))] * 2),
    groups=st.sampled_from([1, 1, 2, 3]),
    rate=st.sampled_from([0.0, 0.1, 0.6, 1.0]),
)
@settings(max_examples=60, deadline=None)
def test_convolutions_of_spikes_are_exact(
    way: str,
    seed: int,
    channels: int,
    outputs: int,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    crop: tuple[tuple[int, int], tuple[int, int]],
    groups: int,
    rate: float,
) -> None:
    """Every geometry, and two connections of different exponents; inputs outside a crop have no synapse."""
    rng = np.random.default_rng(seed)
    height, width = rng.integers(5, 9, 2)
    weight = ints(2 * rng.integers(-8, 9, (outputs * groups, channels, *kernel)))
    channels *= groups
    weight.flat[0] = 2
    synapses = Convolution(weight, stride, padding, dilation, groups, crop)
    shape = synapses.output_shape((channels, int(height), int(width)))
    network = two_layers((channels, int(height), int(width)), shape, [synapses, synapses], [2, 1])
    x = rng.random((2, 3, channels, height, width)) < rate
    with only(way):
        found = watched_sums(network.connections, network, [x, x[::-1]])
    for sample, step in np.ndindex(2, 3):
        once, again = (reference._convolve(synapses, ints(image[sample, step])) for image in (x, x[::-1]))
        np.testing.assert_array_equal(found[sample, step], (once << 2) + (again << 1))


@given(
    seed=st.integers(0, 10_000),
    inputs=st.integers(1, 700),
    outputs=st.sampled_from([1, 3, 32, 128, 129, 300]),
    rate=st.sampled_from([0.0, 0.1, 0.6, 1.0]),
    end=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_dense_layers_by_events_are_exact(seed: int, inputs: int, outputs: int, rate: float, end: bool) -> None:
    rng = np.random.default_rng(seed)
    low, high = limits.WEIGHT_RANGE
    weight = ints(rng.choice([low, high], (outputs, inputs)) if end else 2 * rng.integers(-64, 64, (outputs, inputs)))
    weight.flat[0] = 2
    if end:
        weight[0] = low if seed % 2 else high  # all the same: the largest sums there are
    network = two_layers((inputs,), (outputs,), [Dense(weight)], [0])
    x = rng.random((2, 3, inputs)) < rate
    largest = np.abs(weight).sum(1).max() * 64 < limits.STATE_LIMIT
    expected = x.astype(np.int64) @ weight.T
    found = watched_sums(network.connections, network, [x])
    if not largest:  # the current wraps
        expected = (expected + (1 << 17) - 1) % (1 << 18) - (1 << 17) + 1
        expected = np.clip(expected << 6, 1 - limits.STATE_LIMIT, limits.STATE_LIMIT - 1) >> 6
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("extra", [0, 1])
def test_sums_of_16_bits_are_left_where_they_could_overflow(sign: int, extra: int) -> None:
    """Weights whose sum is the largest of 16 bits, or one more; with the narrower sums anyway it would be wrong."""
    weight = ints([[*[250] * 131, 17, extra]])
    assert int(weight.sum()) == 32767 + extra
    network = two_layers((133,), (1,), [Dense(ints(np.zeros((1, 133)) + 2))], [0])
    (connection,) = network.connections
    big = Connection("big", "", "a", "b", Dense(sign * weight), 0, connection.delay)
    tables = arriving.tables((big,), network, network.populations[1])
    assert tables is not None
    assert tables.sums is (np.int32 if extra else np.int16)
    found = watched_sums((big,), network, [np.ones((1, 3, 133), dtype=np.bool_)])
    assert (found == sign * (32767 + extra)).all()


@pytest.mark.parametrize(("largest", "looked_up"), [(4094, True), (4096, False)])
def test_patterns_whose_sums_could_leave_16_bits_go_by_events(largest: int, looked_up: bool) -> None:
    """Eight inputs of the largest weight there is room for, and of one more: 8 * 4096 = 2^15."""
    small, large = (Convolution(ints(np.full((1, 8, 1, 1), weight))) for weight in (2, largest))
    network = two_layers((8, 2, 2), (1, 2, 2), [small, small], [0, 0])
    connections = tuple(replace(c, synapses=large) for c in network.connections)
    with only("patterns"):
        tables = arriving.tables(connections, network, network.populations[1])
        assert tables is not None
        assert [table.patterns for table in tables.tables] == [looked_up] * 2
        assert tables.sums is np.int32
        found = watched_sums(connections, network, [np.ones((1, 3, 8, 2, 2), dtype=np.bool_)] * 2)
    assert (found == 16 * largest).all()


def test_rows_of_more_than_16_bits_are_not_for_events() -> None:
    dense = Dense(ints(np.full((3, 4), 254)))
    network = two_layers((4,), (3,), [dense, dense], [0, 8])  # 254 << 8 needs more than the 16 bits of a row
    assert arriving.tables(network.connections, network, network.populations[1]) is None


@given(
    seed=st.integers(0, 1000),
    neurons=st.sampled_from([1, 7, TILE, TILE + 1]),
    dv=st.sampled_from([0, 1, 410, 4095]),
    du=st.sampled_from([-1, 0, 700, 4095]),
    reach=st.sampled_from([40, 131_072, 1 << 23, 1 << 30]),
    dtype=st.sampled_from([np.float32, np.float64, np.int16, np.int32]),
    subtract=st.booleans(),
    cut=st.integers(0, 5),
    narrow=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_the_scan_is_the_plain_neuron_and_carries_its_state(
    seed: int, neurons: int, dv: int, du: int, reach: int, dtype: type, subtract: bool, cut: int, narrow: bool
) -> None:
    """In two parts, where currents wrap and potentials clip; every dtype of currents; 64 bits, and 32 if enough."""
    rng = np.random.default_rng(seed)
    reach = min(reach, 32767 if dtype is np.int16 else 1 << 23 if dtype is np.float32 else reach)
    current = rng.integers(-reach, reach, (2, 5, neurons))
    vth, bias = rng.integers(0, min(2 * reach, limits.VTH_LIMIT), neurons), rng.integers(-(1 << 19), 1 << 19, neurons)
    cells = loihi.neurons(vth, bias, dv, du, (neurons,), subtract=subtract)
    cells = cells.narrowest(reach) if narrow else cells
    state = cells.at_rest(2)
    fired, membrane = np.full(current.shape, 9, dtype=np.uint8), np.zeros(current.shape, dtype=np.int64)
    for steps in (slice(0, cut), slice(cut, 5)):
        part = np.ascontiguousarray(current[:, steps]).astype(dtype)
        loihi.scan(cells, part, state, fired, membrane, steps.start)
    plain = (torch.from_numpy(x) for x in (current.swapaxes(0, 1).copy(), vth, bias))
    spikes, potential = fixed_point.loihi_lif(*plain, dv, du, subtract=subtract)
    np.testing.assert_array_equal(fired.view(np.bool_), spikes.numpy().swapaxes(0, 1))
    np.testing.assert_array_equal(membrane, potential.numpy().swapaxes(0, 1))


WAYS = {
    "events": (0, 0, 1.0, 0),
    "patterns": (0, 0, 1.0, NEVER),
    "currents": (NEVER, 0, 0.0, 0),
    "steps": (NEVER, NEVER, 0.0, 0),
}


@contextmanager
def only(way: str) -> Iterator[None]:
    """All populations that can run in one way do so; currents of one step at a time, two samples at a time."""
    events, compiled, below, tables = WAYS[way]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(execute, "EVENTS_FROM", events)
        patch.setattr(execute, "EVENTS_BELOW", below)
        patch.setattr(patterns, "LARGEST", tables)
        patch.setattr(neurons, "COMPILED_FROM", compiled)
        patch.setattr(execute, "CURRENTS", 1)
        patch.setattr(execute, "BATCH", 2)
        yield


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("wild", [False, True])
@given(data=st.data(), seed=st.integers(0, 100))
@settings(max_examples=20, deadline=None)
def test_networks_are_equal_in_every_way(way: str, wild: bool, data: st.DataObject, seed: int) -> None:
    """Wild: full ranges of weights, exponents, payloads and programs, so that currents wrap and potentials clip."""
    network = data.draw(networks(wild=wild))
    inputs = payloads(network, 3, seed)
    with only(way):
        equal_to_reference(network, inputs)


def equal_to_reference(network: Network, inputs: np.ndarray) -> None:
    quick, slow = fast.run(network, inputs), reference.run(network, inputs)
    for name in slow.spikes:  # random networks may be silent
        np.testing.assert_array_equal(slow.spikes[name], quick.spikes[name])
    np.testing.assert_array_equal(slow.membrane["readout"], quick.membrane["readout"])


def shifted_segment(patch: pytest.MonkeyPatch) -> None:
    """One segment adds the rows of its neighbour."""
    segments = arriving._segments

    def faulty(*arguments: object) -> np.ndarray:
        found = segments(*arguments)  # type: ignore[arg-type]
        found[17, 1, 2] += 1
        return found

    patch.setattr(arriving, "_segments", faulty)


def unmasked_edge(patch: pytest.MonkeyPatch) -> None:
    """One position at the left edge sees the end of the row above."""
    segment = patterns._segment

    def faulty(*arguments: object) -> np.ndarray:
        found = segment(*arguments)  # type: ignore[arg-type]
        found[12, 1] = found[13, 1]
        found[12, 0] = found[13, 0] - 8
        return found

    patch.setattr(patterns, "_segment", faulty)


def wrong_32_bits(patch: pytest.MonkeyPatch) -> None:
    """Half the product of a decay is lost, as 32 bits would lose it."""
    patch.setattr(cells.Neurons, "narrowest", lambda self, peak: replace(self, keep_v=self.keep_v & ~255))


@pytest.mark.parametrize(
    ("way", "plant"), [("events", shifted_segment), ("patterns", unmasked_edge), ("patterns", wrong_32_bits)]
)
def test_planted_faults_are_caught(
    way: str, plant: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    synapses = Convolution(ints(2 * rng.integers(-9, 10, (8, 8, 3, 3))), padding=(1, 1))
    network = two_layers((8, 6, 6), (8, 6, 6), [synapses], [0])
    program = LIF(4095, 2000, ints(20), ints(0), 0)
    population = Population("b", "", (8, 6, 6), 1, program)
    network = Network("fault", (network.populations[0], population), network.connections, 3, 3)
    inputs = ints(rng.random((4, 3, 8, 6, 6)) < 0.2)
    slow = reference.run(network, inputs)
    with only(way):
        assert_spikes_equal(network, fast.run(network, inputs), slow, inputs)
    plant(monkeypatch)
    network = replace(network)  # what is prepared is kept for the same one
    with only(way), pytest.raises(AssertionError):
        assert_spikes_equal(network, fast.run(network, inputs), slow, inputs)
