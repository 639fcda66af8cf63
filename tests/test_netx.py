"""network.net: lava-dl's own reader runs it in Lava with the same spikes, and files of others are read as they are."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import netx_machine
import numpy as np
import pytest
from conftest import ints, temporal_shift_network
from hypothesis import given, settings
from hypothesis import strategies as st
from random_networks import READOUT, even, payloads
from test_hdf5 import damage_heap

from export import hdf5_tree
from export.formats import netx_reader
from export.formats.netx_reader import Given, read_netx
from export.formats.netx_writer import write_netx
from export.hdf5_tree import read_here
from export.network import LIF, Connection, Convolution, Dense, Network, Population, Source
from sim import fast, reference
from train.errors import UserError

THEIRS = Path(__file__).resolve().parents[2] / "shared" / "data" / "lavadl"


def lava_dl() -> bool:
    """Whether lava-dl is installed; asked without importing Lava."""
    try:
        return importlib.util.find_spec("lava.lib.dl.netx") is not None
    except ModuleNotFoundError:
        return False


NEEDS_LAVA_DL = pytest.mark.skipif(not lava_dl(), reason="lava-dl is not installed")


def neurons(rng: np.random.Generator, shape: tuple[int, ...], per: str) -> LIF:
    """A program whose parameters are one for all, for each channel, or for each neuron."""
    rows = {"layer": (), "channel": (shape[0], *[1] * (len(shape) - 1)), "neuron": shape}[per]
    return LIF(
        du=ints(rng.choice([4095, 3000, -1], rows)),
        dv=ints(rng.choice([0, 500, 3072], rows)),
        vth=ints(rng.integers(60, 300, rows)),
        bias_mant=ints(rng.integers(-40, 90, rows)),
        bias_exp=6,
    )


def chain(seed: int, exponent: int = 0, bits: int = 3, per: str = "channel") -> Network:
    """Graded (3, 9, 7) -> strided conv -> grouped, dilated conv -> dense -> dense read-out; start 2, no guard steps."""
    rng = np.random.default_rng(seed)
    first = Convolution(even(rng, 30, 4, 3, 3, 2), (2, 1), (1, 2), (1, 1))
    second = Convolution(even(rng, 60, 6, 2, 2, 3), (1, 2), (1, 2), (2, 1), groups=2)
    shapes = first.output_shape((3, 9, 7)), second.output_shape((4, 5, 10)), (12,)
    names = ("a", "b", "c")
    layers = [
        Population(name, "", shape, 3 + index, neurons(rng, shape, per))
        for index, (name, shape) in enumerate(zip(names, shapes, strict=True))
    ]
    zeros = [ints([0] * count) for count in (3, 4, 6, 12)]
    hidden = even(rng, 30, 12, int(np.prod(shapes[1])))
    return Network(
        "chain",
        (
            Population("input", "", (3, 9, 7), 2, Source(bits)),
            *layers,
            Population("readout", "", (5,), 6, replace(READOUT, bias_mant=ints(3), bias_exp=6), readout=True),
        ),
        (
            Connection("in-a", "", "input", "a", first, 1, zeros[0]),
            Connection("a-b", "", "a", "b", second, 2, zeros[1]),
            Connection("b-c", "", "b", "c", Dense(hidden), exponent, zeros[2]),
            Connection("c-out", "", "c", "readout", Dense(even(rng, 254, 5, 12)), exponent, zeros[3]),
        ),
        5,
        5,
    )


def machine_stream(network: Network, inputs: np.ndarray) -> np.ndarray:
    """What the input sends in every machine step."""
    stream = np.zeros((network.machine_steps(len(inputs)), *network.source.shape), dtype=np.int32)
    for sample, frames in enumerate(inputs):
        start = network.source.start + sample * network.period
        stream[start : start + network.steps] = frames
    return stream


def arguments(path: Path) -> dict[str, int]:
    """What the writer says `hdf5.Network` must be called with."""
    with h5py.File(path, "r") as file:
        names = ("reset_interval", "reset_offset", "input_message_bits")
        return {name: int(file["spikeproof"][name][()]) for name in names}


def differences(network: Network, inputs: np.ndarray, path: Path) -> dict[str, int]:
    """Values that lava-dl's network and the reference machine do not share, in windows; every layer must have fired."""
    found = netx_machine.run(path, machine_stream(network, inputs), **arguments(path))
    stream = reference.simulate(network, inputs)
    wrong = {}
    for index, population in enumerate(network.populations[1:]):
        size = (-1, population.size)
        ours = stream.membrane if population.readout else stream.spikes
        theirs = found["v"] if population.readout else found[f"s{index}"] > 0
        a = reference.windows(ours[population.id].reshape(size), population, network)
        b = reference.windows(theirs.reshape(size), population, network)
        assert np.ptp(a.astype(np.int64)) > 0, f"{population.id}: nothing to compare"
        wrong[population.id] = int((a != b).sum())
    return wrong


@pytest.mark.lava
@NEEDS_LAVA_DL
@pytest.mark.parametrize(
    ("exponent", "bits", "per"), [(0, 3, "channel"), (2, 1, "layer"), (0, 1, "neuron")], ids=["dense", "mapped", "each"]
)
def test_lava_dl_reads_it_and_spikes_the_same(exponent: int, bits: int, per: str, tmp_path: Path) -> None:
    """Per channel and per neuron thresholds and biases, decays, exponents, graded input, windows back to back."""
    network = chain(exponent, exponent, bits, per)
    inputs = payloads(network, 4, 0)
    write_netx(tmp_path / "network.net", network)
    assert set(differences(network, inputs, tmp_path / "network.net").values()) == {0}
    with h5py.File(tmp_path / "network.net", "r+") as file:
        kinds = [file[f"layer/{index}/type"][()].decode() for index in range(len(file["layer"]))]
        assert kinds == (
            ["input", *["conv"] * 4] if exponent else ["input", "conv", "conv", "flatten", "dense", "dense"]
        )
        file["layer/2/weight"][1, 1, 1, 1, 0] += 64
    assert max(differences(network, inputs, tmp_path / "network.net").values()) > 0


def dense_chain(seed: int, delay: int = 0, period: int = 4) -> Network:
    """Binary (6,) -> dense -> read-out, `delay` steps on the first."""
    rng = np.random.default_rng(seed)
    return Network(
        "dense",
        (
            Population("input", "", (6,), 0, Source(1)),
            Population("a", "", (9,), 1 + delay, neurons(rng, (9,), "channel")),
            Population("readout", "", (2,), 2 + delay, replace(READOUT, bias_exp=6), readout=True),
        ),
        (
            Connection("in-a", "", "input", "a", Dense(even(rng, 90, 9, 6)), 0, ints([delay] * 6)),
            Connection("a-out", "", "a", "readout", Dense(even(rng, 90, 2, 9)), 0, ints([0] * 9)),
        ),
        period,
        period,
    )


@pytest.mark.lava
@NEEDS_LAVA_DL
def test_delays_of_a_dense_layer_are_carried(tmp_path: Path) -> None:
    """A delay of a whole period leaves netx's resets where they must be."""
    network = dense_chain(3, delay=4)
    write_netx(tmp_path / "network.net", network)
    assert set(differences(network, payloads(network, 5, 0), tmp_path / "network.net").values()) == {0}


@pytest.mark.lava
@NEEDS_LAVA_DL
def test_why_a_matrix_without_positive_weights_is_not_left_dense(tmp_path: Path) -> None:
    """lava-dl scales [-128, ..] to -256 and Lava clips that to -255: the writer makes such layers convolutions."""
    network = dense_chain(1)
    weight = -np.abs(network.connections[1].synapses.weight)
    weight[0, 0] = -128
    connections = (network.connections[0], replace(network.connections[1], synapses=Dense(ints(weight))))
    network = replace(network, connections=connections)
    inputs = payloads(network, 5, 0)
    write_netx(tmp_path / "network.net", network)
    assert set(differences(network, inputs, tmp_path / "network.net").values()) == {0}


# --- what netx has no place for ---


def with_delay(network: Network) -> Network:
    connections = list(network.connections)
    connections[1] = replace(connections[1], delay=ints([5] * 4))
    populations = [replace(p, start=p.start + 5) if index > 1 else p for index, p in enumerate(network.populations)]
    return replace(network, connections=tuple(connections), populations=tuple(populations))


def with_join(network: Network) -> Network:
    skip = Connection("skip", "", "a", "c", Dense(ints(np.full((12, 200), 2))), 0, ints([1] * 4))
    return replace(network, connections=(*network.connections, skip))


def with_start(network: Network) -> Network:
    connections = list(network.connections)
    connections[2] = replace(connections[2], delay=ints([1] * 6))
    populations = [replace(p, start=p.start + 1) if index > 2 else p for index, p in enumerate(network.populations)]
    return replace(network, connections=tuple(connections), populations=tuple(populations))


def with_bias(network: Network) -> Network:
    populations = list(network.populations)
    program = populations[1].program
    assert isinstance(program, LIF)
    populations[1] = replace(populations[1], program=replace(program, bias_exp=5))
    return replace(network, populations=tuple(populations))


def with_reset(network: Network) -> Network:
    populations = list(network.populations)
    program = populations[1].program
    assert isinstance(program, LIF)
    populations[1] = replace(populations[1], program=replace(program, reset="subtract"))
    return replace(network, populations=tuple(populations))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (with_delay, r"connection a-b \(a to b\): delays up to 5: netx drops those of a convolution"),
        (with_join, r"connection skip \(a to c\): one of 2 connections out of a"),
        (with_start, r"connection b-c \(b to c\): its target starts 2 steps after its source"),
        (with_reset, r"population a: its reset is 'subtract', Lava's LIF resets to zero"),
        (with_bias, r"population a: \d of 4 biases are not multiples of 64"),
        (lambda _: temporal_shift_network(), r"connection conv1-conv2.shift .*: one of 2 connections out of conv1"),
    ],
)
def test_what_netx_drops_is_refused_by_name(change: Callable[[Network], Network], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        write_netx(tmp_path / "network.net", change(chain(0)))
    assert not (tmp_path / "network.net").exists()


def test_gates_are_refused(tmp_path: Path) -> None:
    shift = temporal_shift_network()
    network = replace(shift, connections=tuple(c for c in shift.connections if c.id != "conv1-conv2.shift"))
    network = replace(network, connections=tuple(replace(c, delay=0 * c.delay) for c in network.connections))
    starts = {"conv2": 3, "readout": 4}
    populations = tuple(replace(p, start=starts.get(p.id, p.start)) for p in network.populations)
    with pytest.raises(UserError, match="population conv1: has a gate"):
        write_netx(tmp_path / "network.net", replace(network, populations=populations))


# --- reading ---


@given(seed=st.integers(0, 1000), exponent=st.sampled_from([0, 3]), per=st.sampled_from(["layer", "channel", "neuron"]))
@settings(max_examples=15, deadline=None)
def test_written_files_are_read_back(
    seed: int, exponent: int, per: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Every population does the same, in its own shape, dense layers that had to become convolutions included."""
    network = chain(seed, exponent, per=per)
    path = tmp_path_factory.mktemp("netx") / "network.net"
    write_netx(path, network)
    again = read_netx(path, Given())
    inputs = payloads(network, 2, seed)
    expected, found = reference.run(network, inputs), reference.run(again, inputs)
    assert sum(int(spikes.sum()) for spikes in expected.spikes.values()) > 0
    assert [p.shape for p in again.populations] == [p.shape for p in network.populations]
    assert [type(c.synapses) for c in again.connections] == [type(c.synapses) for c in network.connections]
    for name, values in {**expected.spikes, **expected.membrane}.items():
        theirs = {**found.spikes, **found.membrane}[name]
        np.testing.assert_array_equal(theirs, values, err_msg=name)


def write_theirs(path: Path, seed: int = 0) -> Path:
    """A file as lava-dl writes them: float arrays, texts of variable length, an input block with neurons."""
    rng = np.random.default_rng(seed)
    with h5py.File(path, "w") as file:
        for index, kind in enumerate(("input", "conv", "flatten", "dense")):
            layer = file.create_group(f"layer/{index}")
            layer.create_dataset("type", (1,), "S10", data=kind.encode())
            if kind == "flatten":
                layer["shape"] = [48]
                continue
            layer["shape"] = {"input": (2, 5, 6), "conv": (4, 3, 4), "dense": (7,)}[kind]
            layer["neuron/type"] = "CUBA" if kind == "dense" else "LOIHI"
            layer["neuron/iDecay"], layer["neuron/vDecay"], layer["neuron/vThMant"] = 1024 + 3072 * (index < 3), 128, 80
            layer["neuron/refDelay"], layer["neuron/gradedSpike"] = 1, False
            if kind == "input":
                layer["weight"], layer["bias"] = np.float32([36.0]), np.float32([34.0])
            elif kind == "conv":
                layer["weight"] = 2 * rng.integers(-30, 36, (4, 2, 3, 3, 1)).astype(np.float32)
                layer["bias"] = rng.integers(-40, 60, 4).astype(np.float32)
                layer["stride"], layer["padding"], layer["dilation"], layer["groups"] = (2, 1), (1, 0), (1, 1), 1
            else:
                layer["weight"] = 2 * rng.integers(-30, 36, (7, 48)).astype(np.float32)
    return path


@pytest.mark.lava
@NEEDS_LAVA_DL
def test_a_file_of_lava_dl_is_read_as_lava_dl_runs_it(tmp_path: Path) -> None:
    """Input block, current decay, convolution and dense layer. (The transform's weight and bias are left out: reading
    them fails in lava-dl 0.6.0 under NumPy 2.4, and they are the caller's part.)"""
    path = write_theirs(tmp_path / "theirs.net")
    network = read_netx(path, Given(steps=20))
    currents = np.random.default_rng(1).integers(0, 60, (2, 5, 6))
    with h5py.File(path, "r+") as file:
        del file["layer/0/weight"], file["layer/0/bias"]
    stream = np.zeros((30, 2, 5, 6), dtype=np.int32)
    found = netx_machine.run(path, stream, currents, reset_interval=20, reset_offset=1)
    expected = fast.run(network, np.repeat(currents[None, None], 20, axis=1))
    for index, population in enumerate(network.populations[1:]):
        window = found[f"s{index}"][population.start : population.start + 20] > 0
        spikes = expected.spikes[population.id].reshape(20, -1)
        assert 0 < spikes.mean() < 1, f"{population.id}: nothing to compare"
        np.testing.assert_array_equal(window, spikes, err_msg=population.id)


def test_a_file_of_lava_dl_without_lava(tmp_path: Path) -> None:
    network = read_netx(write_theirs(tmp_path / "theirs.net"), Given(steps=12))
    assert [p.shape for p in network.populations] == [(2, 5, 6), (2, 5, 6), (4, 3, 4), (7,)]
    assert [p.start for p in network.populations] == [0, 1, 2, 3]
    program = network.populations[3].program
    assert isinstance(program, LIF)
    assert (program.du, program.dv, int(program.vth)) == (1023, 128, 80)
    conv = network.connections[1].synapses
    assert isinstance(conv, Convolution)
    assert (conv.stride, conv.padding) == ((2, 1), (1, 0))
    assert network.readout is None


def recorded(name: str) -> np.ndarray:
    """A recorded layer as [T, C, H, W]; step 0 is empty in all of them."""
    values = np.moveaxis(np.load(THEIRS / "tinynet" / f"{name}.npy")[0], -1, 0)
    assert not values[0].any()
    return values[1:].astype(np.int64)


@pytest.mark.skipif(not (THEIRS / "tiny.net").is_file(), reason="no third-party network here")
def test_recorded_layers_of_a_third_party_network() -> None:
    """tiny.net of lava-dl's tests: input block, two convolutions; its recorded layers, value by value."""
    network = read_netx(THEIRS / "tiny.net", Given(steps=15))
    currents = np.load(THEIRS / "tinynet" / "input_bias.npy").astype(np.int64).transpose(2, 1, 0)
    inputs = np.repeat(currents[None, None], 15, axis=1)
    found, slow = fast.run(network, inputs), reference.run(network, inputs)
    names = ("input", "layer1", "output")
    assert [int(recorded(name).sum()) for name in names] == [6783, 1633, 92]
    for population, name in zip(network.populations[1:], names, strict=True):
        np.testing.assert_array_equal(found.spikes[population.id][0], recorded(name), err_msg=name)
        np.testing.assert_array_equal(slow.spikes[population.id][0], recorded(name), err_msg=name)


def change(path: Path, key: str, value: object) -> None:
    with h5py.File(path, "r+") as file:
        if key in file:
            del file[key]
        if value is not None:
            file[key] = value


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("layer/1/type", np.bytes_("pool"), "layer 1: layer of type 'pool'"),
        ("layer/3/neuron/type", np.bytes_("SDNN"), "layer 3 neuron: neurons of type 'SDNN'"),
        ("layer/1/delay", [1, 0, 2, 3], "layer 1: has delays, which lava-dl's own reader drops"),
        ("layer/3/delay", [1] * 7, "layer 3: has delays: they reach into the next sample"),
        ("layer/3/neuron/refDelay", 3, "refDelay 3, which lava-dl's reader ignores"),
        ("layer/3/neuron/wgtExp", 2, "wgtExp 2, which lava-dl's reader ignores"),
        ("layer/3/neuron/vDecay", 4096, "dv is 4096, allowed 0..4095"),
        ("layer/3/neuron/iDecay", None, "layer 3 neuron: has no iDecay"),
        ("layer/3/neuron/surprise", 1, "layer 3 neuron: 'surprise' is not understood"),
        ("layer/3/weight", np.full((7, 48), 3) * (1 - 2 * np.eye(7, 48)), "odd weights"),
        ("layer/3/weight", np.full((7, 48), 300), "weight is 300, allowed"),
        ("layer/3/weight", np.full((7, 48), -64), "no weight is positive and the smallest, -64, is a power of two"),
        ("layer/3/weight", np.full((7, 48), 0.5), "weight holds values that are not whole numbers"),
        ("layer/3/weight", np.full((7, 48), np.nan), "weight holds values that are not whole numbers"),
        ("layer/3/weight", np.full((7, 47), 2), "expected \\(7, 48\\)"),
        ("layer/1/weight", np.full((4, 2, 3, 3), 514), "need more than 8 bits"),
        ("layer/1/bias", np.full(4, 5000), "bias_mant is 5000, allowed"),
        ("layer/1/bias", np.full(3, 5), "bias of shape \\(3,\\) for neurons of shape"),
        ("layer/1/shape", [4, 3, 5], "gives \\(4, 3, 4\\)"),
        ("layer/2", None, "there is no layer 2"),
        ("layer", None, "0 layers"),
    ],
)
def test_files_that_cannot_be_reproduced(key: str, value: object, message: str, tmp_path: Path) -> None:
    path = write_theirs(tmp_path / "theirs.net")
    change(path, key, value)
    with pytest.raises(UserError, match=message) as error:
        read_netx(path, Given(steps=8))
    assert "theirs.net" in str(error.value)


def test_steps_must_come_from_somewhere(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"does not say the number of time steps.*--steps"):
        read_netx(write_theirs(tmp_path / "theirs.net"), Given())


def test_links_and_sizes_are_checked_before_reading(tmp_path: Path) -> None:
    path = write_theirs(tmp_path / "theirs.net")
    change(path, "layer/3/weight", h5py.ExternalLink("/etc/passwd", "/x"))
    with pytest.raises(UserError, match="'weight' is missing, or a link"):
        read_netx(path, Given(steps=8))
    path = write_theirs(tmp_path / "large.net")
    with h5py.File(path, "r+") as file:
        del file["layer/3/weight"]
        file.create_dataset("layer/3/weight", shape=(1 << 20, 1 << 20), dtype="i4", chunks=(64, 64))
    with pytest.raises(UserError, match="elements, limit"):
        read_netx(path, Given(steps=8))


def test_an_endless_heap_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts of variable length, as others write them, lie in a heap that can send the HDF5 library round for ever."""
    monkeypatch.setattr(hdf5_tree, "START_SECONDS", 3.0)
    path = write_theirs(tmp_path / "theirs.net")
    change(path, "layer/1/type", "conv")
    before = path.read_bytes()
    assert read_netx(path, Given(steps=8)).steps == 8
    damage_heap(path)
    assert path.read_bytes() != before
    with pytest.raises(UserError, match=r"theirs\.net: damaged, or not a netx file: the HDF5 library did not finish"):
        read_netx(path, Given(steps=8))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("netx") / "n.net"
    write_netx(path, chain(0))
    return path.read_bytes()


@given(position=st.integers(0, 10**9), value=st.integers(0, 255), cut=st.one_of(st.none(), st.floats(0, 0.999)))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_damaged_files_are_read_or_refused_never_a_traceback(
    position: int, value: int, cut: float | None, written: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("flip") / "n.net"  # read in this process: our own files have no heap
    damaged = bytearray(written)
    damaged[position % len(damaged)] = value
    path.write_bytes(damaged if cut is None else damaged[: int(cut * len(damaged))])
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(netx_reader, "read_tree", read_here)
            assert isinstance(read_netx(path, Given()), Network)
    except UserError as error:
        assert "n.net" in str(error)
