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
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from torch import Tensor

LARGE = 4 << 20  # bytes: below, malloc keeps what is freed
ROUND = 2 << 20  # bytes of a huge page
ROOMY = 2  # a block at most so many times larger than what is asked for
_NUMPY = {1: np.uint8, 2: np.int16, 4: np.float32, 8: np.float64}  # by bytes; PyTorch sees the type it wants
SLACK = 2  # held at most, against what was lent at once: blocks of several sizes take turns, each in its own


class Pool:
    """Blocks of memory, lent as tensors: one comes back when the last view of its tensor is gone.

    Attributes:
        held: bytes of all blocks, lent or free. Never more than SLACK times what was lent at once.
    """

    def __init__(self) -> None:
        self.held = 0
        self._most_lent = 0
        self._free: list[mmap.mmap] = []  # the first was given back first; blocks come back from any thread
        self._lock = threading.Lock()

    def empty(self, shape: Sequence[int], stride: Sequence[int], dtype: torch.dtype) -> Tensor:
        """As `torch.empty_strided`, for strides without holes."""
        count = math.prod(shape)
        block = self._take(-(-count * dtype.itemsize // ROUND) * ROUND)
        lent: Any = np.ndarray((count,), _NUMPY[dtype.itemsize], block)
        weakref.finalize(lent, self._free.append, block).atexit = False  # PyTorch holds `lent` as long as the tensor
        return torch.from_numpy(lent).view(dtype).as_strided(shape, stride)

    def clear(self) -> None:
        """Give what is free back to the system."""
        with self._lock:
            self._drop(0)
            self._most_lent = self.held

    def _take(self, size: int) -> mmap.mmap:
        with self._lock:
            sizes = [len(block) for block in self._free]
            best = min((found for found in sizes if size <= found <= ROOMY * size), default=None)
            if best is not None:
                block = self._free.pop(len(sizes) - 1 - sizes[::-1].index(best))  # the last is warm
            else:
                self._drop(max(SLACK * self._most_lent, self._lent() + size) - size)
                block = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
                with suppress(OSError):  # a kernel without them
                    block.madvise(mmap.MADV_HUGEPAGE)
                self.held += size
            self._most_lent = max(self._most_lent, self._lent())
            return block

    def _lent(self) -> int:
        return self.held - sum(map(len, tuple(self._free)))

    def _drop(self, limit: int) -> None:
        """Let go of free blocks until no more than `limit` bytes are held."""
        while self._free and self.held > limit:
            self.held -= len(self._free.pop(0))


POOL = Pool()
_WORKS = sys.platform == "linux" and hasattr(mmap, "MADV_HUGEPAGE")


def empty_strided(shape: Sequence[int], stride: Sequence[int], dtype: torch.dtype) -> Tensor:
    """As `torch.empty_strided` on the CPU, for strides without holes; of large tensors, from the pool."""
    if not _WORKS or math.prod(shape) * dtype.itemsize < LARGE:
        return torch.empty_strided(tuple(shape), tuple(stride), dtype=dtype)
    return POOL.empty(shape, stride, dtype)
