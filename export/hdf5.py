"""HDF5 files from strangers: links are not followed, nothing is executed, sizes are checked before anything is read.

Our own files hold texts of fixed length only: HDF5 keeps others in a heap, and a damaged heap can send its library into
an endless loop. Files that need the heap (NIR) are read in a process of their own, see `export.hdf5_tree`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from train.errors import UserError

MAX_PARTS = 100_000  # members of one group
DAMAGE = (OSError, KeyError, ValueError, TypeError, RuntimeError, OverflowError, AttributeError)


@contextmanager
def open_stranger(path: Path, kind: str, hint: str = "") -> Iterator[h5py.File]:
    """Open `path` for reading; whatever goes wrong inside the block is one line that names the file.

    Args:
        kind: what the file should be, for messages: "a network file".
        hint: how to make such a file, when there is none.

    Raises:
        UserError: missing, not HDF5, truncated, or refused inside the block.
    """
    if not path.is_file():
        raise UserError("no such file", where=str(path), hint=hint)
    try:
        with h5py.File(path, "r") as file:
            yield file
    except UserError as error:
        where = ": ".join(part for part in (str(path), error.where) if part)
        raise UserError(error.what, where=where, hint=error.hint) from error
    except DAMAGE as error:
        raise UserError(f"damaged, or not {kind}: {first_line(error)}", where=str(path)) from error


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its type where it has none."""
    return (str(error).splitlines() or [""])[0] or type(error).__name__


def fixed_text(text: str) -> np.bytes_:
    """A text as a fixed-length HDF5 attribute (which cannot be empty: a zero byte is cut off on reading)."""
    return np.bytes_(text.encode() or b"\0")


def read_text(attrs: h5py.AttributeManager, key: str) -> str:
    """A text attribute of fixed length (KeyError, TypeError, UnicodeDecodeError when it is not there or not one)."""
    if attrs.get_id(key).dtype.kind != "S":  # asked before the value: one of variable length lies in the heap
        raise TypeError(f"attribute {key!r} is not a text of fixed length")
    value = attrs[key]
    if not isinstance(value, bytes):
        raise TypeError(f"attribute {key!r} is not a text")
    return value.decode()


def hard(parent: h5py.Group, key: str) -> Any:
    """The member `key`, refused when it is a link to somewhere else (another file, say)."""
    if not isinstance(parent.get(key, getlink=True), h5py.HardLink):
        raise UserError(f"{key[:80]!r} is missing, or a link, which this program does not follow")
    return parent[key]


def members(file: h5py.File, name: str) -> list[tuple[str, h5py.Group]]:
    """The groups under /name by their `order` (those without one keep the file's order); none without /name."""
    if name not in file:
        return []
    parent = hard(file, name)
    if len(parent) > MAX_PARTS:
        raise UserError(f"{len(parent)} {name}, limit {MAX_PARTS}")
    return sorted(((key, hard(parent, key)) for key in parent), key=lambda item: int(item[1].attrs.get("order", 0)))


def array(group: h5py.Group, key: str, kinds: str, max_elements: int) -> Any:
    """The dataset `key`, of a dtype whose kind is one of `kinds` and of at most `max_elements`."""
    dataset = hard(group, key)
    place = f"{group.name}/{key}"
    if not isinstance(dataset, h5py.Dataset) or dataset.dtype.kind not in kinds:
        raise UserError(f"{place} is not a dataset of the expected type")
    check_stored(dataset, place, max_elements)
    return np.asarray(dataset[()])


def check_stored(dataset: h5py.Dataset, place: str, max_elements: int) -> None:
    """Refuse a dataset that is too large, or whose data lie in another file."""
    if dataset.size is None or dataset.size > max_elements:
        raise UserError(f"{place} has {dataset.size} elements, limit {max_elements}")
    if dataset.external or dataset.is_virtual:
        raise UserError(f"{place} keeps its data in another file")
