"""All arrays and texts of an HDF5 file from a stranger, read in a process of its own with limits on time and memory.

A damaged heap of texts sends the HDF5 library into an endless loop, and other damage can crash it; neither may take
this program along. The child (this file, run as a script) writes plain arrays to an .npz, nothing else comes back.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import h5py
import numpy as np

from export.hdf5 import MAX_PARTS, check_stored, hard, open_stranger
from train.errors import UserError

Tree: TypeAlias = dict[str, np.ndarray[Any, Any]]  # path without leading slash -> array; texts are arrays of str
Part: TypeAlias = "h5py.Dataset | _Attribute"

MAX_BYTES = 2 << 30  # of all arrays together, uncompressed
MAX_TEXT = 1000  # characters of one text
MAX_DEPTH = 32  # groups in groups
EXTRA_MEMORY = 3 << 30  # address space of Python and its libraries, beyond the arrays
BYTES_PER_SECOND = 10_000_000  # slower reading than this is taken for an endless loop
START_SECONDS = 20.0


def read_tree(path: Path, kind: str, seconds: float | None = None, *, attributes: bool = False) -> Tree:
    """Every dataset of a file.

    Args:
        kind: what the file should be, for messages: "a NIR file".
        seconds: time limit; by default 20 s and what 10 MB/s take.
        attributes: those of groups too, each as group//name (/name in the root), which no dataset can be called.

    Raises:
        UserError: missing, damaged, too large, or not read within the limit.
    """
    if not path.is_file():
        raise UserError("no such file", where=str(path))
    limit = START_SECONDS + path.stat().st_size / BYTES_PER_SECOND if seconds is None else seconds
    with tempfile.TemporaryDirectory(prefix="spikeproof-hdf5-") as name:
        target = Path(name) / "tree.npz"
        command = [sys.executable, "-m", "export.hdf5_tree", str(path.resolve()), str(target), kind]
        command += ["attributes"] if attributes else []
        try:
            done = subprocess.run(
                command, cwd=name, env=_environment(), capture_output=True, timeout=limit, stdin=subprocess.DEVNULL
            )
        except subprocess.TimeoutExpired as error:
            raise UserError(
                f"damaged, or not {kind}: the HDF5 library did not finish it in {limit:g} s", where=str(path)
            ) from error
        if done.returncode == 2:
            what, hint = json.loads(done.stdout)
            raise UserError(what, where=str(path), hint=hint)
        if done.returncode != 0 or not target.is_file():
            raise UserError(f"damaged, or not {kind}: the HDF5 library cannot read it", where=str(path))
        with np.load(target, allow_pickle=False) as arrays:
            return {str(key): arrays[f"a{index}"] for index, key in enumerate(arrays["names"])}


def _environment() -> dict[str, str]:
    """The child's environment: this source tree importable from any folder."""
    root = str(Path(__file__).resolve().parents[1])
    path = os.pathsep.join(part for part in (root, os.environ.get("PYTHONPATH", "")) if part)
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def read_here(path: Path, kind: str, *, attributes: bool = False) -> Tree:
    """As `read_tree`, in this process: for files that are known to be sound.

    Raises:
        UserError: as there, but for the limits on time and memory.
    """
    with open_stranger(path, kind) as file:
        found = dict(_walk(file, "", _Budget(attributes), 0))  # all sizes are checked before the first array is read
        return {place: _plain(part, place) for place, part in found.items()}


def _main(source: str, target: str, kind: str, *more: str) -> int:
    _limit_memory()
    try:
        found = read_here(Path(source), kind, attributes="attributes" in more)
    except MemoryError:
        print(json.dumps([f"damaged, or not {kind}: reading it takes more memory than {MAX_BYTES} bytes", ""]))
        return 2
    except UserError as error:
        print(json.dumps([error.what, error.hint]))
        return 2
    arrays: dict[str, Any] = {f"a{index}": array for index, array in enumerate(found.values())}
    np.savez(target, names=np.array(list(found), dtype=np.str_), **arrays)
    return 0


def _limit_memory() -> None:
    with contextlib.suppress(ImportError, ValueError, OSError):  # not on every system
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MAX_BYTES + EXTRA_MEMORY,) * 2)


@dataclass(frozen=True, eq=False)
class _Attribute:
    """A value that is kept with a group."""

    group: h5py.Group
    name: str

    @property
    def dtype(self) -> np.dtype[Any]:
        """As stored, asked without reading the value."""
        dtype: np.dtype[Any] = self.group.attrs.get_id(self.name).dtype
        return dtype


class _Budget:
    """Parts and bytes read so far; spending more than there are is refused."""

    def __init__(self, attributes: bool) -> None:
        self.attributes = attributes
        self.parts, self.bytes = 0, 0

    def spend(self, size: int, place: str) -> None:
        self.parts, self.bytes = self.parts + 1, self.bytes + size
        if self.parts > MAX_PARTS:
            raise UserError(f"more than {MAX_PARTS} parts")
        if self.bytes > MAX_BYTES:
            raise UserError(f"its arrays up to {place} have {self.bytes} bytes, limit {MAX_BYTES}")


def _walk(group: h5py.Group, prefix: str, budget: _Budget, depth: int) -> Iterator[tuple[str, Part]]:
    if depth > MAX_DEPTH:
        raise UserError(f"groups nested deeper than {MAX_DEPTH}")
    if budget.attributes:
        yield from _attributes(group, prefix, budget)
    for key in group:
        place = f"{prefix}{key}"
        if len(place) > MAX_TEXT:
            raise UserError(f"a name of {len(place)} characters, limit {MAX_TEXT}")
        member = hard(group, key)
        if isinstance(member, h5py.Group):
            budget.spend(0, place)
            yield from _walk(member, f"{place}/", budget, depth + 1)
        elif isinstance(member, h5py.Dataset):
            check_stored(member, place, 2 * MAX_PARTS if _is_text(member.dtype, place) else MAX_BYTES)
            budget.spend(member.nbytes, place)
            yield place, member
        else:
            raise UserError(f"{place} is neither a group nor a dataset")


def _attributes(group: h5py.Group, prefix: str, budget: _Budget) -> Iterator[tuple[str, _Attribute]]:
    for name in group.attrs:
        place = f"{prefix}/{name}"
        stored = group.attrs.get_id(name)
        budget.spend(stored.get_storage_size(), place)
        _is_text(stored.dtype, place)
        if len(place) > MAX_TEXT or int(np.prod(stored.shape, dtype=float)) > MAX_TEXT:
            raise UserError(f"{place[:80]}: an attribute whose name or value is longer than {MAX_TEXT}")
        yield place, _Attribute(group, name)


def _is_text(dtype: np.dtype[Any], place: str) -> bool:
    """Whether it holds texts; refused unless they are that or numbers."""
    text = h5py.check_string_dtype(dtype) is not None
    if not text and dtype.kind not in "biuf":
        raise UserError(f"{place} has dtype {dtype}, expected numbers or texts")
    return text


def _plain(part: Part, place: str) -> np.ndarray[Any, Any]:
    """The value of a dataset or an attribute."""
    if h5py.check_string_dtype(part.dtype) is None:
        return np.asarray(part[()] if isinstance(part, h5py.Dataset) else part.group.attrs[part.name])
    if isinstance(part, h5py.Dataset):
        texts = np.asarray(part.asstr()[()], dtype=object)
    else:
        value = part.group.attrs[part.name]
        texts = np.asarray(value.decode() if isinstance(value, bytes) else value, dtype=object)
    longest = max((len(value) for value in texts.flat), default=0)
    if longest > MAX_TEXT:
        raise UserError(f"{place} holds a text of {longest} characters, limit {MAX_TEXT}")
    return texts.astype(np.str_)


if __name__ == "__main__":
    sys.exit(_main(*sys.argv[1:]))
