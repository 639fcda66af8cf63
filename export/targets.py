"""The files of the targets beyond network.h5: the same integer network in other formats, and the float model."""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path
from typing import Any

from export.formats.netx_writer import BIAS_EXP, write_netx
from export.network import Network
from export.pipeline import PASSES, Compiled
from export.quantise import Signed
from train import runs
from train.console import console
from train.errors import UserError


def netx_grid(grid: Signed) -> Signed:
    """The integers that netx holds: no weight exponents, biases in whole units of a_in."""
    return replace(grid, largest_exponent=0, bias_exponents=(BIAS_EXP, BIAS_EXP))


def write_network_netx(folder: Path, network: Network) -> None:
    """Write network.net.

    Raises:
        UserError: something netx cannot carry; the message names it.
    """
    write_netx(folder / runs.NETWORK_NETX, network)
    console.print(f"wrote {folder / runs.NETWORK_NETX}")


def write_network_onnx(folder: Path, network: Network) -> None:
    """Write network.onnx.

    Raises:
        UserError: onnx is not installed, or the network is recurrent or too large.
    """
    _onnx("onnx_integer").write_onnx(folder / runs.NETWORK_ONNX, network)
    console.print(f"wrote {folder / runs.NETWORK_ONNX}")


def write_model_onnx(folder: Path, compiled: Compiled) -> None:
    """Write model.onnx, the float model after the exact passes.

    Raises:
        UserError: onnx is not installed, or the model is too large.
    """
    _onnx("onnx_float").write_float_onnx(folder / runs.MODEL_ONNX, compiled.stages[PASSES[-1].__name__])
    console.print(f"wrote {folder / runs.MODEL_ONNX}")


def _onnx(name: str) -> Any:
    """A writer, imported late: onnx is an extra."""
    try:
        return importlib.import_module(f"export.formats.{name}")
    except ImportError as error:
        raise UserError(
            f"--target onnx needs onnx: {error}", hint="install the extra: pip install spikeproof[onnx]"
        ) from error
