"""Recordings as NIR data: ours there and back, those that others write, and damaged files and planted faults."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import nir
import numpy as np
import pytest
from conftest import digits_like_inputs
from hypothesis import given, settings
from hypothesis import strategies as st

from export.hdf5_tree import read_here
from export.network import Network
from sim import equivalence, fast, nir_data, recorded
from sim.recording import Recording
from train.errors import UserError

SAMPLES, STEPS = 3, 4  # of shift_network: conv1 (4, 8, 8), conv2 (4, 4, 4), readout (10,)


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sound HDF5 needs no process of its own."""
    monkeypatch.setattr(recorded, "read_tree", read_here)


@pytest.fixture
def x(shift_network: Network) -> np.ndarray:
    return digits_like_inputs(SAMPLES, shift_network)


@pytest.fixture
def ours(shift_network: Network, x: np.ndarray) -> Recording:
    found = fast.run(shift_network, x)
    assert all(spikes.any() for spikes in found.spikes.values())
    return found


def flat(values: np.ndarray) -> np.ndarray:
    return values.reshape(*values.shape[:2], -1)


def gridded(values: np.ndarray, dt: float = 1e-3) -> nir.TimeGriddedData:
    return nir.TimeGriddedData(flat(values), dt)


def written(path: Path, nodes: dict[str, dict[str, Any]]) -> Path:
    """A file as another framework writes it, with the NIR library."""
    nir.write_data(path, nir.NIRGraphData({name: nir.NIRNodeData(o) for name, o in nodes.items()}))
    return path


def compared(network: Network, ours: Recording, path: Path) -> equivalence.Comparison:
    x = digits_like_inputs(SAMPLES, network)
    found = recorded.read(path, network, x)
    return equivalence.compare(network, ours, found.recording, x, found.populations)


def test_there_and_back(tmp_path: Path, shift_network: Network, ours: Recording, x: np.ndarray) -> None:
    """Through the process of its own, and as the NIR library reads it."""
    path = tmp_path / "ours.h5"
    recorded.write(path, shift_network, ours, x)
    found = recorded.read(path, shift_network, x)
    assert (found.total, found.absent, found.strange, found.same_inputs) == (SAMPLES, (), (), True)
    assert found.populations == ("conv1", "conv2", "readout")
    for name, values in {**ours.spikes, **ours.membrane}.items():
        back = {**found.recording.spikes, **found.recording.membrane}[name]
        np.testing.assert_array_equal(back, values)
        assert back.dtype == values.dtype
    assert compared(shift_network, ours, path).equal
    theirs = nir.read_data(str(path))
    np.testing.assert_array_equal(theirs.nodes["conv2"].observables["spikes"].data, flat(ours.spikes["conv2"]))
    np.testing.assert_array_equal(theirs.nodes["readout"].observables["v"].data, ours.membrane["readout"])
    assert theirs.nodes["readout"].observables["v"].dt == 1e-4


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int64, np.float32])
@pytest.mark.parametrize("dt", [1e-3, 0.1, 1 / 3, 7.0])
@pytest.mark.parametrize("shift", [0.0, 0.5])
def test_files_of_others(
    dtype: type, dt: float, shift: float, tmp_path: Path, shift_network: Network, ours: Recording, x: np.ndarray
) -> None:
    """One population on a grid, under the module path that it comes from; one as events, anywhere within the step."""
    first, second = ours.spikes["conv1"], ours.spikes["conv2"]
    events = gridded(second, dt).to_event(n_events=int(flat(second).sum((1, 2)).max()) + 2, time_shift=shift * dt)
    path = written(
        tmp_path / "theirs.h5",
        {
            "layers.0": {"spikes": gridded(first.astype(dtype), dt), "v": gridded(first * 0.5, dt)},
            "conv2": {"spikes": events},
            "other": {"spikes": events},
        },
    )
    found = recorded.read(path, shift_network, x)
    assert found.populations == ("conv1", "conv2")
    assert found.absent == ("readout",)
    assert found.strange == ("layers.0: v", "other: spikes")
    assert not found.same_inputs
    result = compared(shift_network, ours, path)
    assert result.equal
    assert result.engines == ("integer", "theirs.h5")
    assert result.spikes == int(first.sum() + second.sum())


@given(
    steps=st.integers(1, 300),
    dt=st.floats(1e-6, 1e3),
    single=st.booleans(),
    seed=st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_events_meet_their_steps(steps: int, dt: float, single: bool, seed: int) -> None:
    """Every step's time k dt falls into step k again, in single precision too."""
    rng = np.random.default_rng(seed)
    spikes = rng.random((2, steps, 3)) < 0.4
    most = int(spikes.sum((1, 2)).max())
    idx, time = np.full((2, most), -1), np.full((2, most), np.inf)
    for sample in range(2):
        step, neuron = np.nonzero(spikes[sample])
        idx[sample, : len(step)], time[sample, : len(step)] = neuron, step * dt
    tree = {
        "idx": idx,
        "time": time.astype(np.float32) if single else time,
        "/n_neurons": np.array(3),
        "/t_max": np.array(steps * dt),
    }
    total, found = nir_data.from_events(tree, "", "EventData", 3, steps, 2)
    assert total == 2
    np.testing.assert_array_equal(found, spikes)


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("kind", ["grid", "events"])
def test_one_spike_moved_is_caught(kind: str, tmp_path: Path, shift_network: Network, ours: Recording) -> None:
    """The planted fault: as many spikes as before, one of them a step later."""
    spikes = ours.spikes["conv2"].copy()
    sample, step, *neuron = next(
        place
        for place in np.argwhere(spikes)
        if place[1] + 1 < STEPS and not spikes[(place[0], place[1] + 1, *place[2:])]
    )
    spikes[(sample, step, *neuron)], spikes[(sample, step + 1, *neuron)] = False, True
    data = gridded(spikes)
    path = written(
        tmp_path / "theirs.h5", {"conv2": {"spikes": data if kind == "grid" else data.to_event(n_events=300)}}
    )
    result = compared(shift_network, ours, path)
    assert sum(p.mismatches for p in result.populations) == 2
    assert result.divergence is not None
    assert result.divergence.where == (
        f"sample {sample}, step {step}, population conv2, neuron {[int(i) for i in neuron]}"
    )
    assert "integer says spike, theirs.h5 says no spike; reference: v " in result.difference


@pytest.mark.usefixtures("in_process")
def test_a_membrane_potential_off_by_one_is_caught(
    tmp_path: Path, shift_network: Network, ours: Recording, x: np.ndarray
) -> None:
    wrong = ours.membrane["readout"].copy()
    wrong[1, 2, 3] += 1
    recorded.write(tmp_path / "a.h5", shift_network, replace(ours, membrane={"readout": wrong}), x)
    result = compared(shift_network, ours, tmp_path / "a.h5")
    assert "first in sample 1, step 2, population readout, neuron [3]: integer says v = " in result.difference


@pytest.mark.usefixtures("in_process")
def test_a_silent_file_is_not_equal_to_a_spiking_engine(
    tmp_path: Path, shift_network: Network, ours: Recording, x: np.ndarray
) -> None:
    silent = {name: np.zeros_like(values) for name, values in ours.spikes.items()}
    recorded.write(tmp_path / "a.h5", shift_network, replace(ours, spikes=silent), x)
    assert not compared(shift_network, ours, tmp_path / "a.h5").equal
    path = written(tmp_path / "b.h5", {"readout": {"v": gridded(ours.membrane["readout"])}})
    with pytest.raises(UserError, match="no spike at all"):
        compared(shift_network, ours, path)


@pytest.mark.usefixtures("in_process")
def test_a_membrane_potential_in_other_units_is_named(
    tmp_path: Path, shift_network: Network, ours: Recording, x: np.ndarray
) -> None:
    nodes = {"conv1": {"spikes": gridded(ours.spikes["conv1"])}}
    volts = {**nodes, "readout": {"v": gridded(ours.membrane["readout"] / 3.7)}}
    found = recorded.read(written(tmp_path / "a.h5", volts), shift_network, x)
    assert found.strange == ("readout: v (not whole numbers, so in other units than the network's)",)
    assert found.absent == ("conv2", "readout")
    whole = {**nodes, "readout": {"v": gridded(ours.membrane["readout"].astype(np.float64))}}
    path = written(tmp_path / "b.h5", whole)
    assert recorded.read(path, shift_network, x).populations == ("conv1", "readout")
    assert compared(shift_network, ours, path).equal


@pytest.mark.usefixtures("in_process")
def test_only_the_samples_that_ran_are_read(
    tmp_path: Path, shift_network: Network, ours: Recording, x: np.ndarray
) -> None:
    recorded.write(tmp_path / "a.h5", shift_network, ours, x)
    found = recorded.read(tmp_path / "a.h5", shift_network, x[:2])
    assert (found.total, found.recording.samples) == (SAMPLES, 2)


@pytest.mark.usefixtures("in_process")
def test_other_inputs_are_refused(tmp_path: Path, shift_network: Network, ours: Recording, x: np.ndarray) -> None:
    """The spikes of other samples differ, and that says nothing about an engine."""
    recorded.write(tmp_path / "a.h5", shift_network, ours, x)
    other = x.copy()
    other[2, 3, 0, 1, 1] += 1
    with pytest.raises(UserError, match="on other inputs: 1 of 3 samples differ, first sample 2 "):
        recorded.read(tmp_path / "a.h5", shift_network, other)
    assert recorded.read(tmp_path / "a.h5", shift_network, other[:2]).recording.samples == 2


def spikes_of(file: h5py.File) -> h5py.Group:
    return file["nodes/conv2/observables/spikes"]


def grid(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[h5py.File], None]:
    """A change of conv2's data on the grid."""

    def apply(file: h5py.File) -> None:
        data = spikes_of(file)["data"][()]
        del spikes_of(file)["data"]
        spikes_of(file)["data"] = change(data)

    return apply


def as_events(**fields: Any) -> Callable[[h5py.File], None]:
    """conv2 as one event, with these fields."""

    def apply(file: h5py.File) -> None:
        group = spikes_of(file)
        del group["data"]
        sound = {"idx": [[5]] * SAMPLES, "time": [[0.1]] * SAMPLES, "n_neurons": 64, "t_max": 0.4, "kind": "EventData"}
        said = {**sound, **fields}
        group.attrs["__type__"] = said.pop("kind")
        for name in ("n_neurons", "t_max"):
            if said[name] is not None:
                group.attrs[name] = said[name]
            del said[name]
        for name, values in said.items():
            group[name] = values

    return apply


def attribute(place: str, name: str, value: Any) -> Callable[[h5py.File], None]:
    return lambda file: file[place].attrs.__setitem__(name, value)


CHANGES: dict[str, tuple[Callable[[h5py.File], None], str]] = {
    "graph": (attribute("/", "__type__", "NIRGraph"), "is not a recording"),
    "graph a number": (attribute("/", "__type__", 7), "is not a recording"),
    "node": (attribute("nodes/conv2", "__type__", "os.system"), "node conv2: is of type 'os.system'"),
    "no type": (lambda f: f["nodes/conv2"].attrs.__delitem__("__type__"), "node conv2: is of type ''"),
    "kind": (attribute("nodes/conv2/observables/spikes", "__type__", "Frames"), "spikes: is of type 'Frames'"),
    "no data": (lambda f: spikes_of(f).__delitem__("data"), "node conv2, spikes: has no data"),
    "text": (grid(lambda d: np.array([b"x"])), "data has shape (1,) and dtype <U1"),
    "steps": (grid(lambda d: d[:, :3]), "data of shape (3, 3, 64), expected (samples, 4, 64)"),
    "neurons": (grid(lambda d: d[..., 1:]), "data of shape (3, 4, 63), expected (samples, 4, 64)"),
    "axes": (grid(lambda d: d.reshape(3, 4, 4, 4, 4)), "expected numbers on 3 axes"),
    "no samples": (grid(lambda d: d[:0]), "holds no sample"),
    "fewer samples": (grid(lambda d: d[:2]), "different numbers of samples: conv1 3, conv2 2, readout 3"),
    "graded": (grid(lambda d: 2 * d.astype(int)), "values other than 0 and 1"),
    "negative": (grid(lambda d: -d.astype(int)), "values other than 0 and 1"),
    "NaN": (grid(lambda d: np.where(d, np.nan, 0)), "holds NaN or infinity"),
    "twice": (lambda f: f.copy("nodes/conv2", "nodes/layers.1"), "population conv2 is there twice"),
    "idx": (as_events(idx=[[64]] * 3), "events of neurons 64..64, allowed 0..63"),
    "idx negative": (as_events(idx=[[-2]] * 3), "events of neurons -2..-2"),
    "idx in floats": (as_events(idx=[[1.0]] * 3), "idx has shape (3, 1) and dtype float64"),
    "time late": (as_events(time=[[0.4]] * 3), "events outside of 0 <= time < t_max = 0.4"),
    "time early": (as_events(time=[[-0.1]] * 3), "events outside of 0 <= time"),
    "time NaN": (as_events(time=[[np.nan]] * 3), "events outside of 0 <= time"),
    "time infinite": (as_events(time=[[np.inf]] * 3), "events outside of 0 <= time"),
    "time shape": (as_events(time=[[0.1, 0.2]] * 3), "time of shape (3, 2), expected the same"),
    "n_neurons": (as_events(n_neurons=63), "n_neurons is 63, the population has 64"),
    "n_neurons missing": (as_events(n_neurons=None), "has no n_neurons"),
    "t_max 0": (as_events(t_max=0.0), "t_max is 0, must be positive"),
    "t_max tiny": (as_events(t_max=5e-324, time=[[0.0]] * 3), "events outside of 0 <= time"),
    "t_max infinite": (as_events(t_max=np.inf), "has no t_max, or it is not a finite number"),
    "t_max two": (as_events(t_max=[1.0, 2.0]), "has no t_max, or it is not a finite number"),
    "two in one step": (
        as_events(idx=[[5, 5]] * 3, time=[[0.1, 0.15]] * 3),
        "two events of a neuron in one step",
    ),
    "value": (as_events(kind="ValuedEventData", value=[[0.5]] * 3), "a value other than 1"),
    "no value": (as_events(kind="ValuedEventData"), "has no value"),
    "value shape": (as_events(kind="ValuedEventData", value=[[1.0, 1.0]] * 3), "value of shape (3, 2)"),
    "strange names": (
        lambda f: [f["nodes"].move(name, f"x{name}") for name in list(f["nodes"])],  # type: ignore[dict-item]
        "holds no population of network shift, only xconv1: spikes, xconv2: spikes, xinput: x, xreadout: v",
    ),
    "link": (lambda f: f.__setitem__("nodes/y", h5py.ExternalLink("/etc/passwd", "/")), "does not follow"),
    "attribute": (attribute("nodes", "long", np.zeros(5000)), "an attribute whose name or value is longer than 1000"),
    "attribute text": (attribute("nodes", "long", "x" * 5000), "a text of 5000 characters, limit 1000"),
    "attribute of parts": (attribute("nodes", "parts", np.zeros(2, "i4,f8")), "expected numbers or texts"),
}


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("change", CHANGES)
def test_wrong_content(change: str, tmp_path: Path, shift_network: Network, ours: Recording, x: np.ndarray) -> None:
    path = tmp_path / "a.h5"
    recorded.write(path, shift_network, ours, x)
    make, message = CHANGES[change]
    with h5py.File(path, "r+") as file:
        make(file)
    with pytest.raises(UserError) as caught:
        recorded.read(path, shift_network, x)
    assert message in str(caught.value)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("in_process")
def test_one_event_is_read(tmp_path: Path, shift_network: Network, ours: Recording, x: np.ndarray) -> None:
    """The sound file behind the changes above, with values of 1 and in a subgraph as well."""
    for number, more in enumerate([{}, {"kind": "ValuedEventData", "value": [[1.0]] * 3}]):
        path = tmp_path / f"{number}.h5"
        recorded.write(path, shift_network, ours, x)
        with h5py.File(path, "r+") as file:
            as_events(**more)(file)
            file.create_group("nodes/layers/nodes").parent.attrs["__type__"] = "NIRGraphData"
            file.move("nodes/conv2", "nodes/layers/nodes/1")  # layers.1, where conv2 comes from
        spikes = recorded.read(path, shift_network, x).recording.spikes["conv2"]
        assert spikes.sum() == SAMPLES
        assert spikes[:, 1, 0, 1, 1].all()  # neuron 5 of (4, 4, 4)


@given(data=st.data())
@settings(max_examples=15, deadline=None, derandomize=True)
def test_damaged(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory, sound: tuple[Network, bytes]) -> None:
    """Cut off or with bytes changed, in the process of its own: a recording or one line."""
    network, content = sound
    damaged = bytearray(content)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("damaged") / "a.h5"
    path.write_bytes(damaged[: data.draw(st.integers(0, len(damaged)))] if data.draw(st.booleans()) else damaged)
    try:
        recorded.read(path, network, digits_like_inputs(SAMPLES, network))
    except UserError as error:
        assert "a.h5" in str(error)
        assert "\n" not in str(error)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> tuple[Network, bytes]:
    from conftest import temporal_shift_network

    network = temporal_shift_network()
    path = tmp_path_factory.mktemp("sound") / "a.h5"
    x = digits_like_inputs(SAMPLES, network)
    recorded.write(path, network, fast.run(network, x), x)
    return network, path.read_bytes()
