"""Inputs of a simulation: from the run's data set or from a user's file, checked against the network."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from export.network import Ints, Network, Source
from export.shapes import without_ones
from train.errors import UserError

MAX_BYTES = 8 << 30  # of an array in INPUTS.npz, uncompressed


@dataclass(frozen=True, eq=False)
class Inputs:
    """Samples that are read when they are needed.

    Attributes:
        read: some of them, int64 [samples, T, *shape] of raw values.
        labels: int64 [samples], or None.
    """

    read: Callable[[slice], Ints]
    samples: int
    labels: Ints | None

    def first(self, samples: int) -> Inputs:
        """Only the first ones."""
        return Inputs(self.read, samples, None if self.labels is None else self.labels[:samples])


def read(path: Path, network: Network) -> Inputs:
    """INPUTS.npz: x (samples, T, *shape), or (samples, *shape) for constant inputs, whole numbers; optional y.

    Raises:
        UserError: missing, not an npz, too large, or not what the network takes.
    """
    if not path.is_file():
        raise UserError("no such file", where=str(path))
    try:
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                if entry.file_size > MAX_BYTES:
                    raise UserError(f"{entry.filename} has {entry.file_size} bytes, limit {MAX_BYTES}", where=str(path))
        with np.load(path, allow_pickle=False) as arrays:
            if "x" not in arrays:
                raise UserError(f"no array 'x' in it, only {sorted(arrays)}", where=str(path))
            x, y = arrays["x"], arrays.get("y")
    except (OSError, ValueError, zipfile.BadZipFile, EOFError, KeyError) as error:
        raise UserError(f"not an .npz file of arrays: {error}", where=str(path)) from error
    given = payloads(x, network, str(path))
    return Inputs(given.__getitem__, len(given), None if y is None else _labels(y, len(x), str(path)))


def payloads(x: np.ndarray, network: Network, where: str) -> Ints:
    """`x` as int64 [samples, T, *shape] of raw values, checked; engines code them as the network's input says.

    Axes of size 1 may be left out or added.

    Raises:
        UserError: wrong shape, values that are not whole numbers, or outside the input's payload bits.
    """
    program = network.source.program
    assert isinstance(program, Source)
    shape = program.raw_shape(network.source.shape)
    if x.ndim == len(shape) + 1 and x.shape[1:] == shape:
        x = np.repeat(x[:, None], network.steps, axis=1)
    expected = (network.steps, *shape)
    if x.shape[1:2] == expected[:1] and without_ones(x.shape[2:]) == without_ones(shape):
        x = x.reshape(len(x), *expected)
    if x.ndim != len(expected) + 1 or x.shape[1:] != expected or not len(x):
        raise UserError(f"x of shape {x.shape}, expected (samples, {', '.join(map(str, expected))})", where=where)
    if x.dtype.kind not in "biuf":
        raise UserError(f"x has dtype {x.dtype}, expected numbers", where=where)
    if x.dtype.kind == "f" and not (np.isfinite(x).all() and np.array_equal(x, np.rint(x))):
        raise UserError("x holds values that are not whole numbers", where=where, hint="give raw integer pixels")
    low, high, limit = float(x.min()), float(x.max()), 1 << program.payload_bits
    if low < 0 or high >= limit:
        raise UserError(f"x holds values {low:g}..{high:g}, allowed 0..{limit - 1}", where=where)
    return x.astype(np.int64)


def _labels(y: np.ndarray, samples: int, where: str) -> Ints:
    if y.shape != (samples,) or y.dtype.kind not in "iu":
        raise UserError(f"y of shape {y.shape} and dtype {y.dtype}, expected {samples} integers", where=where)
    return y.astype(np.int64)
