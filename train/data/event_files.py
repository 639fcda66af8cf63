"""Event files, read with tonic and checked for what tonic leaves out: cut-off files, invalid events, other packets."""

from __future__ import annotations

import importlib
import struct
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from train.data.events import Events
from train.errors import UserError

MAX_BYTES = 1 << 31
MAX_NMNIST_BYTES = 1 << 18  # a recording has some 20 kB; tonic takes quadratic time on a file of overflow marks
POLARITY_PACKET, EVENT_BYTES, PACKET_HEADER = 1, 8, 28
TIME_BITS = 31  # of AEDAT 3.1; how often it wrapped is in the packet's header


@cache
def _tonic() -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its audio libraries
            return importlib.import_module("tonic.io")
    except ImportError as error:
        raise UserError(
            f"event files need tonic: {error}", hint="install the extra: pip install spikeproof[events]"
        ) from error


def read_nmnist(path: Path) -> Events:
    """N-MNIST's .bin: 40 bits per event, x, y, polarity and 23 bits of microseconds (Orchard et al. 2015).

    Raises:
        UserError: missing, or not a whole number of events.
    """
    size = _size(path, MAX_NMNIST_BYTES)
    if size % 5:
        raise UserError(f"{size} bytes, not a whole number of 5-byte events: the file is cut off", where=str(path))
    found = _call(path, "read_mnist_file", path, dtype=np.dtype([(name, np.int64) for name in "xytp"]))
    return Events(found["x"], found["y"], found["t"], found["p"])


def read_cifar10_dvs(path: Path) -> Events:
    """AEDAT 2.0 of a DVS128 as in CIFAR10-DVS: 32-bit big-endian address and microseconds (Li et al. 2017).

    The sensor was mounted turned: x = 127 - (address >> 8), y = 127 - (address >> 1), polarity inverted, as in
    SpikingJelly and the works that use it.

    Raises:
        UserError: missing, not AEDAT 2.0, or cut off.
    """
    start = _header(path, "2.0")
    rest = _size(path) - start
    if rest % EVENT_BYTES:
        raise UserError(f"{rest} bytes of events, not a multiple of {EVENT_BYTES}: cut off", where=str(path))
    raw = _call(path, "get_aer_events_from_file", path, 2.0, start)
    address = raw["address"].astype(np.int64)
    t = raw["timeStamp"].astype(np.int64)
    return Events(127 - (address >> 8 & 127), 127 - (address >> 1 & 127), t, 1 - (address & 1))


def read_gesture(path: Path) -> Events:
    """AEDAT 3.1 as in DVS128 Gesture (Amir et al. 2017): packets of 8-byte events; only valid polarity events count.

    Raises:
        UserError: missing, not AEDAT 3.1, cut off, or with packets of larger events, which a DVS128 cannot make.
    """
    start = _header(path, "3.1")
    kinds, wraps, capacities = _packets(path, start)
    if not len(kinds):
        raise UserError("no packets in it", where=str(path))
    raw = _call(path, "get_aer_events_from_file", path, 3.1, start)
    address = raw["address"].astype(np.int64)
    t = raw["timeStamp"].astype(np.int64) + (np.repeat(wraps, capacities) << TIME_BITS)
    keep = (np.repeat(kinds, capacities) == POLARITY_PACKET) & (address & 1 == 1)
    address, t = address[keep], t[keep]
    return Events(address >> 17 & 0x7FFF, address >> 2 & 0x7FFF, t, address >> 1 & 1)


def _packets(path: Path, start: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Event type, timestamp wraps and number of events of each packet, int64 [packets]."""
    rows, place, end = [], start, _size(path)
    with path.open("rb") as file:
        while place < end:
            file.seek(place)
            header = file.read(PACKET_HEADER)
            if len(header) < PACKET_HEADER:
                raise UserError(f"cut off in the packet header at byte {place}", where=str(path))
            kind, _, size, _, wraps, capacity = struct.unpack("<HHIIII", header[:20])
            if size != EVENT_BYTES:
                raise UserError(f"packet of {size}-byte events at byte {place}, expected 8", where=str(path))
            place += PACKET_HEADER + capacity * size
            if place > end:
                raise UserError(
                    f"cut off: a packet of {capacity} events ends at byte {place} of {end}", where=str(path)
                )
            rows.append((kind, wraps, capacity))
    table = np.array(rows, dtype=np.int64).reshape(-1, 3)
    return table[:, 0], table[:, 1], table[:, 2]


def _header(path: Path, version: str) -> int:
    """Where the events start: behind the lines that begin with '#'; the first names the version."""
    _size(path)
    with path.open("rb") as file:
        line = file.readline(256)
        if line.strip() != f"#!AER-DAT{version}".encode():
            raise UserError(f"does not start with #!AER-DAT{version}", where=str(path))
        while line.startswith(b"#"):
            start = file.tell()
            if line.strip() == b"#!END-HEADER" or file.read(1) != b"#":
                return start
            file.seek(start)
            line = file.readline(1 << 16)
    return start


def _size(path: Path, limit: int = MAX_BYTES) -> int:
    if not path.is_file():
        raise UserError("no such file", where=str(path))
    size = path.stat().st_size
    if size > limit:
        raise UserError(f"{size} bytes, limit {limit}", where=str(path))
    return size


def _call(path: Path, name: str, *arguments: Any, **options: Any) -> Any:
    """A reader of tonic; what it raises becomes a message."""
    reader = getattr(_tonic(), name)
    try:
        return reader(*arguments, **options)
    except (ValueError, IndexError, OSError, struct.error, OverflowError, MemoryError) as error:
        raise UserError(f"cannot be read as events: {error}", where=str(path)) from error
