"""Data sets: published layouts, damaged files, streaming, batches, input coding; on real data where it is at hand."""

from __future__ import annotations

import contextlib
import gzip
import importlib.util
import pickle
import struct
import threading
import zlib
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from train import data
from train.data import event_files, event_sets, events, image_folders
from train.data.batches import batch_count, batch_generator, epoch_order, evaluation_indices, training_indices
from train.data.catalogue import ENTRIES, Entry, entry
from train.data.cifar import load_cifar, read_binary
from train.data.cifar_pickle import read_batch
from train.data.coding import over_time, poisson
from train.data.event_split import Clip, EventSplit
from train.data.events import Binning, Events, to_frames
from train.data.frame_store import FrameStore
from train.data.idx import read_idx
from train.data.images import ImageSplit, decode, random_box
from train.data.loader import ahead
from train.data.splits import MemorySplit
from train.errors import UserError

REAL = Path(__file__).resolve().parents[2] / "shared" / "data"
needs_real_data = pytest.mark.skipif(
    not (REAL / "unpack.py").is_file(), reason="real data is not beside the repository"
)
needs_tonic = pytest.mark.skipif(
    importlib.util.find_spec("tonic") is None, reason="the extra `events` is not installed"
)
quick = settings(max_examples=60, deadline=None)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for files that each example of a property test writes anew."""
    return tmp_path_factory.mktemp("scratch")


def written(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


# ---- catalogue


def test_every_specification_is_complete() -> None:
    for name in data.NAMES:
        spec = data.spec(name)
        assert spec.name == name
        assert len(spec.mean) == len(spec.std) == spec.shape[0]
        assert 1 <= spec.levels <= 255
        assert min(spec.std) > 0


def test_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"unknown data set 'cifar'.*cifar10"):
        data.load("cifar")


@pytest.mark.parametrize("name", [name for name in data.NAMES if name != "digits"])
def test_missing_data_names_folder_and_page(name: str, tmp_path: Path) -> None:
    page, folder = ENTRIES[name].page, ENTRIES[name].folders[0]
    with pytest.raises(UserError, match="--data-dir") as without:
        data.load(name, None, 4)
    with pytest.raises(UserError, match="not found") as empty:
        data.load(name, tmp_path, 4)
    (tmp_path / folder).mkdir(parents=True)
    with pytest.raises(UserError) as hollow:
        data.load(name, tmp_path, 4)
    for caught in (without, empty, hollow):
        assert page in str(caught.value)
    assert str(tmp_path) in str(empty.value)
    assert folder in str(empty.value)


def test_digits_need_no_folder() -> None:
    digits = data.load("digits")
    assert (len(digits.train), len(digits.test)) == (1437, 360)
    frames = digits.train.read(torch.arange(3))
    assert frames.dtype == torch.uint8
    assert frames.shape == (3, 1, 8, 8)
    assert int(digits.train.read(torch.arange(1437)).max()) == digits.spec.levels


def test_spread_samples() -> None:
    assert data.spread(10, 3).tolist() == [0, 3, 6]
    assert data.spread(3, 10).tolist() == [0, 1, 2]
    assert data.spread(3, 0).tolist() == []


# ---- IDX


def idx_bytes(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


@quick
@given(st.integers(0, 6), st.integers(1, 4), st.integers(1, 4), st.booleans(), st.integers(0, 2**32 - 1))
def test_idx_round_trip(scratch: Path, n: int, h: int, w: int, packed: bool, seed: int) -> None:
    array = np.random.default_rng(seed).integers(0, 256, (n, h, w), np.uint8)
    content = idx_bytes(array)
    path = written(scratch / ("a.gz" if packed else "a"), gzip.compress(content) if packed else content)
    assert np.array_equal(read_idx(path, 3, (h, w)).numpy(), array)


@quick
@given(st.data())
def test_idx_cut_off_anywhere_is_one_line(scratch: Path, draw: st.DataObject) -> None:
    content = idx_bytes(np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3))
    if draw.draw(st.booleans(), "gzip"):
        content = gzip.compress(content, mtime=0)
        path = scratch / "b.gz"
    else:
        path = scratch / "b"
    cut = draw.draw(st.integers(0, len(content) - 1), "bytes kept")
    with pytest.raises(UserError) as caught:
        read_idx(written(path, content[:cut]), 3, (3, 3))
    assert "\n" not in str(caught.value)


@quick
@given(st.binary(max_size=40))
def test_idx_fuzzed_is_read_or_refused(scratch: Path, content: bytes) -> None:
    for name, start in (("c", b""), ("c", b"\0\0\x08\x01"), ("c.gz", b""), ("c.gz", b"\x1f\x8b\x08\0")):
        with contextlib.suppress(UserError):
            read_idx(written(scratch / name, start + content), 1)


def test_idx_claims_are_checked_before_memory_is_taken(tmp_path: Path) -> None:
    huge = written(tmp_path / "huge", b"\0\0\x08\x01\xff\xff\xff\xff")
    with pytest.raises(UserError, match="claims 4294967295 values"):
        read_idx(huge, 1)
    bomb = written(tmp_path / "bomb.gz", gzip.compress(b"\0\0\x08\x01\0\0\0\x05" + bytes(1 << 24)))
    with pytest.raises(UserError, match="more than the 5 values"):
        read_idx(bomb, 1)
    with pytest.raises(UserError, match="3 dimension"):
        read_idx(huge, 3)


def mnist(folder: Path, images: np.ndarray, labels: np.ndarray) -> None:
    for prefix in ("train", "t10k"):
        written(folder / f"{prefix}-images-idx3-ubyte", idx_bytes(images))
        written(folder / f"{prefix}-labels-idx1-ubyte.gz", gzip.compress(idx_bytes(labels)))


def test_mnist_is_found_plain_or_packed(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (4, 28, 28), np.uint8)
    mnist(tmp_path / "MNIST" / "raw", images, np.array([3, 1, 4, 1], np.uint8))
    for folder in (tmp_path, tmp_path / "MNIST" / "raw"):
        loaded = data.load("mnist", folder)
        assert np.array_equal(loaded.test.read(torch.tensor([2, 0])).numpy()[:, 0], images[[2, 0]])
        assert loaded.train.labels.tolist() == [3, 1, 4, 1]
    assert len(data.load("mnist", tmp_path / "MNIST").test) == 4  # the folder that holds raw/
    with pytest.raises(UserError, match="not found"):  # the same file names, but another data set
        data.load("fashion-mnist", tmp_path / "MNIST" / "raw")


def test_mnist_labels_are_checked(tmp_path: Path) -> None:
    images = np.zeros((2, 28, 28), np.uint8)
    mnist(tmp_path / "MNIST", images, np.array([3, 10], np.uint8))
    with pytest.raises(UserError, match=r"labels 3\.\.10, allowed 0\.\.9"):
        data.load("mnist", tmp_path)
    mnist(tmp_path / "MNIST", images, np.array([3], np.uint8))
    with pytest.raises(UserError, match="1 labels for 2 images"):
        data.load("mnist", tmp_path)
    mnist(tmp_path / "MNIST", np.zeros((2, 28, 27), np.uint8), np.array([3, 1], np.uint8))
    with pytest.raises(UserError, match=r"shape \[28, 27\], expected \[28, 28\]"):
        data.load("mnist", tmp_path)


# ---- CIFAR


def cifar_arrays(n: int, classes: int = 10, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (n, 3072), np.uint8), rng.integers(0, classes, n, np.uint8)


def cifar_bytes(pixels: np.ndarray, *labels: np.ndarray) -> bytes:
    return np.concatenate([np.stack(labels, 1), pixels], axis=1).astype(np.uint8).tobytes()


@quick
@given(st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_cifar_binary_round_trip(scratch: Path, n: int, seed: int) -> None:
    pixels, labels = cifar_arrays(n, 100, seed)
    split = read_binary(written(scratch / "r.bin", cifar_bytes(pixels, labels // 5, labels)), 2, entry("cifar100"))
    assert np.array_equal(split.frames.numpy(), pixels.reshape(n, 3, 32, 32))
    assert np.array_equal(split.labels.numpy(), labels)


@quick
@given(st.integers(0, 2 * 3073 - 1))
def test_cifar_binary_cut_off(scratch: Path, kept: int) -> None:
    path = written(scratch / "t.bin", cifar_bytes(*cifar_arrays(2))[:kept])
    if kept == 3073:
        assert len(read_binary(path, 1, entry("cifar10"))) == 1
    else:
        with pytest.raises(UserError, match="records of 3073 bytes"):
            read_binary(path, 1, entry("cifar10"))


def test_cifar_binary_label_out_of_range(tmp_path: Path) -> None:
    path = written(tmp_path / "x.bin", b"\x0a" + bytes(3072))
    with pytest.raises(UserError, match=r"labels 10\.\.10, allowed 0\.\.9"):
        read_binary(path, 1, entry("cifar10"))


def python2(value: object) -> bytes:
    """Protocol 2 as Python 2 wrote it, which is what the publisher's files hold: strings are bytes without a call."""
    if isinstance(value, dict):
        return b"}(" + b"".join(python2(k) + python2(v) for k, v in value.items()) + b"u"
    if isinstance(value, list):
        return b"](" + b"".join(map(python2, value)) + b"e"
    if isinstance(value, bytes):
        return b"T" + struct.pack("<i", len(value)) + value
    if isinstance(value, np.ndarray):
        code = (
            b"cnumpy\ndtype\n("
            + python2(b"u1")
            + b"K\0K\x01tR(K\x03"
            + python2(b"|")
            + b"NNN"
            + b"J\xff\xff\xff\xff" * 2
        )
        shape = b"(" + b"".join(map(python2, map(int, value.shape))) + b"t"
        empty = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\0t" + python2(b"b") + b"tR"
        return empty + b"(K\x01" + shape + code + b"K\0tb\x89" + python2(value.tobytes()) + b"tb"
    assert isinstance(value, int)
    return b"J" + struct.pack("<i", value)


def python2_file(value: object) -> bytes:
    return b"\x80\x02" + python2(value) + b"."


def test_python2_writer_is_what_python_reads() -> None:
    pixels, labels = cifar_arrays(2)
    read = pickle.loads(python2_file({b"data": pixels, b"labels": labels.tolist()}), encoding="bytes")
    assert np.array_equal(read[b"data"], pixels)


def test_cifar_python_version(tmp_path: Path) -> None:
    files = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
    for number, name in enumerate(files):
        pixels, labels = cifar_arrays(3, seed=number)
        batch = {b"batch_label": b"training batch", b"labels": labels.tolist(), b"data": pixels}
        written(tmp_path / "cifar-10-batches-py" / name, python2_file(batch))
    loaded = data.load("cifar10", tmp_path)
    assert (len(loaded.train), len(loaded.test)) == (15, 3)
    assert np.array_equal(loaded.test.read(torch.arange(3)).numpy().reshape(3, -1), cifar_arrays(3, seed=5)[0])


@pytest.mark.parametrize("protocol", range(2, 6))
def test_cifar_python_version_written_again(tmp_path: Path, protocol: int) -> None:
    pixels, labels = cifar_arrays(3, 100)
    content = pickle.dumps({"data": pixels, "fine_labels": labels.tolist()}, protocol=protocol)
    path = written(tmp_path / "train", content)
    if protocol < 5:
        found, fine = read_batch(path, b"fine_labels", 60000)
        assert np.array_equal(found, pixels)
        assert fine == labels.tolist()
    else:  # protocol 5 keeps arrays in another way, and no published file has it
        with pytest.raises(UserError, match="binary version"):
            read_batch(path, b"fine_labels", 60000)


class Payload:
    """What an attacker would put into a batch file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return eval, (f"open({str(self.target)!r}, 'w').close()",)


def test_pickles_are_not_executed(tmp_path: Path) -> None:
    target = tmp_path / "executed"
    for hostile in ({b"data": Payload(target), b"labels": []}, Payload(target)):
        path = written(tmp_path / "test_batch", pickle.dumps(hostile))
        with pytest.raises(UserError, match=r"calls builtins\.eval.*binary version"):
            read_batch(path, b"labels", 60000)
    assert not target.exists()


def test_pickled_array_cannot_lie_about_its_size(tmp_path: Path) -> None:
    pixels, _ = cifar_arrays(2)
    honest = python2_file({b"data": pixels, b"labels": [0, 1]})
    lie = honest.replace(b"(J\x02\0\0\0J\0\x0c\0\0t", b"(J\xff\xff\xff\x7fJ\0\x0c\0\0t")
    assert lie != honest
    with pytest.raises(UserError, match="not an array of bytes"):
        read_batch(written(tmp_path / "b", lie), b"labels", 60000)
    with pytest.raises(UserError, match="not a list of 2 integers"):
        read_batch(written(tmp_path / "b", honest.replace(b"labels", b"LABELS")), b"labels", 60000)


@quick
@given(st.data())
def test_pickles_damaged_anywhere(scratch: Path, draw: st.DataObject) -> None:
    content = bytearray(python2_file({b"labels": [0, 1], b"data": cifar_arrays(2)[0]}))
    head = len(content) - 2 * 3072
    if draw.draw(st.booleans(), "cut"):
        content = content[: draw.draw(st.integers(0, len(content) - 1))]
    else:
        content[draw.draw(st.integers(0, head - 1))] = draw.draw(st.integers(0, 255))
    with contextlib.suppress(UserError):
        read_batch(written(scratch / "p", bytes(content)), b"labels", 60000)


def test_cifar100_takes_the_fine_label(tmp_path: Path) -> None:
    pixels, fine = cifar_arrays(4, 100)
    for name in ("train.bin", "test.bin"):
        written(tmp_path / name, cifar_bytes(pixels, fine // 5, fine))
    assert load_cifar(tmp_path, entry("cifar100")).train.labels.tolist() == fine.tolist()


def test_files_cut_between_two_samples_are_named_as_a_part(tmp_path: Path) -> None:
    for name in (*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"):
        written(tmp_path / "cifar-10-batches-bin" / name, bytes(2 * 3073))
    assert data.found(data.load("cifar10", tmp_path)) == (
        "cifar10: 10 of 50000 published training samples, 2 of 10000 published test samples "
        "(published at https://www.cs.toronto.edu/~kriz/cifar.html)"
    )
    assert data.found(data.load("digits")) == "digits: 1437 training samples, 360 test samples"


# ---- folders of images


def picture(path: Path, size: tuple[int, int], seed: int = 0) -> np.ndarray:
    """A lossless picture of (width, height); its pixels [H, W, 3]."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return pixels


def small(name: str, classes: int, size: int) -> Entry:
    """A catalogue entry with fewer classes and smaller frames."""
    known = entry(name)
    return replace(known, spec=replace(known.spec, classes=classes, shape=(known.spec.shape[0], size, size)))


def test_imagenet_folders_and_views(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for number, name in enumerate(("n02", "n01", "n03")):
            picture(tmp_path / split / name / f"{name}_1.png", (40 + number, 32), number)
    loaded = image_folders.load_imagenet(tmp_path, small("imagenet", 3, 16))
    assert loaded.train.labels.tolist() == [0, 1, 2]
    assert isinstance(loaded.train, ImageSplit)
    assert [path.name for path in loaded.train.paths] == ["n01_1.png", "n02_1.png", "n03_1.png"]
    assert loaded.train.crop == (0.08, 1.0)
    wide = image_folders.load_imagenet(tmp_path, small("imagenet", 3, 16), crop_scale=0.2).train
    assert isinstance(wide, ImageSplit)
    assert wide.crop == (0.2, 1.0)
    fixed = loaded.test.read(torch.tensor([0, 2]))
    assert fixed.shape == (2, 3, 16, 16)
    assert torch.equal(fixed, loaded.test.read(torch.tensor([0, 2])))
    random = [loaded.train.read(torch.tensor([0]), torch.Generator().manual_seed(s)) for s in (1, 1, 2)]
    assert torch.equal(random[0], random[1])
    assert not torch.equal(random[0], random[2])


def test_centre_crop_takes_the_centre(tmp_path: Path) -> None:
    pixels = np.zeros((64, 128, 3), np.uint8)
    pixels[8:56, 40:88] = 200
    Image.fromarray(pixels).save(tmp_path / "a.png")
    split = ImageSplit([tmp_path / "a.png"], torch.tensor([0]), 28, crop=(0.08, 1.0))
    assert (split.read(torch.tensor([0]))[:, :, 3:-3, 3:-3] == 200).all()  # of 56 x 56 pixels, 48 x 48 are bright


def test_random_boxes_are_inside_and_of_the_right_area() -> None:
    generator = torch.Generator().manual_seed(0)
    areas = []
    for _ in range(2000):
        left, top, right, bottom = random_box((80, 60), (0.08, 1.0), generator)
        assert 0 <= left < right <= 80
        assert 0 <= top < bottom <= 60
        areas.append((right - left) * (bottom - top) / 4800)
        assert 0.7 < (right - left) / (bottom - top) < 1.4
    assert 0.07 < min(areas) < 0.1
    assert 0.4 < float(np.mean(areas)) < 0.5  # below 0.54: large boxes fit less often
    assert random_box((1000, 3), (0.9, 1.0), generator) == (498, 0, 502, 3)  # no such box: the centre


def test_streaming_touches_only_what_it_is_asked_for(tmp_path: Path) -> None:
    paths = [tmp_path / f"{i}.png" for i in range(100)]
    for path in paths:
        path.write_bytes(b"")  # reading any of these would be an error
    expected = {i: picture(paths[i], (8, 8), i) for i in (7, 42)}
    split = ImageSplit(paths, torch.zeros(100, dtype=torch.long), 8)
    frames = split.read(torch.tensor([42, 7]))
    assert np.array_equal(frames[0].permute(1, 2, 0).numpy(), expected[42])
    assert np.array_equal(frames[1].permute(1, 2, 0).numpy(), expected[7])
    with pytest.raises(UserError, match=r"8\.png: cannot be read as an image"):
        split.read(torch.tensor([8]))


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_images_cut_off(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    picture(path, (32, 32))
    content = path.read_bytes()
    for kept in (0, 10, len(content) // 2, len(content) - 40):
        with pytest.raises(UserError, match="cannot be read as an image"):
            decode(written(path, content[:kept]))


def test_images_too_large_to_decode(tmp_path: Path) -> None:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 9000, 9000, 8, 2, 0, 0, 0)
    path = written(tmp_path / "a.png", b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"x"))
    with pytest.raises(UserError, match="9000 x 9000 pixels"):
        decode(path)


def tiny_imagenet(folder: Path) -> Path:
    for name in ("n02", "n01"):
        for i in range(2):
            picture(folder / "train" / name / "images" / f"{name}_{i}.png", (8, 8), i)
    picture(folder / "val" / "images" / "val_0.png", (8, 8), 9)
    return written(folder / "val" / "val_annotations.txt", b"val_0.png\tn02\t0\t0\t7\t7\n")


def test_tiny_imagenet(tmp_path: Path) -> None:
    notes = tiny_imagenet(tmp_path)
    loaded = image_folders.load_tiny_imagenet(tmp_path, small("tiny-imagenet", 2, 8))
    assert loaded.train.labels.tolist() == [0, 0, 1, 1]
    assert loaded.test.labels.tolist() == [1]
    assert loaded.train.read(torch.tensor([0, 3]), torch.Generator()).shape == (2, 3, 8, 8)
    for line in (b"val_0.png\tn03\n", b"val_0.png\n", b"../val_0.png\tn01\n"):
        written(notes, line)
        with pytest.raises(UserError, match="line 1"):
            image_folders.load_tiny_imagenet(tmp_path, small("tiny-imagenet", 2, 8))


def test_image_folders_that_are_not_as_published(tmp_path: Path) -> None:
    picture(tmp_path / "train" / "n01" / "a.png", (8, 8))
    picture(tmp_path / "val" / "b.png", (8, 8))
    with pytest.raises(UserError, match="1 class folders, expected 1000"):
        image_folders.load_imagenet(tmp_path, entry("imagenet"))
    with pytest.raises(UserError, match=r"not in one folder per class.*ground truth"):
        image_folders.load_imagenet(tmp_path, small("imagenet", 1, 8))
    picture(tmp_path / "val" / "n02" / "b.png", (8, 8))
    with pytest.raises(UserError, match="not those of train"):
        image_folders.load_imagenet(tmp_path, small("imagenet", 1, 8))
    tiny_imagenet(tmp_path / "t")
    picture(tmp_path / "t" / "train" / "n01" / "images" / "n01_0.png", (9, 8))
    loaded = image_folders.load_tiny_imagenet(tmp_path / "t", small("tiny-imagenet", 2, 8))
    with pytest.raises(UserError, match="9 x 8 pixels, expected 8 x 8"):
        loaded.train.read(torch.tensor([0]))


def test_classes_without_samples_are_refused_by_name(tmp_path: Path) -> None:
    for split in ("train", "val"):
        picture(tmp_path / split / "n01" / "a.png", (8, 8))
        written(tmp_path / split / "n02" / "notes.txt", b"")
    with pytest.raises(UserError, match=r"n02: no pictures of class 'n02'"):
        image_folders.load_imagenet(tmp_path, small("imagenet", 2, 8))
    notes = tiny_imagenet(tmp_path / "t")
    for path in (notes.parents[1] / "train" / "n01" / "images").iterdir():
        path.unlink()
    with pytest.raises(UserError, match=r"images: no pictures of class 'n01'"):
        image_folders.load_tiny_imagenet(tmp_path / "t", small("tiny-imagenet", 2, 8))
    for label in range(10):
        (tmp_path / "N-MNIST" / "Train" / str(label)).mkdir(parents=True)
        if label != 7:
            written(tmp_path / "N-MNIST" / "Train" / str(label) / "1.bin", bytes(5))
    with pytest.raises(UserError, match=r"7: no \.bin recordings of digit 7"):
        data.load("n-mnist", tmp_path, 1)


def cut_cifar10(folder: Path) -> None:
    for name in (*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"):
        written(folder / "cifar-10-batches-bin" / name, bytes(3073 + 5))


def cut_fashion_mnist(folder: Path) -> None:
    mnist(folder / "FashionMNIST" / "raw", np.zeros((2, 28, 28), np.uint8), np.zeros(2, np.uint8))
    path = folder / "FashionMNIST" / "raw" / "train-images-idx3-ubyte"
    written(path, path.read_bytes()[:-1])


def cut_nmnist(folder: Path) -> None:
    for split in ("Train", "Test"):
        for label in range(10):
            written(folder / "N-MNIST" / split / str(label) / "1.bin", bytes(7))


def cut_cifar10_dvs(folder: Path) -> None:
    for name in event_sets.CIFAR10_CLASSES:
        for i in range(10):
            written(folder / "CIFAR10-DVS" / name / f"{i}.aedat", b"#!AER-DAT2.0\r\n" + bytes(7))


def cut_gesture(folder: Path) -> None:
    for name in ("trials_to_train.txt", "trials_to_test.txt"):
        written(folder / "DvsGesture" / name, b"a.aedat\n")
    written(folder / "DvsGesture" / "a_labels.csv", b"class,start,end\n1,0,9\n")
    written(folder / "DvsGesture" / "a.aedat", b"#!AER-DAT3.1\r\n#!END-HEADER\r\n" + bytes(7))


def cut_tiny_imagenet(folder: Path) -> None:
    for number in range(200):
        written(folder / "tiny-imagenet-200" / "train" / f"n{number}" / "images" / "a.png", b"\x89PNG")
    written(folder / "tiny-imagenet-200" / "val" / "val_annotations.txt", b"a.png\tn0\n")


CUT = {
    "cifar10": cut_cifar10,
    "fashion-mnist": cut_fashion_mnist,
    "n-mnist": cut_nmnist,
    "cifar10-dvs": cut_cifar10_dvs,
    "dvs128-gesture": cut_gesture,
    "tiny-imagenet": cut_tiny_imagenet,
}


@pytest.mark.parametrize("name", CUT)
def test_truncated_files_name_the_page_that_publishes_them(name: str, tmp_path: Path) -> None:
    CUT[name](tmp_path)
    with pytest.raises(UserError, match=r"cut off|holds only|cannot be read") as caught:
        data.load(name, tmp_path, 1).train.read(torch.tensor([0]))
    assert str(caught.value).endswith(f"published at {ENTRIES[name].page})")
    assert str(tmp_path) in caught.value.where


# ---- events


def some_events(n: int, seed: int = 0, size: int = 34, duration: int = 300_000) -> Events:
    rng = np.random.default_rng(seed)
    x, y, p = rng.integers(0, size, n), rng.integers(0, size, n), rng.integers(0, 2, n)
    return Events(x, y, np.sort(rng.integers(0, duration, n)), p)


@quick
@given(st.integers(1, 60), st.integers(1, 12), st.sampled_from(["number", "time"]), st.integers(0, 10**6))
def test_binning_against_the_obvious_loop(n: int, steps: int, split_by: str, seed: int) -> None:
    found = some_events(n, seed, size=4, duration=1 + seed % 500)
    binning = Binning(steps, (2, 2, 2), 3, split_by, factor=2)  # type: ignore[arg-type]
    expected = np.zeros((steps, 2, 2, 2), np.int64)
    begin, end = int(found.t[0]), int(found.t[-1])
    for i in range(n):
        if split_by == "number":
            k = steps - 1 if n // steps and i >= (n // steps) * steps else min(i // max(n // steps, 1), steps - 1)
        else:
            k = next(k for k in range(steps) if (found.t[i] - begin) * steps < (k + 1) * (end - begin + 1))
        expected[k, found.p[i], found.y[i] // 2, found.x[i] // 2] += 1
    frames, lost = to_frames(found, binning)
    assert np.array_equal(frames.numpy(), np.minimum(expected, 3))
    assert int(frames.sum()) + lost == n  # none dropped, each clipped one counted


def test_binning_by_number_gives_the_rest_to_the_last_bin() -> None:
    numbers = events.bin_numbers(some_events(23), Binning(4, (2, 34, 34), 31))
    assert np.bincount(numbers).tolist() == [5, 5, 5, 8]


def test_events_outside_the_sensor_are_refused() -> None:
    far = replace(some_events(5), x=np.array([0, 1, 34, 3, 4]))
    with pytest.raises(UserError, match="event with x outside the sensor's 34 values"):
        to_frames(far, Binning(2, (2, 34, 34), 31))
    with pytest.raises(UserError, match="no events"):
        to_frames(some_events(0), Binning(2, (2, 34, 34), 31))


def nmnist_bytes(found: Events) -> bytes:
    third = found.p << 7 | found.t >> 16
    return np.stack([found.x, found.y, third, found.t >> 8 & 255, found.t & 255], 1).astype(np.uint8).tobytes()


def aedat2_bytes(found: Events) -> bytes:
    address = (127 - found.x) << 8 | (127 - found.y) << 1 | (1 - found.p)
    body = np.stack([address, found.t], 1).astype(">u4").tobytes()
    return b"#!AER-DAT2.0\r\n# This is a raw AE data file\r\n# Creation time: System.currentTimeMillis() 7\r\n" + body


AEDAT31 = b"#!AER-DAT3.1\r\n#Format: RAW\r\n#Source 1: DVS128\r\n#Start-Time: 2016-01-01\r\n#!END-HEADER\r\n"


def packet(found: Events, kind: int = 1, spare: int = 0, wraps: int = 0, valid: int = 1) -> bytes:
    """One packet; `spare` places at its end are not used."""
    n = len(found)
    address = found.x << 17 | found.y << 2 | found.p << 1 | valid
    body = np.stack([address, found.t & 0x7FFFFFFF], 1).astype("<u4").tobytes()
    return struct.pack("<HHIIIIII", kind, 1, 8, 4, wraps, n + spare, n, n) + body + bytes(8 * spare)


def assert_same(left: Events, right: Events) -> None:
    for name in "xytp":
        assert np.array_equal(getattr(left, name), getattr(right, name)), name


@needs_tonic
@quick
@given(st.integers(1, 40), st.integers(0, 10**6))
def test_event_files_round_trip(scratch: Path, n: int, seed: int) -> None:
    found = some_events(n, seed)
    assert_same(event_files.read_nmnist(written(scratch / "a.bin", nmnist_bytes(found))), found)
    found = some_events(n, seed, 128)
    assert_same(event_files.read_cifar10_dvs(written(scratch / "a.aedat", aedat2_bytes(found))), found)
    content = AEDAT31 + packet(found, spare=seed % 3)
    assert_same(event_files.read_gesture(written(scratch / "b.aedat", content)), found)


@needs_tonic
def test_gesture_takes_valid_polarity_events_only(tmp_path: Path) -> None:
    one, two = some_events(5, 1, 128), some_events(7, 2, 128)
    noise = some_events(6, 3, 128)
    content = AEDAT31 + packet(one) + packet(noise, kind=0) + packet(noise, valid=0) + packet(two, wraps=1)
    found = event_files.read_gesture(written(tmp_path / "a.aedat", content))
    assert np.array_equal(found.x, np.concatenate([one.x, two.x]))
    assert np.array_equal(found.t, np.concatenate([one.t, two.t + 2**31]))


@needs_tonic
@quick
@given(st.integers(0, 10**6), st.sampled_from(["nmnist", "cifar10_dvs", "gesture"]))
def test_event_files_cut_off(scratch: Path, place: int, kind: str) -> None:
    found = some_events(6, 0, 34)
    whole = {"nmnist": nmnist_bytes, "cifar10_dvs": aedat2_bytes, "gesture": lambda e: AEDAT31 + packet(e)}[kind](found)
    path = written(scratch / "cut", whole[: place % len(whole)])
    reader = getattr(event_files, f"read_{kind}")
    start, event = {"nmnist": (0, 5), "cifar10_dvs": (len(whole) - 6 * 8, 8), "gesture": (len(whole), 8)}[kind]
    kept = place % len(whole) - start
    if kept >= 0 and kept % event == 0:  # these formats have no length: a cut between two events cannot be seen
        assert np.array_equal(reader(path).t, found.t[: kept // event])
    elif kind == "cifar10_dvs" and kept < 0:  # a header that ends in the middle of a comment has no events
        with contextlib.suppress(UserError):
            assert len(reader(path)) == 0
    else:
        with pytest.raises(UserError, match=r"cut off|does not start with|no packets"):
            reader(path)


@needs_tonic
@quick
@given(st.binary(max_size=120))
def test_event_files_fuzzed(scratch: Path, content: bytes) -> None:
    for kind, start in (("nmnist", b""), ("cifar10_dvs", b"#!AER-DAT2.0\r\n"), ("gesture", AEDAT31)):
        for head in (start, start + packet(some_events(2))[:20], b""):
            with contextlib.suppress(UserError):
                read = getattr(event_files, f"read_{kind}")(written(scratch / "fuzz", head + content))
                to_frames(read, Binning(2, (2, 34, 34), 31))


def test_event_files_need_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> ModuleType:
        raise ImportError(f"No module named {name!r}")

    event_files._tonic.cache_clear()
    monkeypatch.setattr(event_files.importlib, "import_module", absent)
    with pytest.raises(UserError, match=r"spikeproof\[events\]"):
        event_files.read_nmnist(written(tmp_path / "a.bin", bytes(5)))


@needs_tonic
def test_clipped_events_are_counted_and_named_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    crowd = Events(*(np.full(40, value) for value in (3, 4, 5, 1)))
    for label in range(10):
        for split in ("Train", "Test"):
            written(tmp_path / "N-MNIST" / split / str(label) / "00001.bin", nmnist_bytes(crowd))
    loaded = data.load("n-mnist", tmp_path, 1)
    frames = loaded.train.read(torch.tensor([3, 4]))
    assert frames.shape == (2, 1, 2, 34, 34)
    assert int(frames.max()) == 31
    assert isinstance(loaded.train, EventSplit)
    assert loaded.train.clipped.lost == 18
    assert capsys.readouterr().out.count("9 events above 31 per pixel and frame are clipped") == 1


@needs_tonic
def test_cifar10_dvs_split_and_factor(tmp_path: Path) -> None:
    for name in event_sets.CIFAR10_CLASSES:
        for i in range(11):
            written(
                tmp_path / "CIFAR10-DVS" / name / f"cifar10_{name}_{i}.aedat", aedat2_bytes(some_events(50, i, 128))
            )
    loaded = data.load("cifar10-dvs", tmp_path, 4)
    assert (len(loaded.train), len(loaded.test)) == (100, 10)
    assert isinstance(loaded.test, EventSplit)
    assert [clip.path.stem for clip in loaded.test.clips[:1]] == ["cifar10_airplane_9"]  # 0, 1, 10, 2, ..., 9
    frames = loaded.test.read(torch.tensor([0]))
    assert frames.shape == (1, 4, 2, 64, 64)
    assert int(frames.sum()) == 50


@pytest.mark.parametrize("count", [0, 1, 9])
def test_cifar10_dvs_without_test_samples_says_why(tmp_path: Path, count: int) -> None:
    for name in event_sets.CIFAR10_CLASSES:
        (tmp_path / "CIFAR10-DVS" / name).mkdir(parents=True)
        for i in range(count):
            written(tmp_path / "CIFAR10-DVS" / name / f"{i}.aedat", b"")
    with pytest.raises(UserError, match=rf"{count} \.aedat files.*90 %.*none is left for the test.*10 or more"):
        data.load("cifar10-dvs", tmp_path, 4)


@needs_tonic
def test_gesture_takes_the_labelled_spans(tmp_path: Path) -> None:
    folder = tmp_path / "DvsGesture"
    found = some_events(200, 0, 128, 1000)
    written(folder / "user01_lab.aedat", AEDAT31 + packet(found))
    table = written(
        folder / "user01_lab_labels.csv", b"class,startTime_usec,endTime_usec\r\n1,0,400\r\n11,400,1000\r\n"
    )
    for name in ("trials_to_train.txt", "trials_to_test.txt"):
        written(folder / name, b"user01_lab.aedat\n\n")
    loaded = data.load("dvs128-gesture", tmp_path, 2, "time")
    assert loaded.train.labels.tolist() == [0, 10]
    counts = loaded.train.read(torch.arange(2)).sum((1, 2, 3, 4)).tolist()
    assert counts == [int((found.t < 400).sum()), int((found.t >= 400).sum())]
    for row, message in (
        (b"12,0,4", r"labels\.csv: line 2: class 12, allowed 1\.\.11"),
        (b"a,0,4", "line 2"),
        (b"1,4,4", "line 2: starts at 4"),
    ):
        written(table, b"class,start,end\n" + row)
        with pytest.raises(UserError, match=message):
            data.load("dvs128-gesture", tmp_path, 2)


@needs_tonic
@pytest.mark.parametrize("limit", [1 << 20, 1])
def test_recordings_are_read_once_where_their_frames_fit(tmp_path: Path, limit: int) -> None:
    path = written(tmp_path / "a.aedat", AEDAT31 + packet(some_events(300, 0, 128, 1000)))
    reads: list[Path] = []

    def reader(file: Path) -> Events:
        reads.append(file)
        return event_files.read_gesture(file)

    clips = [Clip(path, (start, start + 250)) for start in (0, 250, 500)]
    binning = Binning(1, (2, 8, 8), 1, factor=16)
    store = FrameStore(3, (1, 2, 8, 8), limit)
    split = EventSplit(clips, torch.zeros(3, dtype=torch.long), reader, binning, store)
    first = split.read(torch.tensor([2, 0, 1]))
    lost = split.clipped.lost
    assert torch.equal(split.read(torch.tensor([2, 0, 1])), first)
    assert len(reads) == (1 if limit > 1 else 6)
    assert lost == split.clipped.lost > 0  # counted once per sample
    assert int(first.sum()) + lost == sum(len(reader(path).between(*clip.span or (0, 0))) for clip in clips)


def test_a_damaged_span_names_its_recording(tmp_path: Path) -> None:
    clip = Clip(tmp_path / "a.aedat", (500, 600))
    binning = Binning(1, (2, 34, 34), 31)
    split = EventSplit(
        [clip], torch.zeros(1), lambda _: some_events(9, 0, 34, 100), binning, FrameStore(1, (1, 2, 34, 34))
    )
    with pytest.raises(UserError, match=r"a\.aedat: no events"):
        split.read(torch.tensor([0]))


# ---- batches


@quick
@given(st.integers(2, 60), st.integers(1, 4), st.sampled_from([1, 2, 3]), st.integers(0, 50), st.integers(0, 9))
def test_shards_are_the_single_process_order(n: int, share: int, world: int, seed: int, epoch: int) -> None:
    size = 2 * share * world
    shards = [training_indices(n, size, seed, epoch, rank, world) for rank in range(world)]
    order = epoch_order(n, seed, epoch)
    assert sorted(order.tolist()) == list(range(n))
    assert {len(s) for s in shards} == {batch_count(n, size, world)}  # else a process would wait for ever
    for number, parts in enumerate(zip(*shards, strict=True)):
        assert len({len(part) for part in parts}) == 1
        batch = torch.cat(parts)
        assert torch.equal(batch, order[number * size :][: len(batch)])
    used = sum(len(part) for shard in shards for part in shard)
    assert n - used < 2 * world
    seen = torch.cat([torch.cat([*evaluation_indices(n, 4, r, world), torch.zeros(0)]) for r in range(world)])
    assert sorted(seen.tolist()) == list(range(n))


@quick
@given(st.integers(2, 60), st.integers(1, 5), st.integers(0, 50))
def test_repeated_samples_follow_each_other(n: int, repeats: int, seed: int) -> None:
    order, plain = epoch_order(n, seed, 3, repeats), epoch_order(n, seed, 3)
    assert order.tolist() == [int(plain[i // repeats]) for i in range(n)]
    assert torch.equal(torch.cat(training_indices(n, 2, seed, 3, repeats=repeats))[:n], order[: n - n % 2])


def test_order_depends_on_seed_and_epoch() -> None:
    orders = [tuple(epoch_order(50, seed, epoch).tolist()) for seed, epoch in ((0, 0), (0, 1), (1, 0), (0, 0))]
    assert len(set(orders)) == 3
    with pytest.raises(ValueError, match="multiple of the 3 processes"):
        training_indices(10, 4, 0, 0, 0, 3)


def test_every_batch_has_its_own_random_numbers() -> None:
    names = [(0, 0, 0, 0), (1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1)]
    draws = [tuple(torch.rand(4, generator=batch_generator(*name)).tolist()) for name in names]
    assert len(set(draws)) == 5
    assert draws[0] == tuple(torch.rand(4, generator=batch_generator(0, 0, 0)).tolist())


def noisy(frames: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    return frames + torch.randint(0, 100, frames.shape, generator=generator).to(torch.uint8)


def test_batches_are_the_same_with_any_number_of_workers() -> None:
    split = data.load("digits").train
    runs = [
        [(b.frames, b.labels) for b in data.training_batches(split, 128, 0, epoch, noisy, workers=workers)]
        for epoch, workers in ((3, 0), (3, 3), (4, 0))
    ]
    for (a, la), (b, lb) in zip(runs[0], runs[1], strict=True):
        assert torch.equal(a, b)
        assert torch.equal(la, lb)
    assert not torch.equal(runs[0][0][0], runs[2][0][0])
    evaluated = torch.cat([b.labels for b in data.evaluation_batches(split, 100, workers=2)])
    assert torch.equal(evaluated, split.labels)


def test_labels_stay_with_their_frames() -> None:
    frames = torch.arange(200, dtype=torch.uint8).view(-1, 1, 1, 1)
    split = MemorySplit(frames, torch.arange(200))
    for batch in data.training_batches(split, 16, 5, 2, workers=2):
        assert torch.equal(batch.frames.flatten().long(), batch.labels)


def test_workers_stay_a_bounded_distance_ahead() -> None:
    started: list[int] = []
    results = ahead(lambda i: started.append(i) or i, range(100), 2)  # type: ignore[func-returns-value]
    for consumed in range(10):
        assert next(results) == consumed
        assert len(started) <= consumed + 1 + 4
    results.close()  # type: ignore[attr-defined]
    assert len(started) < 20
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("data")]


def test_error_in_a_worker_reaches_the_consumer_at_its_item() -> None:
    def make(i: int) -> int:
        if i == 3:
            raise UserError("damaged")
        return i

    results = ahead(make, range(10), 2)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(UserError, match="damaged"):
        next(results)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_pinned_memory() -> None:
    split = data.load("digits").train
    for workers in (0, 2):
        batch = next(iter(data.training_batches(split, 64, 0, 0, workers=workers, pin=True)))
        assert batch.frames.is_pinned()
        assert torch.equal(batch.frames.to("cuda", non_blocking=True).cpu(), batch.frames)


# ---- input coding


def test_poisson_rates_and_extremes() -> None:
    frames = torch.tensor([0, 4, 8, 16], dtype=torch.uint8).view(1, 1, 1, 4)
    spikes = poisson(frames, 20000, 16, torch.Generator().manual_seed(0))
    assert spikes.shape == (20000, 1, 1, 1, 4)
    assert set(spikes.unique().tolist()) == {0.0, 1.0}
    rates = spikes.mean(0).flatten().tolist()
    assert rates[0] == 0
    assert rates[3] == 1
    assert rates[1] == pytest.approx(0.25, abs=0.013)  # four standard deviations
    assert rates[2] == pytest.approx(0.5, abs=0.015)
    with pytest.raises(ValueError, match="above levels"):
        poisson(frames, 2, 15, torch.Generator())


def test_over_time() -> None:
    images = torch.randint(0, 256, (3, 1, 2, 2), dtype=torch.uint8)
    assert torch.equal(over_time(images, 4), torch.stack([images.float()] * 4))
    clips = torch.randint(0, 9, (3, 4, 2, 2, 2), dtype=torch.uint8)
    assert torch.equal(over_time(clips, 4)[1], clips[:, 1].float())
    with pytest.raises(UserError, match="clips of 4 frames, the network's window has 5"):
        over_time(clips, 5)


# ---- real data


@pytest.fixture(scope="module")
def unpacker() -> ModuleType:
    spec = importlib.util.spec_from_file_location("unpack", REAL / "unpack.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@needs_real_data
def test_real_fashion_mnist(unpacker: ModuleType, tmp_path: Path) -> None:
    unpacker.fashion_mnist(tmp_path)
    loaded = data.load("fashion-mnist", tmp_path)
    assert (len(loaded.train), len(loaded.test)) == (60000, 10000)
    assert torch.bincount(loaded.train.labels).tolist() == [6000] * 10
    frames = loaded.train.read(torch.arange(60000)).double()
    assert float(frames.mean()) / 255 == pytest.approx(0.2860, abs=1e-4)
    assert float(frames.std()) / 255 == pytest.approx(0.3530, abs=1e-4)


@needs_real_data
@pytest.mark.slow
def test_real_cifar10(unpacker: ModuleType, tmp_path: Path) -> None:
    unpacker.cifar10(tmp_path)
    loaded = data.load("cifar10", tmp_path)
    assert (len(loaded.train), len(loaded.test)) == (50000, 10000)
    assert torch.bincount(loaded.train.labels).tolist() == [5000] * 10
    assert torch.bincount(loaded.test.labels).tolist() == [1000] * 10
    frames = loaded.train.read(torch.arange(50000)).double() / 255
    assert frames.mean((0, 2, 3)).tolist() == pytest.approx([0.4914, 0.4822, 0.4465], abs=1e-4)
    per_image = frames.flatten(2).std(2, correction=0).mean(0)  # the deviation that is published for CIFAR-10
    assert per_image.tolist() == pytest.approx([0.2023, 0.1994, 0.2010], abs=2e-4)


@needs_real_data
@needs_tonic
def test_real_nmnist(unpacker: ModuleType, tmp_path: Path) -> None:
    unpacker.nmnist(tmp_path)
    folder = tmp_path / "N-MNIST"
    (folder / "Test").symlink_to(folder / "Train")  # the published test set is not at hand
    loaded = data.load("n-mnist", tmp_path, 10)
    assert isinstance(loaded.train, EventSplit)
    assert len(loaded.train) == 1000
    assert set(loaded.train.labels.tolist()) == set(range(10))
    total = 0
    for index, clip in enumerate(loaded.train.clips[::10]):
        frames = loaded.train.read(torch.tensor([10 * index]))
        assert int(frames.sum()) == clip.path.stat().st_size // 5  # every event of the file is in a frame
        total += int(frames.sum())
    assert total > 300_000
    assert loaded.train.clipped.lost == 0
