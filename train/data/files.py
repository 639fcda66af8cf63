"""Finding and reading published files: what is missing is named, sizes are checked before memory is taken."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

from train.data.catalogue import Entry
from train.errors import UserError


def find_folder(data_dir: Path | None, entry: Entry) -> Path:
    """The folder of a data set: `data_dir/<its published name>`, or `data_dir` itself where it has that name.

    A folder of another name is not tried: MNIST and Fashion-MNIST have the same file names.

    Raises:
        UserError: no data folder was given, or the data set is not in it.
    """
    if data_dir is None:
        raise UserError(
            f"data set {entry.spec.name!r} is read from a folder",
            hint=f"give --data-dir, the folder that holds {' or '.join(entry.folders)}; published at {entry.page}",
        )
    for name in entry.folders:
        if (data_dir / name).is_dir():
            return data_dir / name
    tail = data_dir.resolve().parts
    if data_dir.is_dir() and any(tail[-len(Path(name).parts) :] == Path(name).parts for name in entry.folders):
        return data_dir
    raise UserError(
        f"data set {entry.spec.name!r} not found: no folder {' or '.join(entry.folders)} in it",
        where=str(data_dir),
        hint=f"unpack it there; published at {entry.page}",
    )


def missing(path: Path, entry: Entry) -> UserError:
    """The error for a published file that is not where it should be."""
    return UserError(f"data set {entry.spec.name!r}: no such file", where=str(path), hint=f"published at {entry.page}")


def read_at_most(path: Path, limit: int) -> bytes:
    """A file's bytes, unpacked where its name ends in .gz; never more than `limit` + 1, whatever the file claims.

    Raises:
        UserError: the file cannot be read, or its gzip stream is damaged or cut off.
    """
    try:
        if path.suffix == ".gz":
            with gzip.open(path, "rb") as stream:
                return stream.read(limit + 1)
        with path.open("rb") as plain:
            return plain.read(limit + 1)
    except EOFError as error:
        raise UserError("the gzip stream is cut off", where=str(path), hint="fetch the file again") from error
    except (OSError, zlib.error) as error:
        raise UserError(f"cannot be read: {error}", where=str(path)) from error
