"""IDX, the file format of MNIST: magic 00 00 08 <dimensions>, big-endian sizes, then bytes (LeCun, Cortes, Burges)."""

from __future__ import annotations

import math
import struct
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from train.data.catalogue import Entry
from train.data.files import missing, read_at_most
from train.data.splits import MemorySplit, check_labels
from train.errors import UserError

UNSIGNED_BYTE = 8
MAX_VALUES = 1 << 30


def read_idx(path: Path, dimensions: int, tail: tuple[int, ...] = ()) -> Tensor:
    """uint8 [N, *tail] of an IDX file (plain or .gz) of unsigned bytes.

    Raises:
        UserError: not such a file, sizes other than [N, *tail], or more or fewer bytes than its sizes say.
    """
    header = 4 + 4 * dimensions
    head = _head(path, header)
    if len(head) < header or head[:2] != b"\0\0" or head[2] != UNSIGNED_BYTE or head[3] != dimensions:
        raise UserError(
            f"starts with {head[:4].hex(' ') or 'nothing'}, expected 00 00 08 {dimensions:02x}: not an IDX file of "
            f"{dimensions} dimension(s) of bytes",
            where=str(path),
        )
    shape = struct.unpack(f">{dimensions}I", head[4:])
    if shape[1:] != tail:
        raise UserError(f"items of shape {list(shape[1:])}, expected {list(tail)}", where=str(path))
    values = math.prod(shape)
    if values > MAX_VALUES:
        raise UserError(f"claims {values} values, limit {MAX_VALUES}", where=str(path))
    content = read_at_most(path, header + values)
    if len(content) != header + values:
        relation = "more than" if len(content) > header + values else f"only {len(content) - header} of"
        raise UserError(f"holds {relation} the {values} values that its header claims", where=str(path))
    return torch.from_numpy(np.frombuffer(content, np.uint8, offset=header).copy().reshape(shape))


def _head(path: Path, size: int) -> bytes:
    return read_at_most(path, size - 1)


def read_pair(folder: Path, prefix: str, entry: Entry) -> MemorySplit:
    """One split of MNIST or Fashion-MNIST: `<prefix>-images-idx3-ubyte` and `<prefix>-labels-idx1-ubyte`, or .gz.

    Raises:
        UserError: a file is missing or damaged, or images and labels differ in number.
    """
    height, width = entry.spec.shape[1:]
    images = read_idx(_plain_or_gz(folder / f"{prefix}-images-idx3-ubyte", entry), 3, (height, width))
    path = _plain_or_gz(folder / f"{prefix}-labels-idx1-ubyte", entry)
    labels = read_idx(path, 1)
    if len(images) != len(labels):
        raise UserError(f"{len(labels)} labels for {len(images)} images", where=str(path))
    return MemorySplit(images.unsqueeze(1), check_labels(labels, entry.spec.classes, str(path)))


def _plain_or_gz(path: Path, entry: Entry) -> Path:
    for candidate in (path, path.with_name(path.name + ".gz")):
        if candidate.is_file():
            return candidate
    raise missing(path.with_name(path.name + "[.gz]"), entry)
