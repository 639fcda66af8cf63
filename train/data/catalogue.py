"""The data sets this program reads: their specification, where they are published, and their folder once unpacked."""

from __future__ import annotations

from dataclasses import dataclass

from train.data.spec import DataSpec
from train.errors import UserError


@dataclass(frozen=True)
class Entry:
    """A specification, and of the data as published: the page (for messages; nothing is downloaded), folders, sizes."""

    spec: DataSpec
    page: str
    folders: tuple[str, ...]
    samples: tuple[int, int]  # for training and test


def _image(
    name: str,
    size: int,
    classes: int,
    statistics: tuple[tuple[float, ...], tuple[float, ...]],
    page: str,
    folders: tuple[str, ...],
    samples: tuple[int, int],
) -> Entry:
    """8-bit images of `size` x `size` pixels; means and deviations as published, on a scale of 0 to 1."""
    mean, std = (tuple(255 * value for value in values) for values in statistics)
    return Entry(DataSpec(name, (len(mean), size, size), classes, 255, mean, std), page, folders, samples)


def _events(
    name: str, size: int, classes: int, levels: int, page: str, folders: tuple[str, ...], samples: tuple[int, int]
) -> Entry:
    """Event counts per bin, one channel per polarity; used as they are, as the published recipes do."""
    spec = DataSpec(name, (2, size, size), classes, levels, (0.0, 0.0), (1.0, 1.0), has_time=True)
    return Entry(spec, page, folders, samples)


_CIFAR10 = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
_CIFAR100 = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)
_TINY_IMAGENET = (0.4802, 0.4481, 0.3975), (0.2770, 0.2691, 0.2821)
_IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_CIFAR, _MNIST = (50_000, 10_000), (60_000, 10_000)
_CIFAR_PAGE = "https://www.cs.toronto.edu/~kriz/cifar.html"
_MNIST_PAGE = "http://yann.lecun.com/exdb/mnist"
_FASHION_PAGE = "https://github.com/zalandoresearch/fashion-mnist"
_FASHION_FOLDERS = ("FashionMNIST/raw", "FashionMNIST", "fashion-mnist")
_TINY_PAGE = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
_IMAGENET_PAGE = "https://www.image-net.org/download.php"
_NMNIST_PAGE = "https://www.garrickorchard.com/datasets/n-mnist"
_GESTURE_PAGE = "https://research.ibm.com/dvsgesture"
_CIFAR_DVS_PAGE = "https://figshare.com/articles/dataset/CIFAR10-DVS_New/4724671"

_ALL = (
    Entry(
        DataSpec(name="digits", shape=(1, 8, 8), classes=10, levels=16, mean=(0.0,), std=(16.0,)),
        page="scikit-learn, installed with this program",
        folders=(),
        samples=(1437, 360),
    ),
    _image("cifar10", 32, 10, _CIFAR10, _CIFAR_PAGE, ("cifar-10-batches-bin", "cifar-10-batches-py"), _CIFAR),
    _image("cifar100", 32, 100, _CIFAR100, _CIFAR_PAGE, ("cifar-100-binary", "cifar-100-python"), _CIFAR),
    _image("mnist", 28, 10, ((0.1307,), (0.3081,)), _MNIST_PAGE, ("MNIST/raw", "MNIST", "mnist"), _MNIST),
    _image("fashion-mnist", 28, 10, ((0.2860,), (0.3530,)), _FASHION_PAGE, _FASHION_FOLDERS, _MNIST),
    _image("tiny-imagenet", 64, 200, _TINY_IMAGENET, _TINY_PAGE, ("tiny-imagenet-200",), (100_000, 10_000)),
    _image("imagenet", 224, 1000, _IMAGENET, _IMAGENET_PAGE, ("imagenet", "ILSVRC2012"), (1_281_167, 50_000)),
    # 31 levels: of 1000 recordings none reaches more than 25 events per pixel, even where one bin takes all of it.
    _events("n-mnist", 34, 10, 31, _NMNIST_PAGE, ("N-MNIST", "NMNIST"), _MNIST),
    _events("dvs128-gesture", 128, 11, 255, _GESTURE_PAGE, ("DvsGesture",), (1176, 288)),
    # The sensor has 128 x 128 pixels; the published recipes train on 64 x 64. No official split: 90 % are for training.
    _events("cifar10-dvs", 64, 10, 255, _CIFAR_DVS_PAGE, ("CIFAR10-DVS", "CIFAR10DVS", "cifar10-dvs"), (9000, 1000)),
)
ENTRIES: dict[str, Entry] = {item.spec.name: item for item in _ALL}


def entry(name: str) -> Entry:
    """The catalogue's entry of a data set.

    Raises:
        UserError: no such data set.
    """
    if name not in ENTRIES:
        raise UserError(f"unknown data set {name!r}", hint=f"known data sets: {', '.join(ENTRIES)}")
    return ENTRIES[name]
