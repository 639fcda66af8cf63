"""Makes glibc keep the memory that PyTorch frees: a training step then meets no page faults. Imports no PyTorch."""

from __future__ import annotations

import ctypes
import os
import sys

HUGE_PAGES = "THP_MEM_ALLOC_ENABLE"  # PyTorch asks for transparent huge pages for large tensors; read when it is loaded
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4  # malloc.h
NEVER = 2**31 - 1
TOP_PAD_BYTES = 64 << 20
_TUNED = False


def keeps_memory() -> bool:
    """Whether `tune` has run: malloc keeps what is freed. Not known of a malloc that the user has chosen."""
    return _TUNED


def tune() -> str | None:
    """Tune malloc for this process and its children; one line that says so, None where this does not apply.

    Freed memory stays with the process: it holds its peak until it ends. Call before `import torch`.
    """
    if not sys.platform.startswith("linux") or "torch" in sys.modules:
        return None
    try:
        libc = ctypes.CDLL("libc.so.6")
        _, mallopt = libc.gnu_get_libc_version, libc.mallopt
    except (OSError, AttributeError):  # musl
        return None
    mallopt.argtypes, mallopt.restype = (ctypes.c_int, ctypes.c_int), ctypes.c_int
    settings = ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, NEVER), (M_TOP_PAD, TOP_PAD_BYTES))
    if not all(mallopt(name, value) for name, value in settings):
        return None
    os.environ.setdefault(HUGE_PAGES, "1")
    global _TUNED
    _TUNED = True
    return "malloc keeps freed memory and uses huge pages (--no-malloc-tuning switches this off)"
