"""NIR files from strangers: whatever is wrong with one is one line that names it; exit code 2 at the command line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import nir
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from export.formats import nir_file
from export.formats.nir_presets import Meaning
from export.formats.nir_reader import read_nir
from export.graph import Graph
from export.hdf5_tree import read_here
from train.errors import UserError

HOW = Meaning(1e-4).discretisation(5, 3)


def sound(path: Path) -> None:
    """A small file that is read: a convolution, a matrix, a loop."""
    image, flat = (2, 3, 3), (4,)

    def lif(shape: tuple[int, ...]) -> nir.LIF:
        full = np.ones(shape)
        return nir.LIF(2e-4 * full, 2 * full, 0 * full, full, 0 * full)

    nodes = {
        "input": nir.Input({"input": np.array([1, 3, 3])}),
        "conv": nir.Conv2d((3, 3), np.ones((2, 1, 3, 3)), (1, 1), (1, 1), (1, 1), 1, np.zeros(2)),
        "lif1": lif(image),
        "flatten": nir.Flatten({"input": np.array(image)}, 0, -1),
        "fc": nir.Affine(np.ones((4, 18)), np.zeros(4)),
        "lif2": lif(flat),
        "rec": nir.Linear(np.eye(4)),
        "output": nir.Output({"output": np.array(flat)}),
    }
    edges = [
        ("input", "conv"),
        ("conv", "lif1"),
        ("lif1", "flatten"),
        ("flatten", "fc"),
        ("fc", "lif2"),
        ("lif2", "rec"),
        ("rec", "lif2"),
        ("lif2", "output"),
    ]
    nir.write(path, nir.NIRGraph(nodes, edges, type_check=False))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("nir") / "sound.nir"
    sound(path)
    assert len(read_nir(path, HOW).nodes) > 6
    return path.read_bytes()


def one_line(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        read_nir(path, HOW)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@given(cut=st.floats(0, 0.999))
@settings(max_examples=12, deadline=None, derandomize=True)
def test_truncated(cut: float, written: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("cut") / "a.nir"
    path.write_bytes(written[: int(cut * len(written))])
    assert "damaged, or not a NIR file" in one_line(path)


@given(data=st.data())
@settings(max_examples=25, deadline=None, derandomize=True)
def test_flipped_bytes(data: st.DataObject, written: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    """In the process of its own, with its limits: such a file can send the HDF5 library into an endless loop."""
    path = tmp_path_factory.mktemp("flip") / "a.nir"
    damaged = bytearray(written)
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(damaged)
    try:
        assert isinstance(read_nir(path, HOW), Graph)
    except UserError as error:
        assert "a.nir" in str(error)
        assert "\n" not in str(error)


def replaced(file: h5py.File, key: str, value: Any) -> None:
    if key in file:
        del file[key]
    if value is not None:
        file[key] = value


CHANGES: dict[str, tuple[Callable[[h5py.File], None], str]] = {
    "version text": (lambda f: replaced(f, "version", "banana"), "version 'banana' is not a NIR version"),
    "version far": (lambda f: replaced(f, "version", "9999999.1.1"), "is not a NIR version"),
    "version new": (
        lambda f: replaced(f, "version", "2.0"),
        "version 2.0 of the format, this program reads 0.1",
    ),
    "version number": (lambda f: replaced(f, "version", 7), "is not a NIR version"),
    "no graph": (lambda f: replaced(f, "node", None), "there is no group 'node'"),
    "single node": (lambda f: replaced(f, "node/type", "LIF"), "a single node of type 'LIF'"),
    "no nodes": (lambda f: replaced(f, "node/nodes", None), "an edge ends at"),
    "no edges": (lambda f: replaced(f, "node/edges", None), "has no edges"),
    "edges of numbers": (lambda f: replaced(f, "node/edges", np.ones((3, 2))), "expected pairs of names"),
    "edges of three": (lambda f: replaced(f, "node/edges", [["a", "b", "c"]]), "expected pairs of names"),
    "dangling edge": (lambda f: replaced(f, "node/edges", [["input", "x"]]), "an edge ends at 'x'"),
    "edge twice": (lambda f: replaced(f, "node/edges", [["input", "conv"]] * 2), "from input to conv is there twice"),
    "no type": (lambda f: replaced(f, "node/nodes/fc/type", None), "node fc: has no type"),
    "unknown type": (lambda f: replaced(f, "node/nodes/fc/type", "os.system"), "node fc: node of type 'os.system'"),
    "type a number": (lambda f: replaced(f, "node/nodes/fc/type", 3), "node fc: has no type"),
    "no field": (lambda f: replaced(f, "node/nodes/lif1/tau", None), "node lif1: has no tau"),
    "text": (lambda f: replaced(f, "node/nodes/lif1/tau", "long"), "node lif1: tau is not numbers"),
    "NaN": (lambda f: replaced(f, "node/nodes/fc/weight", np.full((4, 18), np.nan)), "node fc: weight holds NaN"),
    "infinity": (lambda f: replaced(f, "node/nodes/lif2/r", np.full(4, np.inf)), "node lif2: r holds NaN or infinity"),
    "weight of one axis": (
        lambda f: replaced(f, "node/nodes/fc/weight", np.ones(18)),
        "fc: weight of shape (18,)",
    ),
    "weight empty": (
        lambda f: replaced(f, "node/nodes/fc/weight", np.ones((0, 18))),
        "weight of shape (0, 18)",
    ),
    "weight too wide": (lambda f: replaced(f, "node/nodes/fc/weight", np.ones((4, 19))), "its weight is (4, 19)"),
    "bias": (lambda f: replaced(f, "node/nodes/fc/bias", np.ones(3)), "node fc: bias of shape (3,)"),
    "other neurons": (
        lambda f: replaced(f, "node/nodes/lif2/tau", np.ones(3)),
        "tau of shape (3,) for values",
    ),
    "tau 0": (lambda f: replaced(f, "node/nodes/lif2/tau", np.zeros(4)), "tau is 0, must be positive"),
    "stride 0": (lambda f: replaced(f, "node/nodes/conv/stride", [0, 1]), "stride is [0.0, 1.0], allowed 1..4096"),
    "padding": (lambda f: replaced(f, "node/nodes/conv/padding", [-1, 1]), "padding is [-1.0, 1.0], allowed 0..4096"),
    "padding text": (lambda f: replaced(f, "node/nodes/conv/padding", "mirror"), "padding 'mirror', known are"),
    "dilation": (lambda f: replaced(f, "node/nodes/conv/dilation", [1, 1, 1]), "expected 2 whole numbers"),
    "dilation far": (
        lambda f: replaced(f, "node/nodes/conv/dilation", [9, 9]),
        "nothing is left of an input",
    ),
    "groups": (lambda f: replaced(f, "node/nodes/conv/groups", 3), "2 outputs in 3 groups"),
    "groups half": (lambda f: replaced(f, "node/nodes/conv/groups", 0.5), "expected 1 whole numbers"),
    "shape": (lambda f: replaced(f, "node/nodes/input/shape", [1, 2, 3, 3, 3]), "expected (N,), (C, L) or (C, H, W)"),
    "shape huge": (lambda f: replaced(f, "node/nodes/input/shape", [1, 60000, 60000]), "values, limit 16777216"),
    "shape 0": (lambda f: replaced(f, "node/nodes/input/shape", [1, 0, 3]), "allowed 1..16777216"),
    "flatten": (lambda f: replaced(f, "node/nodes/flatten/start_dim", 7), "flattens dimensions"),
    "metadata": (lambda f: f.create_dataset("node/nodes/lif2/metadata/start", data="now"), ""),
    "external": (lambda f: replaced(f, "node/nodes/fc/bias", h5py.ExternalLink("/etc/passwd", "/")), "does not follow"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_wrong_content(change: str, written: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nir_file, "read_tree", read_here)  # sound HDF5: no process of its own
    path = tmp_path / "a.nir"
    path.write_bytes(written)
    make, message = CHANGES[change]
    with h5py.File(path, "r+") as file:
        make(file)
    if message:
        assert message in one_line(path)
    else:
        assert isinstance(read_nir(path, HOW), Graph)
