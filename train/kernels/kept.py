"""Compiles Python for the CPU with Numba, and keeps what came out on disk, where the next process finds it.

Numba's own cache takes no function whose closure holds compiled ones, and sees changes of one file alone.
"""

from __future__ import annotations

import contextlib
import hashlib
from functools import cache
from pathlib import Path
from typing import Any

import numba
from numba.core.caching import FunctionCache


def inline(function: Any) -> Any:
    """Compiled into its callers; without Python's check for division by zero, and without its lock."""
    return numba.njit(error_model="numpy", nogil=True)(function)


def kept(function: Any, *variant: object) -> Any:
    """Compiled at the first call unless it is on disk; where no folder can be written, in every process again.

    Args:
        variant: all that tells this function from another of its name and line: what its closure was made from.
    """
    compiled = inline(function)
    with contextlib.suppress(RuntimeError):  # no folder
        compiled._cache = _Kept(function, repr(variant))
    return compiled


class _Kept(FunctionCache):
    """Told apart by variant and by the text of every file here, since one may be compiled into another."""

    def __init__(self, function: Any, variant: str) -> None:
        super().__init__(function)  # type: ignore[no-untyped-call]
        self._variant = variant

    def _index_key(self, signature: Any, codegen: Any) -> Any:
        return signature, codegen.magic_tuple(), self._variant, _sources()

    def load_overload(self, signature: Any, context: Any) -> Any:
        with contextlib.suppress(Exception):  # whatever a damaged file brings
            return super().load_overload(signature, context)  # type: ignore[no-untyped-call]
        with contextlib.suppress(OSError):
            self.flush()  # type: ignore[no-untyped-call]
        return None

    def save_overload(self, signature: Any, result: Any) -> None:
        with contextlib.suppress(OSError):  # a full disk: it works without
            super().save_overload(signature, result)  # type: ignore[no-untyped-call]


@cache
def _sources() -> str:
    """Hash of all kernels' files."""
    found = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        found.update(path.read_bytes())
    return found.hexdigest()
