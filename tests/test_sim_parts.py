"""Simulations in parts: counts of parts are those of the whole, on one process and on two."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path

import h5py
import numpy as np
import pytest
from conftest import digits_like_inputs, temporal_shift_network

from export import execute
from export.network import Network
from export.store import write_network
from sim import activity, equivalence, fast, parts
from sim.command import simulate
from sim.float_model import LayerAgreement, joined
from sim.probe import Probe
from sim.recording import Recording
from train import distributed, runs
from train.errors import UserError

ROOT = Path(__file__).resolve().parents[1]


def cut(recording: Recording, part: slice) -> Recording:
    spikes = {name: x[part] for name, x in recording.spikes.items()}
    return Recording(recording.engine, spikes, {name: x[part] for name, x in recording.membrane.items()})


@pytest.mark.parametrize("flipped", [None, (2, 1), (6, 0)])
@pytest.mark.parametrize("size", [1, 3, 7, 100])
def test_parts_give_what_the_whole_gives(size: int, flipped: tuple[int, int] | None, shift_network: Network) -> None:
    """Counts, and the place of the first difference."""
    x = digits_like_inputs(7, shift_network)
    ours = fast.run(shift_network, x)
    theirs = fast.run(shift_network, x)
    if flipped is not None:
        theirs.spikes["conv2"][flipped][0, 0, 0] ^= True
    found = [
        parts.Part(
            samples=len(x[part]),
            comparisons=(equivalence.part(shift_network, cut(ours, part), cut(theirs, part), x[part]),),
            populations=activity.populations(shift_network, cut(ours, part), x[part]),
            floats=(LayerAgreement("conv2", len(x[part]), 1, 5, 2, 3),),
            probe=Probe(1, False, 1, 1, (), None) if part.start == 0 else None,
            accuracy={"integer": (1, len(x[part]))},
        )
        for part in parts.cuts(len(x), size)
    ]
    whole = parts.joined(found)
    expected = equivalence.compare(shift_network, ours, theirs, x)
    assert whole.comparisons == (expected,)
    assert expected.equal is (flipped is None)
    counts = activity.measure(shift_network, ours, x, {})
    complete = activity.complete(shift_network, "integer", whole.populations, whole.samples, {})
    assert complete.connections == counts.connections
    for a, b in zip(complete.populations, counts.populations, strict=True):
        for name, value in asdict(b).items():
            np.testing.assert_array_equal(asdict(a)[name], value)
    assert whole.floats == (LayerAgreement("conv2", 7, *(n * len(found) for n in (1, 5, 2, 3))),)
    assert whole.probe == found[0].probe
    assert whole.accuracy == {"integer": (len(found), 7)}


def test_agreement_is_a_fraction_of_all() -> None:
    whole = joined([LayerAgreement("a", 10, 5, 3, 1, 2), LayerAgreement("a", 30, 30, 1, 4, 4)])
    assert whole.agreement == 35 / 40
    assert whole.count_distance == 4 / 5


def test_a_part_may_be_silent_but_not_all_of_it(shift_network: Network) -> None:
    x = digits_like_inputs(4, shift_network)
    good = fast.run(shift_network, x)
    for name in good.spikes:
        good.spikes[name][:2] = False
    found = [equivalence.part(shift_network, cut(good, p), cut(good, p), x[p]) for p in parts.cuts(4, 2)]
    assert not found[0].spikes
    assert equivalence.checked(shift_network, equivalence.joined(found)).spikes == found[1].spikes > 0
    with pytest.raises(UserError, match="no spike at all"):
        equivalence.checked(shift_network, equivalence.joined(found[:1]))


def test_batches_are_smaller_where_windows_are_longer(shift_network: Network) -> None:
    assert execute.batch_size(shift_network) == execute.BATCH
    long = temporal_shift_network(steps=60_000)
    assert execute.batch_size(long) == 11


def printed(folder: Path, *launcher: str) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    options = (str(folder), "--input", str(folder / "x.npz"), "--engines", "reference", "onnx", "--lava-samples", "3")
    command = [sys.executable, *launcher, "-m", "sim", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.partition("integer = reference")[2].replace(str(folder), "")


def test_two_processes_give_the_table_of_one(tmp_path: Path, shift_network: Network) -> None:
    """300 samples in two parts: the same table, accuracy, equivalence.json and activity.h5."""
    x, y = digits_like_inputs(300, shift_network), np.random.default_rng(0).integers(0, 10, 300)
    assert len(parts.cuts(300, execute.batch_size(shift_network))) == 2
    launchers = {"one": (), "two": ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")}
    tables = {}
    for name, launcher in launchers.items():
        (tmp_path / name).mkdir()
        write_network(tmp_path / name / runs.NETWORK, shift_network)
        np.savez(tmp_path / name / "x.npz", x=x, y=y)
        tables[name] = printed(tmp_path / name, *launcher)
    assert tables["one"] == tables["two"]
    assert tables["one"].count("accuracy") == 1
    one, two = (json.loads((tmp_path / name / runs.EQUIVALENCE).read_text()) for name in tables)
    assert one == two
    assert [c["samples"] for c in one["comparisons"]] == [3, 300]
    with h5py.File(tmp_path / "one" / runs.ACTIVITY) as first, h5py.File(tmp_path / "two" / runs.ACTIVITY) as second:
        names: list[str] = []
        first.visit(names.append)
        assert names
        for name in names:
            assert dict(first[name].attrs) == dict(second[name].attrs)
            if isinstance(first[name], h5py.Dataset):
                np.testing.assert_array_equal(first[name][...], second[name][...])


def test_a_recording_is_for_one_process(
    tmp_path: Path, shift_network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_network(tmp_path / runs.NETWORK, shift_network)
    np.savez(tmp_path / "x.npz", x=digits_like_inputs(4, shift_network))
    monkeypatch.setattr(distributed, "join", lambda cpu: nullcontext(distributed.Processes(0, 2)))
    with pytest.raises(UserError, match="a recording is read and written by one process"):
        simulate(tmp_path, ["integer"], None, 1, tmp_path / "x.npz", 1.0, record=tmp_path / "record")
