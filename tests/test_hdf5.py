"""HDF5 files from strangers: plain arrays or one clear error, within limits, whatever the file does to its library."""

from __future__ import annotations

import time
from pathlib import Path

import h5py
import numpy as np
import pytest

from export import hdf5_tree
from export.hdf5 import fixed_text, open_stranger, read_text
from export.hdf5_tree import read_tree
from train.errors import UserError


def test_arrays_and_texts_come_back(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["group/inner/x"] = np.arange(6).reshape(2, 3)
        file["group/flag"] = True
        file.create_dataset("text", data="größe", dtype=h5py.string_dtype())
        file.create_dataset("pairs", data=[["a", "b"], ["c", "longer"]], dtype=h5py.string_dtype())
    tree = read_tree(tmp_path / "a.h5", "a test file")
    assert sorted(tree) == ["group/flag", "group/inner/x", "pairs", "text"]
    np.testing.assert_array_equal(tree["group/inner/x"], [[0, 1, 2], [3, 4, 5]])
    assert str(tree["text"]) == "größe"
    assert tree["pairs"].tolist() == [["a", "b"], ["c", "longer"]]


def test_attributes_come_back_where_they_are_asked_for(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["group/x"] = 1
        file.attrs["kind"] = "größe"
        file["group"].attrs["dt"] = 0.5
        file["group"].attrs["fixed"] = fixed_text("text")
    assert list(read_tree(tmp_path / "a.h5", "a test file")) == ["group/x"]
    tree = read_tree(tmp_path / "a.h5", "a test file", attributes=True)
    assert {key: value.tolist() for key, value in tree.items()} == {
        "/kind": "größe",
        "group//dt": 0.5,
        "group//fixed": "text",
        "group/x": 1,
    }


def damage_heap(path: Path) -> None:
    """Damage a file's heap of texts so that it keeps the HDF5 library busy for ever."""
    content = bytearray(path.read_bytes())
    heap = content.index(b"GCOL")
    content[heap + 16 : heap + 18] = b"\x00\x00"  # the first object is called free space ...
    content[heap + 24 : heap + 32] = bytes(8)  # ... of size 0: the next one is where this one is
    path.write_bytes(content)


def test_an_endless_heap_is_given_up(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("text", data="x" * 40, dtype=h5py.string_dtype())
    damage_heap(tmp_path / "a.h5")
    before = time.monotonic()
    with pytest.raises(UserError, match=r"a\.h5: damaged, or not a test file"):
        read_tree(tmp_path / "a.h5", "a test file", seconds=2)
    assert time.monotonic() - before < 10


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("missing", "no such file"),
        ("empty", "damaged, or not a test file"),
        ("truncated", "damaged, or not a test file"),
        ("link", "a link, which this program does not follow"),
        ("soft", "a link, which this program does not follow"),
        ("elsewhere", "keeps its data in another file"),
        ("huge", "elements, limit"),
        ("many", "bytes, limit"),
        ("loop", "nested deeper than 32"),
        ("compound", "expected numbers or texts"),
        ("long", "a text of 5000 characters, limit 1000"),
    ],
)
def test_what_is_refused(damage: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    if damage == "empty":
        path.write_bytes(b"")
    elif damage != "missing":
        with h5py.File(path, "w") as file:
            file["x"] = np.arange(1000)
            if damage == "link":
                file["y"] = h5py.ExternalLink("/etc/passwd", "/x")
            if damage == "soft":
                file["y"] = h5py.SoftLink("/x")
            if damage == "elsewhere":
                file.create_dataset("y", shape=(4,), dtype="i4", external=[("/etc/passwd", 0, 16)])
            if damage == "huge":
                file.create_dataset("y", shape=(1 << 50,), dtype="f8", chunks=(1024,))
            if damage == "many":
                for index in range(3):
                    file.create_dataset(f"y{index}", shape=(hdf5_tree.MAX_BYTES // 2 - 1,), dtype="i1", chunks=(1024,))
            if damage == "loop":
                file.create_group("a")
                file["a/a"] = file["a"]
            if damage == "compound":
                file["y"] = np.zeros(3, dtype=[("a", "i4"), ("b", "f8")])
            if damage == "long":
                file.create_dataset("y", data="x" * 5000, dtype=h5py.string_dtype())
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(UserError, match=message) as caught:
        read_tree(path, "a test file")
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_a_text_of_variable_length_is_refused_in_our_own_files(tmp_path: Path) -> None:
    """It would lie in the heap that cannot be trusted."""
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.attrs["good"] = fixed_text("good")
        file.attrs["bad"] = "bad"
    with open_stranger(tmp_path / "a.h5", "a test file") as file:
        assert read_text(file.attrs, "good") == "good"
    with (
        pytest.raises(UserError, match="'bad' is not a text of fixed length"),
        open_stranger(tmp_path / "a.h5", "a test file") as file,
    ):
        read_text(file.attrs, "bad")
