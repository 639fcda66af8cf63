"""N-MNIST, DVS128 Gesture and CIFAR10-DVS as they are published: which recordings belong to which split."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import torch

from train.data.catalogue import Entry
from train.data.event_files import read_cifar10_dvs, read_gesture, read_nmnist
from train.data.event_split import Clip, EventSplit
from train.data.events import Binning, Events, SplitBy
from train.data.files import missing, read_at_most
from train.data.frame_store import FrameStore
from train.data.splits import Dataset, check_labels
from train.errors import UserError

MAX_TEXT = 1 << 20
FEWEST_PER_CLASS = 10  # recordings of CIFAR10-DVS of which 90 %, rounded up, are not all
CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
Samples = list[tuple[Clip, int]]


def load_nmnist(folder: Path, entry: Entry, steps: int, split_by: SplitBy) -> Dataset:
    """`Train/<digit>/<id>.bin` and `Test/<digit>/<id>.bin`.

    Raises:
        UserError: a folder is missing or empty.
    """
    binning = Binning(steps, entry.spec.shape, entry.spec.levels, split_by)

    def split(name: str) -> EventSplit:
        return _split(nmnist_samples(folder / name, entry), read_nmnist, binning, entry, folder / name)

    return Dataset(entry.spec, split("Train"), split("Test"))


def nmnist_samples(folder: Path, entry: Entry) -> Samples:
    """The recordings of one split of N-MNIST, by digit and file name."""
    samples: Samples = []
    for label in range(entry.spec.classes):
        place = folder / str(label)
        if not place.is_dir():
            raise missing(place, entry)
        paths = sorted(place.glob("*.bin"))
        if not paths:
            raise UserError(f"no .bin recordings of digit {label} in it", where=str(place))
        samples += [(Clip(path), label) for path in paths]
    return samples


def load_cifar10_dvs(folder: Path, entry: Entry, steps: int, split_by: SplitBy) -> Dataset:
    """`<class>/cifar10_<class>_<id>.aedat`; of each class the first 90 % in the order of the names are for training.

    The data has no official split. This is the one of SpikingJelly, without shuffling; names are sorted as text, so
    `..._10` comes before `..._2`.

    Raises:
        UserError: a class's folder is missing or has fewer than `FEWEST_PER_CLASS` recordings.
    """
    binning = Binning(steps, entry.spec.shape, entry.spec.levels, split_by, factor=128 // entry.spec.shape[1])
    train: Samples = []
    test: Samples = []
    for label, name in enumerate(CIFAR10_CLASSES):
        if not (folder / name).is_dir():
            raise missing(folder / name, entry)
        paths = sorted((folder / name).glob("*.aedat"))
        count = -(-9 * len(paths) // 10)  # rounded up, as SpikingJelly does
        if count == len(paths):
            raise UserError(
                f"{len(paths)} .aedat files, of which 90 %, rounded up, are for training: none is left for the test",
                where=str(folder / name),
                hint=f"needs {FEWEST_PER_CLASS} or more; 1000 are published",
            )
        train += [(Clip(path), label) for path in paths[:count]]
        test += [(Clip(path), label) for path in paths[count:]]
    return Dataset(
        entry.spec,
        _split(train, read_cifar10_dvs, binning, entry, folder),
        _split(test, read_cifar10_dvs, binning, entry, folder),
    )


def load_gesture(folder: Path, entry: Entry, steps: int, split_by: SplitBy) -> Dataset:
    """`trials_to_train.txt` and `trials_to_test.txt` name the recordings; `<name>_labels.csv` has their gestures.

    A row (class 1..11, start, end in microseconds) is a sample: 1176 for training, 288 for test.

    Raises:
        UserError: a file is missing or damaged.
    """
    binning = Binning(steps, entry.spec.shape, entry.spec.levels, split_by)

    def split(name: str) -> EventSplit:
        trials = folder / name
        if not trials.is_file():
            raise missing(trials, entry)
        samples: Samples = []
        for line in _text(trials).splitlines():
            if line.strip():
                samples += gestures(folder / Path(line.strip()).name, entry)
        return _split(samples, read_gesture, binning, entry, trials)

    return Dataset(entry.spec, split("trials_to_train.txt"), split("trials_to_test.txt"))


def gestures(recording: Path, entry: Entry) -> Samples:
    """The samples of one recording of DVS128 Gesture."""
    table = recording.with_name(f"{recording.stem}_labels.csv")
    for path in (recording, table):
        if not path.is_file():
            raise missing(path, entry)
    samples: Samples = []
    for number, row in enumerate(list(csv.reader(_text(table).splitlines()))[1:], 2):
        if not row:
            continue
        try:
            label, start, end = (int(value) for value in row)
        except ValueError as error:
            raise UserError(f"line {number}: {','.join(row)}, expected class,start,end", where=str(table)) from error
        if not 1 <= label <= entry.spec.classes:
            raise UserError(f"line {number}: class {label}, allowed 1..{entry.spec.classes}", where=str(table))
        if start >= end:
            raise UserError(f"line {number}: starts at {start} and ends at {end}", where=str(table))
        samples.append((Clip(recording, (start, end)), label - 1))
    return samples


def _text(path: Path) -> str:
    return read_at_most(path, MAX_TEXT).decode("utf-8", "replace")


def _split(
    samples: Samples, reader: Callable[[Path], Events], binning: Binning, entry: Entry, where: Path
) -> EventSplit:
    labels = check_labels(torch.tensor([label for _, label in samples]), entry.spec.classes, str(where))
    store = FrameStore(len(samples), (binning.steps, *binning.shape))
    return EventSplit([clip for clip, _ in samples], labels, reader, binning, store, entry.page)
