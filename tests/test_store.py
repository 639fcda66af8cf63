"""network.h5: the round trip, and files from strangers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import ints, recurrent_network, temporal_shift_network
from hypothesis import given, settings
from hypothesis import strategies as st
from random_networks import frequency_gains

from export.network import LIF, Clock, Connection, Convolution, LayerRecord, Network, Population
from export.store import read_network, write_network
from train.errors import UserError


def same(a: Network, b: Network) -> bool:
    def plain(value: object) -> object:
        if isinstance(value, np.ndarray):
            return value.dtype, value.shape, value.tolist()
        if isinstance(value, tuple):
            return tuple(plain(v) for v in value)
        if hasattr(value, "__dataclass_fields__"):
            return type(value), {k: plain(getattr(value, k)) for k in value.__dataclass_fields__}
        return value

    return plain(a) == plain(b)


def test_round_trip(tmp_path: Path, shift_network: Network) -> None:
    record = LayerRecord("conv1", (1.5, 2.5), 0.01, 3, 0.99, (-5, 7))
    network = replace(shift_network, records=(record,))
    write_network(tmp_path / "n.h5", network)
    again = read_network(tmp_path / "n.h5")
    assert same(network, again)
    assert network.digest == again.digest


def test_round_trip_of_loops_and_crops(tmp_path: Path) -> None:
    network = recurrent_network(0)
    write_network(tmp_path / "n.h5", network)
    again = read_network(tmp_path / "n.h5")
    assert same(network, again)
    assert {c.synapses.crop for c in again.connections if isinstance(c.synapses, Convolution)} == {
        ((0, 1), (1, 0)),
        ((0, 0), (0, 0)),
    }
    uncropped = tuple(
        replace(c, synapses=replace(c.synapses, crop=((0, 0), (0, 0)))) if isinstance(c.synapses, Convolution) else c
        for c in network.connections
    )
    assert replace(network, connections=uncropped).digest != network.digest


def general_network() -> Network:
    """One decay for each channel, a synaptic current, the reset that subtracts, a clock, and attention."""
    network = temporal_shift_network()
    conv1, conv2 = lif(network, 1), lif(network, 2)
    populations = list(network.populations)
    each = ints([10, 4095, -1, 0]).reshape(4, 1, 1)
    populations[1] = replace(populations[1], program=replace(conv1, dv=np.abs(each), reset="subtract"))
    populations[2] = replace(populations[2], program=replace(conv2, du=each))
    clock = Population("clock", "", (4, 4, 4), 3, Clock())
    weight = ints(np.arange(16)).reshape(4, 4, 1, 1) * 2
    told = Connection("clock-conv2", "", "clock", "conv2", Convolution(weight), 1, ints([0] * 4))
    gate = Population("gate", "", (4, 4, 4), 3, frequency_gains(np.random.default_rng(0), (4, 4, 4), network.steps))
    half = Convolution(ints(np.full((4, 4, 1, 1), -2)), (2, 2))
    into = Connection("conv1-gate", "", "conv1", "gate", half, 0, ints([0] * 4))
    return replace(
        network,
        populations=(clock, *populations, gate),
        connections=(*network.connections, told, into),
        records=network.records,
    )


def test_round_trip_of_every_program(tmp_path: Path) -> None:
    network = general_network()
    write_network(tmp_path / "n.h5", network)
    again = read_network(tmp_path / "n.h5")
    assert same(network, again)
    assert network.digest == again.digest


@pytest.mark.parametrize(("change", "population"), [({"reset": "zero"}, 2), ({"dv": ints(7)}, 2), ({"du": ints(7)}, 3)])
def test_digest_changes_with_the_program(change: dict[str, object], population: int) -> None:
    network = general_network()
    populations = list(network.populations)
    populations[population] = replace(populations[population], program=replace(lif(network, population), **change))
    assert replace(network, populations=tuple(populations)).digest != network.digest


def test_a_clock_of_another_window_is_refused() -> None:
    network = general_network()
    clock = replace(network.populations[0], shape=(3, 4, 4))
    with pytest.raises(UserError, match="population clock: a clock of 3 steps in a network with windows of 4"):
        replace(network, populations=(clock, *network.populations[1:]))


def test_nothing_drives_a_clock() -> None:
    network = general_network()
    into = replace(network.connections[0], id="into", target="clock")
    with pytest.raises(UserError, match="ends in the input population clock"):
        replace(network, connections=(*network.connections, into))


def test_digest_changes_with_a_single_weight(shift_network: Network) -> None:
    weight = shift_network.connections[1].synapses.weight.copy()
    weight[0, 0, 0, 0] += 2
    changed = replace(
        shift_network.connections[1], synapses=replace(shift_network.connections[1].synapses, weight=weight)
    )
    connections = (shift_network.connections[0], changed, *shift_network.connections[2:])
    assert replace(shift_network, connections=connections).digest != shift_network.digest


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("store") / "n.h5"
    write_network(path, general_network())
    return path.read_bytes()


@given(cut=st.floats(0, 0.999))
@settings(max_examples=40, deadline=None)
def test_truncated_file_is_one_clear_error(
    cut: float, written: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("cut") / "n.h5"
    path.write_bytes(written[: int(cut * len(written))])
    with pytest.raises(UserError, match=r"n\.h5"):
        read_network(path)


@given(position=st.integers(0, 10**9), value=st.integers(0, 255))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_a_flipped_byte_is_read_or_refused_never_a_traceback(
    position: int, value: int, written: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("flip") / "n.h5"
    damaged = bytearray(written)
    damaged[position % len(damaged)] = value
    path.write_bytes(damaged)
    try:
        assert isinstance(read_network(path), Network)
    except UserError as error:
        assert "n.h5" in str(error)


def damage(path: Path, written: bytes) -> h5py.File:
    path.write_bytes(written)
    return h5py.File(path, "r+")


def test_other_schema_version_is_refused(tmp_path: Path, written: bytes) -> None:
    with damage(tmp_path / "n.h5", written) as file:
        file.attrs["schema_version"] = 999
    with pytest.raises(UserError, match=r"schema version 999, this program reads 4"):
        read_network(tmp_path / "n.h5")


def test_a_file_of_the_first_version_says_what_to_do(tmp_path: Path, written: bytes) -> None:
    with damage(tmp_path / "n.h5", written) as file:
        file.attrs["schema_version"] = 1
    with pytest.raises(UserError, match=r"n\.h5: schema version 1, .* \(export the model again: python -m export\)"):
        read_network(tmp_path / "n.h5")


def test_link_to_another_file_is_not_followed(tmp_path: Path, written: bytes) -> None:
    with damage(tmp_path / "n.h5", written) as file:
        del file["populations/conv1/vth"]
        file["populations/conv1/vth"] = h5py.ExternalLink("/etc/passwd", "/vth")
    with pytest.raises(UserError, match="link"):
        read_network(tmp_path / "n.h5")


def test_huge_dataset_is_refused_before_it_is_read(tmp_path: Path, written: bytes) -> None:
    with damage(tmp_path / "n.h5", written) as file:
        del file["populations/conv1/vth"]
        file.create_dataset("populations/conv1/vth", shape=(1 << 40,), dtype="i4", chunks=(1024,))
    with pytest.raises(UserError, match="limit"):
        read_network(tmp_path / "n.h5")


def test_another_hdf5_file_is_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "n.h5", "w") as file:
        file["x"] = 1
    with pytest.raises(UserError, match="not a spikeproof-network file"):
        read_network(tmp_path / "n.h5")


def lif(network: Network, index: int) -> LIF:
    program = network.populations[index].program
    assert isinstance(program, LIF)
    return program


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"du": 4096}, r"population conv1: smallest du is 4096, allowed -1\.\.4095"),
        ({"du": ints([[[5]], [[4096]], [[5]], [[5]]])}, "largest du is 4096"),
        ({"dv": -1}, "smallest dv is -1"),
        ({"dv": ints([1, 2, 3])}, "dv of shape .* does not broadcast"),
        ({"dv": np.zeros(1)}, "dv has dtype float64"),
        ({"reset": "half"}, "reset 'half', known are zero, subtract"),
        ({"vth": ints([[[5]], [[1 << 17]], [[5]], [[5]]])}, "largest vth is 131072, allowed 0..131071"),
        ({"bias_mant": ints([[[5]], [[4096]], [[5]], [[5]]])}, "largest bias_mant is 4096"),
        ({"bias_exp": 8}, "bias_exp is 8"),
        ({"vth": ints([1, 2, 3])}, "does not broadcast"),
        ({"gate": None}, "has no gate"),
    ],
)
def test_limits_are_enforced_on_construction(shift_network: Network, change: dict[str, object], message: str) -> None:
    populations = list(shift_network.populations)
    populations[1] = replace(populations[1], program=replace(lif(shift_network, 1), **change))
    with pytest.raises(UserError, match=message):
        replace(shift_network, populations=tuple(populations))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target": "nobody"}, "population 'nobody' does not exist"),
        ({"target": "input"}, "ends in the input population"),
        ({"weight_exp": -1}, "weight_exp is -1"),
        ({"delay": ints([63, 0, 0, 0])}, "largest delay is 63"),
        ({"delay": ints([3, 1, 1, 1])}, "beyond its window"),
        ({"delay": ints([1])}, "delay of shape"),
    ],
)
def test_connections_are_checked_on_construction(
    shift_network: Network, change: dict[str, object], message: str
) -> None:
    connections = list(shift_network.connections)
    connections[1] = replace(connections[1], **change)
    with pytest.raises(UserError, match=message):
        replace(shift_network, connections=tuple(connections))


@pytest.mark.parametrize("sign", [1, -1])
def test_weights_of_one_sign_may_be_odd(sign: int, shift_network: Network) -> None:
    """Their sign takes no bit: -255 to 255. Those of both signs are even, as the test below has it."""

    def changed(largest: int) -> Network:
        synapses = shift_network.connections[0].synapses
        weight = sign * np.abs(synapses.weight)
        weight[0, 0, 0, 0] = sign * largest
        first = replace(shift_network.connections[0], synapses=replace(synapses, weight=weight))
        return replace(shift_network, connections=(first, *shift_network.connections[1:]))

    assert np.abs(changed(255).connections[0].synapses.weight).max() == 255
    with pytest.raises(UserError, match=r"est weight is -?257, allowed -255\.\.255"):
        changed(257)


@pytest.mark.parametrize(("value", "message"), [(3, "odd weights"), (256, "largest weight is 256")])
def test_weights_are_checked_on_construction(shift_network: Network, value: int, message: str) -> None:
    connections = list(shift_network.connections)
    weight = connections[0].synapses.weight.copy()
    weight[0, 0, 0, 0] = value
    connections[0] = replace(connections[0], synapses=replace(connections[0].synapses, weight=weight))
    with pytest.raises(UserError, match=message):
        replace(shift_network, connections=tuple(connections))
