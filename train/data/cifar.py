"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009), binary version: per image its label byte(s), then 3 x 32 x 32 bytes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from train.data.catalogue import Entry
from train.data.cifar_pickle import read_batch
from train.data.files import missing, read_at_most
from train.data.splits import Dataset, MemorySplit, check_labels
from train.errors import UserError

PIXELS = 3 * 32 * 32
MAX_IMAGES = 60000


@dataclass(frozen=True)
class Layout:
    """File names of a version of the data, and where a record has its label (binary) or what its key is (Python)."""

    train: tuple[str, ...]
    test: tuple[str, ...]
    label_bytes: int = 1
    label_key: bytes = b"labels"


BINARY = {
    "cifar10": Layout(tuple(f"data_batch_{i}.bin" for i in range(1, 6)), ("test_batch.bin",)),
    "cifar100": Layout(("train.bin",), ("test.bin",), label_bytes=2),  # coarse label, then the fine one
}
PYTHON = {
    "cifar10": Layout(tuple(f"data_batch_{i}" for i in range(1, 6)), ("test_batch",)),
    "cifar100": Layout(("train",), ("test",), label_key=b"fine_labels"),
}


def load_cifar(folder: Path, entry: Entry) -> Dataset:
    """CIFAR-10 or CIFAR-100 from `folder`, in the binary version or, where that is not there, in the Python version.

    Raises:
        UserError: a file is missing or damaged, or a label is out of range.
    """
    name = entry.spec.name
    binary = (folder / BINARY[name].test[0]).is_file()
    python = (folder / PYTHON[name].test[0]).is_file()
    layout = PYTHON[name] if python and not binary else BINARY[name]

    def split(files: tuple[str, ...]) -> MemorySplit:
        parts = [_read(folder / file, layout, entry) for file in files]
        return MemorySplit(torch.cat([p.frames for p in parts]), torch.cat([p.labels for p in parts]))

    return Dataset(entry.spec, split(layout.train), split(layout.test))


def _read(path: Path, layout: Layout, entry: Entry) -> MemorySplit:
    if not path.is_file():
        raise missing(path, entry)
    if path.suffix == ".bin":
        return read_binary(path, layout.label_bytes, entry)
    pixels, labels = read_batch(path, layout.label_key, MAX_IMAGES)
    frames = torch.from_numpy(pixels).reshape(-1, *entry.spec.shape)
    return MemorySplit(frames, check_labels(torch.tensor(labels), entry.spec.classes, str(path)))


def read_binary(path: Path, label_bytes: int, entry: Entry) -> MemorySplit:
    """One file of the binary version; the last of `label_bytes` is the class.

    Raises:
        UserError: the file is not a whole number of records, has too many, or has a label out of range.
    """
    record = label_bytes + PIXELS
    content = read_at_most(path, MAX_IMAGES * record)
    if not content or len(content) % record or len(content) > MAX_IMAGES * record:
        raise UserError(
            f"{len(content)} bytes, expected 1 to {MAX_IMAGES} records of {record} bytes",
            where=str(path),
            hint="the file is cut off or not the binary version",
        )
    records = np.frombuffer(content, np.uint8).reshape(-1, record)
    frames = torch.from_numpy(records[:, label_bytes:].copy()).reshape(-1, *entry.spec.shape)
    labels = torch.from_numpy(records[:, label_bytes - 1].astype(np.int64))
    return MemorySplit(frames, check_labels(labels, entry.spec.classes, str(path)))
