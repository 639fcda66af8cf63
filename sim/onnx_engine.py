"""The ONNX engine: the network as `network.onnx` has it, run by onnxruntime on the CPU."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np

from export.network import Ints, Network
from sim.recording import Recording, recording
from train.errors import UserError

BATCH = 64


def run(network: Network, inputs: Ints, *, progress: Callable[[int, int], None] | None = None) -> Recording:
    """Simulate samples; inputs int64 [samples, T, *shape] of payloads.

    Raises:
        UserError: onnx or onnxruntime is not installed, or the network cannot be written as ONNX.
    """
    try:
        runtime = importlib.import_module("onnxruntime")
        writer = importlib.import_module("export.formats.onnx_integer")
    except ImportError as error:
        raise UserError(f"the onnx engine: {error}", hint="install the extra: pip install spikeproof[onnx]") from error
    values = run_model(runtime, writer.to_onnx(network).SerializeToString(), network, inputs, progress)
    return recording("onnx", network, values)


def run_model(
    runtime: Any, model: bytes, network: Network, inputs: Ints, progress: Callable[[int, int], None] | None = None
) -> dict[str, np.ndarray]:
    """Every output of a serialised model for `inputs`, in batches."""
    options = runtime.SessionOptions()
    options.log_severity_level = 3  # errors
    session = runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    parts: dict[str, list[np.ndarray]] = {name: [] for name in names}
    for first in range(0, len(inputs), BATCH):
        batch = inputs[first : first + BATCH]
        for name, values in zip(names, session.run(names, {network.source.id: batch}), strict=True):
            parts[name].append(values)
        if progress:
            progress(first + len(batch), len(inputs))
    return {name: np.concatenate(values) for name, values in parts.items()}
