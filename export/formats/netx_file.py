"""The parts of a netx HDF5 file: one group's members by name, checked as they are asked for."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np

from export import limits
from export.hdf5_tree import Tree
from export.network import Ints
from train.errors import UserError

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]


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
