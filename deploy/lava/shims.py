"""What lava-nc 0.10.0 (2024, the last release) needs to run on Python 3.11 to 3.13 and NumPy 2, applied at run time.

`apply()` must be called before the first `import lava`. It changes two things in memory and nothing on disk, and does
no harm where the versions at hand need neither.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

CHILD_FAILED = 70  # exit code of a Lava child that raised (EX_SOFTWARE)
_applied = False


def apply() -> None:
    """Make `import lava` work here. Calling it again does nothing.

    Raises:
        RuntimeError: lava was imported before.
    """
    global _applied
    if _applied:
        return
    if "lava.magma" in sys.modules:
        raise RuntimeError("deploy.lava.shims.apply() must come before the first import of lava")
    _hashable_dataclass_defaults()
    _reshape_without_newshape()
    _applied = True


def _hashable_dataclass_defaults() -> None:
    """Python 3.11 refuses unhashable dataclass instances as field defaults, and `var_model` has some."""
    original = dataclasses.dataclass

    def dataclass(cls: Any = None, /, **options: Any) -> Any:
        if cls is None:
            return functools.partial(dataclass, **options)
        made = original(cls, **options)
        if made.__hash__ is None:
            made.__hash__ = object.__hash__
        return made

    dataclasses.dataclass = dataclass
    try:
        importlib.import_module("lava.magma.compiler.var_model")
    finally:
        dataclasses.dataclass = original


def _reshape_without_newshape() -> None:
    """NumPy 2.4 has no `np.reshape(newshape=)`, which `ReshapePort` calls in a child process."""
    ports = importlib.import_module("lava.magma.core.process.ports.ports").ReshapePort
    ports.get_transform_func_fwd = lambda port: functools.partial(_reshape, shape=port.shape)
    ports.get_transform_func_bwd = lambda port: functools.partial(_reshape, shape=port.old_shape)


def _reshape(data: Any, shape: tuple[int, ...]) -> Any:
    return np.reshape(data, shape)


def report_child_errors(path: Path) -> None:
    """Have every Lava child that raises append its traceback to `path` and exit at once with CHILD_FAILED.

    Lava itself keeps the traceback in a pipe that is read only after all children have ended, and they may not: those
    that wait for the failed one wait for ever.
    """
    runtime: Any = importlib.import_module("lava.magma.runtime.runtime")
    runtime.target_fn = _reporting(runtime.target_fn, path)
    model: Any = importlib.import_module("lava.magma.core.model.py.model").PyLoihiProcessModel
    for phase in ("_spike", "_post_mgmt"):  # before Lava's handler, which has other children end first
        setattr(model, phase, _reporting(getattr(model, phase), path))


def _reporting(function: Callable[..., None], path: Path) -> Callable[..., None]:
    """`function`, a method of a ProcessModel or the main function of a child (keyword `builder`)."""

    def run(*args: Any, **kwargs: Any) -> None:
        model = type(args[0]) if args else getattr(kwargs["builder"], "proc_model", type(kwargs["builder"]))
        try:
            function(*args, **kwargs)
        except Exception:
            with path.open("a", encoding="utf-8") as file:
                file.write(f"in the Lava process of {model.__name__}:\n{traceback.format_exc()}\n")
            os._exit(CHILD_FAILED)

    return run
