"""CIFAR's Python version without running it: a pickle is a program, so the names it calls are inert here."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from train.data.files import read_at_most
from train.errors import UserError

PIXELS = 3 * 32 * 32
HINT = "use the binary version of the data set"


class _Dtype:
    """Stands in for numpy.dtype: remembers its code, computes nothing."""

    def __init__(self, code: Any = None, *_: Any) -> None:
        self.code = code

    def __setstate__(self, state: Any) -> None:
        """Byte order and flags mean nothing for bytes."""


class _Array:
    """Stands in for numpy.ndarray: remembers the state that the pickle gives it."""

    state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


def _reconstruct(*_: Any) -> _Array:
    return _Array()


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    """Python 3 writes the bytes of old protocols as a call of _codecs.encode."""
    if not isinstance(text, str) or encoding != "latin1":
        raise pickle.UnpicklingError("_codecs.encode of something else than latin1 text")
    return text.encode("latin1")


STAND_INS: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _encode,
}


class _Inert(pickle._Unpickler):
    """An unpickler that knows the five names above and nothing else.

    The one in Python: the one in C sizes its memo by the largest index in the file, gigabytes for a single bad byte.
    """

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in STAND_INS:
            raise pickle.UnpicklingError(f"it calls {module}.{name}, which no CIFAR batch does")
        return STAND_INS[module, name]


def read_batch(path: Path, label_key: bytes, max_images: int) -> tuple[np.ndarray[Any, np.dtype[np.uint8]], list[int]]:
    """Pixels uint8 [N, 3072] and N labels of one batch file of the Python version.

    Raises:
        UserError: not a batch file, or one that would run anything.
    """
    limit = max_images * (PIXELS + 200)  # 200: the file name and numbers kept for each image
    content = read_at_most(path, limit)
    if len(content) > limit:
        raise UserError(f"more than {limit} bytes", where=str(path), hint=HINT)
    try:
        batch = _Inert(io.BytesIO(content), encoding="bytes").load()
    except (KeyboardInterrupt, SystemExit):
        raise
    except Exception as error:  # a damaged pickle can fail in any way
        what = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"not a CIFAR batch: {what}", where=str(path), hint=HINT) from error
    if not isinstance(batch, dict):
        raise UserError(f"holds a {type(batch).__name__}, expected a dictionary", where=str(path), hint=HINT)
    pixels = _pixels(batch.get(b"data", batch.get("data")), path)
    labels = batch.get(label_key, batch.get(label_key.decode()))
    if not isinstance(labels, list) or len(labels) != len(pixels) or any(type(label) is not int for label in labels):
        raise UserError(f"{label_key.decode()} is not a list of {len(pixels)} integers", where=str(path), hint=HINT)
    return pixels, labels


def _pixels(array: Any, path: Path) -> np.ndarray[Any, np.dtype[np.uint8]]:
    state = array.state if isinstance(array, _Array) else None
    if not isinstance(state, tuple) or len(state) != 5:
        raise UserError("data is not an array", where=str(path), hint=HINT)
    _, shape, dtype, fortran, raw = state
    if (
        not (isinstance(dtype, _Dtype) and dtype.code in (b"u1", "u1") and isinstance(raw, bytes) and not fortran)
        or not (isinstance(shape, tuple) and len(shape) == 2 and all(type(size) is int for size in shape))
        or shape[1] != PIXELS
        or not 0 < shape[0] * shape[1] == len(raw)
    ):
        raise UserError(f"data is not an array of bytes [N, {PIXELS}]", where=str(path), hint=HINT)
    return np.frombuffer(raw, np.uint8).reshape(shape).copy()
