"""Memory for the large results of the fused operations on a CPU: what the last step gave back, the next one uses.

Unless it is tuned (`train.allocator`), malloc hands blocks of that size back to the system when they are freed, and a
new one costs a page fault for every 4 kB: as much as the operation itself. Memory of our own does without that for any
malloc, and where the process has loaded PyTorch before us.
"""

from __future__ import annotations

import math
import mmap
import sys
import threading
import weakref
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from torch import Tensor

LARGE = 4 << 20  # bytes: below, malloc keeps what is freed
PAGE = 2 << 20  # bytes of a huge page: what is lent, held and given back is whole ones
REGION = 1 << 30  # bytes of address space at a time; memory is only behind what has been lent of it
SLACK = 2  # held at most, against what was lent at once
_NUMPY = {1: np.uint8, 2: np.int16, 4: np.float32, 8: np.float64}  # by bytes; PyTorch sees the type it wants


class _Region:
    """Address space of so many pages: which of them are lent, and which have memory behind them."""

    def __init__(self, pages: int) -> None:
        self.memory = mmap.mmap(-1, (pages + 1) * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        with suppress(OSError):  # a kernel without them
            self.memory.madvise(mmap.MADV_HUGEPAGE)
        self.start = -np.frombuffer(self.memory, np.uint8).ctypes.data % PAGE  # huge pages begin at multiples
        self.lent, self.held = np.zeros(pages, np.bool_), np.zeros(pages, np.bool_)

    def room(self, pages: int) -> int | None:
        """The first of so many pages in a row that are not lent, as far to the front as can be; None without such."""
        changes = np.flatnonzero(np.diff(self.lent, prepend=True, append=True))
        begins, ends = changes[::2], changes[1::2]
        found = begins[ends - begins >= pages]
        return int(found[0]) if len(found) else None

    def drop(self) -> None:
        """Give what is not lent back to the system."""
        changes = np.flatnonzero(np.diff(self.held & ~self.lent, prepend=False, append=False))
        for begin, end in changes.reshape(-1, 2).tolist():
            self.memory.madvise(mmap.MADV_DONTNEED, self.start + begin * PAGE, (end - begin) * PAGE)
        self.held &= self.lent


class Pool:
    """Memory, lent as tensors: it comes back with the last view of its tensor, and what lies side by side is joined."""

    def __init__(self) -> None:
        self._regions: list[_Region] = []
        self._returned: deque[tuple[_Region, slice]] = deque()  # from any thread, at any time
        self._most_lent = 0
        self._lock = threading.Lock()

    @property
    def held(self) -> int:
        """Bytes of memory, lent or free. Never more than SLACK times what was lent at once."""
        return PAGE * sum(int(region.held.sum()) for region in self._regions)

    def empty(self, shape: Sequence[int], stride: Sequence[int], dtype: torch.dtype) -> Tensor:
        """As `torch.empty_strided`, for strides without holes."""
        count = math.prod(shape)
        region, pages = self._take(-(-count * dtype.itemsize // PAGE))
        lent: Any = np.ndarray((count,), _NUMPY[dtype.itemsize], region.memory, region.start + pages.start * PAGE)
        weakref.finalize(lent, self._returned.append, (region, pages)).atexit = False  # PyTorch holds it for the tensor
        return torch.from_numpy(lent).view(dtype).as_strided(shape, stride)

    def clear(self) -> None:
        """Give what is free back to the system."""
        with self._lock:
            self._most_lent = self._lent()
            self._drop()

    def _take(self, pages: int) -> tuple[_Region, slice]:
        with self._lock:
            before = self._lent()
            region, first = self._room(pages)
            taken = slice(first, first + pages)
            region.lent[taken] = region.held[taken] = True
            self._most_lent = max(self._most_lent, before + pages * PAGE)
            if self.held > SLACK * self._most_lent:
                self._drop()
            return region, taken

    def _room(self, pages: int) -> tuple[_Region, int]:
        """The first room of so many pages, in a new region where there is none."""
        for region in self._regions:
            if (first := region.room(pages)) is not None:
                return region, first
        mapped = sum(len(region.lent) for region in self._regions)
        self._regions.append(_Region(max(pages, mapped, REGION // PAGE)))
        return self._regions[-1], 0

    def _lent(self) -> int:
        """Bytes that are lent, when what has come back is noted."""
        while self._returned:
            region, pages = self._returned.popleft()
            region.lent[pages] = False
        return PAGE * sum(int(region.lent.sum()) for region in self._regions)

    def _drop(self) -> None:
        for region in self._regions:
            region.drop()


POOL = Pool()
_WORKS = sys.platform == "linux" and hasattr(mmap, "MADV_HUGEPAGE")


def empty_strided(shape: Sequence[int], stride: Sequence[int], dtype: torch.dtype) -> Tensor:
    """As `torch.empty_strided` on the CPU, for strides without holes; of large tensors, from the pool."""
    if not _WORKS or math.prod(shape) * dtype.itemsize < LARGE:
        return torch.empty_strided(tuple(shape), tuple(stride), dtype=dtype)
    try:
        return POOL.empty(shape, stride, dtype)
    except OSError:  # no address space: `ulimit -v`
        return torch.empty_strided(tuple(shape), tuple(stride), dtype=dtype)
