"""The parts of a netx HDF5 file as arrays and texts, read as data from strangers: sizes first, hard links only."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

import h5py
import numpy as np

from export import limits
from export.network import Ints
from train.errors import UserError

MAX_BYTES = 2 << 30  # of all arrays together
MAX_PARTS = 100_000
MAX_DEPTH = 8
MAX_TEXT = 1000

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]
Tree: TypeAlias = dict[str, Array]  # path without leading slash -> array; texts are arrays of str


def read_tree(path: Path) -> Tree:
    """Every dataset of a file.

    Raises:
        UserError: missing, damaged, too large, or with links to elsewhere; one line that names the file.
    """
    if not path.is_file():
        raise UserError("no such file", where=str(path))
    try:
        with h5py.File(path, "r") as file:
            return dict(_walk(file, "", _Budget(), 0))
    except UserError as error:
        raise UserError(error.what, where=str(path)) from error
    except Exception as error:  # whatever h5py and numpy make of a damaged file
        reason = (str(error).splitlines() or [""])[0] or type(error).__name__
        raise UserError(f"damaged, or not a netx file: {reason}", where=str(path)) from error


class _Budget:
    """Parts and bytes read so far; more than the limits are refused."""

    def __init__(self) -> None:
        self.parts, self.bytes = 0, 0

    def spend(self, size: int, place: str) -> None:
        self.parts, self.bytes = self.parts + 1, self.bytes + size
        if self.parts > MAX_PARTS:
            raise UserError(f"more than {MAX_PARTS} parts")
        if self.bytes > MAX_BYTES:
            raise UserError(f"{place} makes it {self.bytes} bytes, limit {MAX_BYTES}")


def _walk(group: h5py.Group, prefix: str, budget: _Budget, depth: int) -> Iterator[tuple[str, Array]]:
    if depth > MAX_DEPTH:
        raise UserError(f"groups nested deeper than {MAX_DEPTH}")
    for key in group:
        place = f"{prefix}{key}"
        if not isinstance(group.get(key, getlink=True), h5py.HardLink):
            raise UserError(f"{place[:80]!r} is a link, which this program does not follow")
        member = group[key]
        if isinstance(member, h5py.Group):
            budget.spend(0, place)
            yield from _walk(member, f"{place}/", budget, depth + 1)
        elif isinstance(member, h5py.Dataset):
            yield place, _dataset(member, place, budget)
        else:
            raise UserError(f"{place[:80]!r} is neither a group nor a dataset")


def _dataset(dataset: h5py.Dataset, place: str, budget: _Budget) -> Array:
    if dataset.size is None or dataset.external or dataset.is_virtual:
        raise UserError(f"{place} is empty, or keeps its data in another file")
    if h5py.check_string_dtype(dataset.dtype) is not None:
        if dataset.size > 1:
            raise UserError(f"{place} holds {dataset.size} texts, expected one")
        budget.spend(MAX_TEXT, place)
        text = str(np.asarray(dataset.asstr("ascii")[()], dtype=object).reshape(-1)[0])
        if len(text) > MAX_TEXT:
            raise UserError(f"{place} holds a text of {len(text)} characters, limit {MAX_TEXT}")
        return np.array(text)
    if dataset.dtype.kind not in "biuf":
        raise UserError(f"{place} has dtype {dataset.dtype}, expected numbers or a text")
    budget.spend(dataset.nbytes, place)
    return np.asarray(dataset[()])


class Part:
    """The members of one group, and which of them nobody has asked for."""

    def __init__(self, tree: Tree, where: str) -> None:
        self.tree, self.where = tree, where
        self.unread = {key.split("/")[0] for key in tree}

    def part(self, key: str) -> Part:
        """The members of the group `key`, none where there is no such group."""
        self.unread.discard(key)
        start = f"{key}/"
        inner = {name.removeprefix(start): value for name, value in self.tree.items() if name.startswith(start)}
        return Part(inner, f"{self.where} {key}".strip())

    def text(self, key: str) -> str:
        """One text."""
        value = self._value(key)
        if value is None or value.dtype.kind != "U" or value.size != 1:
            raise UserError(f"{key} is not a text", where=self.where)
        return str(value.reshape(-1)[0])

    def whole(self, key: str) -> Ints | None:
        """Whole numbers, None where the file has none."""
        value = self._value(key)
        if value is None:
            return None
        if value.dtype.kind not in "biuf" or not value.size:
            raise UserError(f"{key} of shape {value.shape} and dtype {value.dtype}, expected numbers", where=self.where)
        if value.dtype.kind == "f" and not (np.isfinite(value).all() and np.array_equal(value, np.rint(value))):
            raise UserError(f"{key} holds values that are not whole numbers", where=self.where)
        if np.abs(value.astype(np.float64)).max() > limits.STATE_LIMIT:
            raise UserError(f"{key} holds values beyond 24 bits", where=self.where)
        return value.astype(np.int64)

    def needed(self, key: str) -> Ints:
        """Whole numbers that must be there."""
        value = self.whole(key)
        if value is None:
            raise UserError(f"has no {key}", where=self.where)
        return value

    def number(self, key: str, default: int | None = None) -> int | None:
        """One whole number (or many equal ones)."""
        value = self.whole(key)
        if value is None:
            return default
        if value.min() != value.max():
            raise UserError(f"{key} differs between neurons, {value.min()}..{value.max()}", where=self.where)
        return int(value.reshape(-1)[0])

    def pair(self, key: str) -> tuple[int, int]:
        """(height, width), of one number or two."""
        values = self.needed(key).reshape(-1)
        if values.size > 2:
            raise UserError(f"{key} has {values.size} numbers, expected 2", where=self.where)
        return int(values[0]), int(values[-1])

    def finish(self, ignored: frozenset[str]) -> None:
        """Refuse what nobody asked for and is not known to mean nothing."""
        left = sorted(self.unread - ignored)
        if left:
            raise UserError(f"{left[0][:80]!r} is not understood", where=self.where)

    def _value(self, key: str) -> Array | None:
        self.unread.discard(key)
        return self.tree.get(key)
