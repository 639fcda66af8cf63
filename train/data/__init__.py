"""Data sets by name, as raw integer frames, from a folder that the user names; nothing is downloaded.

`load` gives a training and a test split; `training_batches` and `evaluation_batches` read them; `augment` changes
training batches; `over_time` makes them the input of a network.
"""

from __future__ import annotations

from pathlib import Path

from train.data.batches import batch_count as batch_count
from train.data.catalogue import ENTRIES, entry
from train.data.cifar import load_cifar
from train.data.coding import over_time as over_time
from train.data.coding import poisson as poisson
from train.data.coding import repeat_over_time as repeat_over_time
from train.data.coding import time_first as time_first
from train.data.digits import load_digits
from train.data.event_sets import load_cifar10_dvs, load_gesture, load_nmnist
from train.data.events import SplitBy as SplitBy
from train.data.files import find_folder, published_at
from train.data.idx import read_pair
from train.data.image_folders import load_imagenet, load_tiny_imagenet
from train.data.loader import Augmentation as Augmentation
from train.data.loader import Batch as Batch
from train.data.loader import evaluation_batches as evaluation_batches
from train.data.loader import training_batches as training_batches
from train.data.spec import DataSpec as DataSpec
from train.data.splits import Dataset as Dataset
from train.data.splits import MemorySplit as MemorySplit
from train.data.splits import Split as Split
from train.data.splits import Subset as Subset
from train.data.splits import spread as spread

NAMES = tuple(ENTRIES)
_ON_DISK = {
    "cifar10": load_cifar,
    "cifar100": load_cifar,
    "mnist": lambda folder, known: Dataset(known.spec, *(read_pair(folder, p, known) for p in ("train", "t10k"))),
    "tiny-imagenet": load_tiny_imagenet,
}
_ON_DISK["fashion-mnist"] = _ON_DISK["mnist"]
_EVENTS = {"n-mnist": load_nmnist, "dvs128-gesture": load_gesture, "cifar10-dvs": load_cifar10_dvs}


def spec(name: str) -> DataSpec:
    """The specification of a data set, without loading it.

    Raises:
        UserError: no such data set.
    """
    return entry(name).spec


def found(dataset: Dataset) -> str:
    """One line for the user: how many samples were found, and of how many published ones where these are more or fewer.

    A part of a data set in its published layout is allowed, and looks like files cut between two samples.
    """
    known = entry(dataset.spec.name)
    parts, whole = [], True
    for what, split, published in zip(("training", "test"), (dataset.train, dataset.test), known.samples, strict=True):
        same = len(split) == published
        parts.append(f"{len(split)} {'' if same else f'of {published} published '}{what} samples")
        whole = whole and same
    return f"{known.spec.name}: {', '.join(parts)}{'' if whole else f' (published at {known.page})'}"


def load(
    name: str,
    data_dir: Path | None = None,
    steps: int | None = None,
    split_by: SplitBy = "number",
    crop_scale: float = 0.08,
) -> Dataset:
    """Load a data set by name.

    Args:
        name: one of `NAMES`.
        data_dir: the folder that holds the data set's published folder; not needed for digits.
        steps: frames T per clip, for the event data sets.
        split_by: how events are divided among the frames, see `events.Binning`.
        crop_scale: the smallest part of the area that a random crop takes, for ImageNet.

    Raises:
        UserError: no such data set; a file is missing or damaged; an event data set without `steps`.
    """
    known = entry(name)
    if name == "digits":
        return load_digits()
    folder = find_folder(data_dir, known)
    with published_at(known.page):
        if name == "imagenet":
            return load_imagenet(folder, known, crop_scale)
        if name in _ON_DISK:
            return _ON_DISK[name](folder, known)
        if steps is None:
            raise ValueError(f"data set {name!r} needs the number of frames per clip")
        return _EVENTS[name](folder, known, steps, split_by)
