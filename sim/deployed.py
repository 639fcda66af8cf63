"""A model or a run folder through compiler and engines in one call, without a file: for tests and notebooks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from torch import nn

from export.network import Ints, Network
from export.pipeline import compile_graph, lower_graph
from export.quantise import Signed
from export.store import read_network
from export.trace import trace
from sim import engines as known
from sim.inputs import payloads
from sim.recording import Recording
from train import runs
from train.data import DataSpec
from train.errors import UserError
from train.restore import restore


@dataclass(frozen=True, eq=False)
class Deployed:
    """The integer network, what it ran on (int64 [samples, T, *shape]), and engine name -> what the engine saw."""

    network: Network
    inputs: Ints
    recordings: Mapping[str, Recording]


def deploy(
    model: nn.Module | Path,
    inputs: npt.ArrayLike,
    engines: Sequence[str] = ("integer", "torch"),
    *,
    calibration: npt.ArrayLike | None = None,
    levels: int | None = None,
    weight_bits: int = 8,
    lava_timeout: float = 600.0,
) -> Deployed:
    """Compile a model, run engines.

    Args:
        model: a model of `train`, or a run folder that was exported (its network is taken as it is).
        inputs: [samples, T, C, H, W], whole numbers of 0 or more: what the engines run on.
        engines: "integer", "torch", "lava", "lava-models", "onnx", "reference".
        calibration: on which scales are searched, as `inputs`; by default `inputs`.
        levels: the largest raw value that the network must take; by default that of inputs and calibration.
        weight_bits: 2..8.
        lava_timeout: seconds that Lava may take.

    Raises:
        UserError: inputs, engines or model are not possible.
        CheckFailedError: Lava failed.
    """
    known.check(engines, "engine")
    if isinstance(model, Path):
        runs.find(model, needs={runs.NETWORK: "python -m export --target loihi2"})
        network = read_network(model / runs.NETWORK)
        trained = restore(model).model if "torch" in engines else None
    else:
        x = _frames(inputs if calibration is None else calibration, "calibration")
        top = int(max(x.max(), np.max(np.asarray(inputs)))) if levels is None else levels
        network, trained = _compile(model, x, top, weight_bits), model
    given = payloads(np.asarray(inputs), network, "inputs")
    recordings = {e: known.run(e, network, trained, given, lava_timeout=lava_timeout) for e in engines}
    return Deployed(network, given, recordings)


def _compile(model: nn.Module, x: npt.NDArray[np.float64], levels: int, bits: int) -> Network:
    _, steps, channels, height, width = x.shape
    spec = DataSpec("inputs", (channels, height, width), 0, levels, (), ())
    stages = lower_graph(trace(model, spec, steps, type(model).__name__))
    return compile_graph(stages, np.ascontiguousarray(x.swapaxes(0, 1)), Signed(bits)).network


def _frames(values: npt.ArrayLike, where: str) -> npt.NDArray[np.float64]:
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 5 or not x.size:
        raise UserError(f"shape {x.shape}, expected (samples, T, C, H, W)", where=where)
    if not np.isfinite(x).all() or not np.array_equal(x, np.rint(x)) or x.min() < 0:
        raise UserError("must hold whole numbers that are not negative", where=where)
    return x
