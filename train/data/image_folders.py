"""ImageNet and Tiny ImageNet: which file is which sample. A class is a folder named after its WordNet id."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from train.data.catalogue import Entry
from train.data.files import missing, read_at_most
from train.data.images import ImageSplit
from train.data.splits import Dataset
from train.errors import UserError

SUFFIXES = (".jpeg", ".jpg", ".png")
MAX_TEXT = 1 << 24


def load_imagenet(folder: Path, entry: Entry, crop_scale: float = 0.08) -> Dataset:
    """ILSVRC 2012: `train/<WordNet id>/*.JPEG` and `val/<WordNet id>/*.JPEG` (Russakovsky et al. 2015).

    Classes are numbered in the order of their WordNet ids, as everywhere. Training images are cropped at random,
    to `crop_scale` of their area or more, validation images in the centre.

    Raises:
        UserError: a folder is missing or empty, or the class folders are not as published.
    """
    classes = _classes(folder / "train", entry)
    if (folder / "val").is_dir() and not _subfolders(folder / "val"):
        raise UserError(
            "validation images are not in one folder per class",
            where=str(folder / "val"),
            hint="sort them by the devkit's ground truth, as valprep.sh does",
        )
    if _classes(folder / "val", entry) != classes:
        raise UserError("its classes are not those of train", where=str(folder / "val"))
    return Dataset(
        entry.spec, *(_listed(_by_class(folder / s, classes), entry, (crop_scale, 1.0)) for s in ("train", "val"))
    )


def load_tiny_imagenet(folder: Path, entry: Entry) -> Dataset:
    """Tiny ImageNet: `train/<WordNet id>/images/*.JPEG`, `val/images/*.JPEG` with `val/val_annotations.txt`.

    The published test set has no labels, so the validation set is the test set, as in every paper.

    Raises:
        UserError: a file is missing, a class has no pictures, or the annotations are damaged.
    """
    classes = _classes(folder / "train", entry)
    train = _by_class(folder / "train", classes, "images")
    notes = folder / "val" / "val_annotations.txt"
    if not notes.is_file():
        raise missing(notes, entry)
    rows = [line.split("\t") for line in read_at_most(notes, MAX_TEXT).decode("utf-8", "replace").splitlines() if line]
    number = {name: index for index, name in enumerate(classes)}
    for line, row in enumerate(rows, 1):
        if len(row) < 2 or row[1] not in number or Path(row[0]).name != row[0]:
            raise UserError(f"line {line}: not '<file> TAB <class of train> TAB ...'", where=str(notes))
    test = [(folder / "val" / "images" / row[0], number[row[1]]) for row in rows]
    return Dataset(entry.spec, _listed(train, entry), _listed(test, entry))


def _classes(folder: Path, entry: Entry) -> list[str]:
    if not folder.is_dir():
        raise missing(folder, entry)
    classes = _subfolders(folder)
    if len(classes) != entry.spec.classes:
        raise UserError(f"{len(classes)} class folders, expected {entry.spec.classes}", where=str(folder))
    return classes


def _subfolders(folder: Path) -> list[str]:
    with os.scandir(folder) as found:
        return sorted(item.name for item in found if item.is_dir())


def _by_class(folder: Path, classes: list[str], inner: str = "") -> list[tuple[Path, int]]:
    samples = []
    for label, name in enumerate(classes):
        place = folder / name / inner
        if not place.is_dir():
            raise UserError("no such folder", where=str(place))
        with os.scandir(place) as found:
            files = sorted(item.name for item in found if item.name.lower().endswith(SUFFIXES))
        if not files:
            raise UserError(f"no pictures of class {name!r} in it", where=str(place))
        samples += [(place / file, label) for file in files]
    return samples


def _listed(samples: list[tuple[Path, int]], entry: Entry, crop: tuple[float, float] | None = None) -> ImageSplit:
    if not samples:
        raise UserError(f"data set {entry.spec.name!r}: a split without images", hint=f"published at {entry.page}")
    labels = torch.tensor([label for _, label in samples])
    return ImageSplit([path for path, _ in samples], labels, entry.spec.shape[1], crop, entry.page)
