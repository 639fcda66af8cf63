"""Runs compiled work that has released Python's lock on PyTorch's own OpenMP threads.

Threads of another pool would compete with PyTorch's, which spin for a while after every operation and hold their cores.
"""

from __future__ import annotations

import ctypes
import itertools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import torch

MIN_ELEMENTS = 16384  # below this a part is done before another thread has started
_CALLBACK = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_WORK: dict[int, Callable[[], None]] = {}  # under way
_NUMBERS = itertools.count(1)


def _do(number: int) -> None:
    """What every thread of a team calls."""
    _WORK[number]()


_EVERY_THREAD = _CALLBACK(_do)  # made once: making one maps memory


@dataclass(frozen=True)
class _OpenMP:
    """Functions of the libgomp that PyTorch has loaded."""

    parallel: Any
    thread: Any
    team: Any


@cache
def _openmp() -> _OpenMP | None:
    """None where PyTorch uses another OpenMP, or none."""
    try:
        loaded = ctypes.CDLL(None)
        parallel, thread, team = loaded.GOMP_parallel, loaded.omp_get_thread_num, loaded.omp_get_num_threads
    except (OSError, AttributeError, TypeError):
        return None
    parallel.argtypes, parallel.restype = (_CALLBACK, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint), None
    return _OpenMP(parallel, thread, team)


@lru_cache(maxsize=1)
def _pool(process: int) -> ThreadPoolExecutor:
    """One pool a process: threads do not survive a fork."""
    return ThreadPoolExecutor(max_workers=os.cpu_count(), thread_name_prefix="lif")


def count(elements: int) -> int:
    """Threads that are worth using for this many elements."""
    return max(1, min(torch.get_num_threads(), elements // MIN_ELEMENTS))


def run(kernel: Any, parts: int, *arguments: object) -> None:
    """kernel(p, parts, *arguments) for every p."""
    if parts == 1 or not kernel.signatures:  # a first call compiles: not in parallel
        for part in range(parts):
            kernel(part, parts, *arguments)
        return
    openmp = _openmp()
    if openmp is None:
        list(_pool(os.getpid()).map(lambda part: kernel(part, parts, *arguments), range(parts)))
        return
    errors: list[BaseException] = []

    def work() -> None:
        try:
            for part in range(openmp.thread(), parts, openmp.team()):
                kernel(part, parts, *arguments)
        except BaseException as error:  # must not cross C frames
            errors.append(error)

    number = next(_NUMBERS)
    _WORK[number] = work
    try:
        openmp.parallel(_EVERY_THREAD, number, parts, 0)
    finally:
        del _WORK[number]
    if errors:
        raise errors[0]
