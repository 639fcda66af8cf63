"""Finding and reading published files: what is missing is named, sizes are checked before memory is taken."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from train.data.catalogue import Entry
from train.errors import UserError


def find_folder(data_dir: Path | None, entry: Entry) -> Path:
    """The folder of a data set by its published name: in `data_dir`, or `data_dir` itself, or what begins with it.

    For `MNIST/raw` these are `data_dir/MNIST/raw`, a `data_dir` that ends in `MNIST/raw`, and one that ends in `MNIST`.

    A folder of another name is not tried: MNIST and Fashion-MNIST have the same file names.

    Raises:
        UserError: no data folder was given, or the data set is not in it.
    """
    if data_dir is None:
        raise UserError(
            f"data set {entry.spec.name!r} is read from a folder",
            hint=f"give --data-dir, the folder that holds {' or '.join(entry.folders)}; published at {entry.page}",
        )
    given = data_dir.resolve().parts
    for parts in (Path(name).parts for name in entry.folders):
        for held in range(len(parts) + 1):  # how many of the name's parts data_dir ends in
            folder = data_dir.joinpath(*parts[held:])
            if given[len(given) - held :] == parts[:held] and folder.is_dir():
                return folder
    raise UserError(
        f"data set {entry.spec.name!r} not found: no folder {' or '.join(entry.folders)} in it",
        where=str(data_dir),
        hint=f"unpack it there; published at {entry.page}",
    )


def missing(path: Path, entry: Entry) -> UserError:
    """The error for a published file that is not where it should be."""
    return UserError(f"data set {entry.spec.name!r}: no such file", where=str(path), hint=f"published at {entry.page}")


@contextmanager
def published_at(page: str) -> Iterator[None]:
    """Errors about a file that are raised inside also name the page that publishes it ("" for none)."""
    try:
        yield
    except UserError as error:
        if not page or not error.where or page in error.hint:
            raise
        hint = "; ".join(filter(None, (error.hint, f"published at {page}")))
        raise UserError(error.what, where=error.where, hint=hint) from error


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
