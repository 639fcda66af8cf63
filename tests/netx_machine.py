"""Runs a netx file with lava-dl's own reader in Lava: a script, since Lava needs a process of its own.

    python netx_machine.py FILE INPUTS.npy OUT.npz ARGUMENTS.json

INPUTS.npy: int [machine steps, *shape] as (C, H, W) or (N,). OUT.npz: s0, s1, ... of every layer, [machine steps, ...]
with the layer's axes in netx's order (W, H, C), and the last layer's membrane potential v.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import types
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]


def run(net: Path, stream: np.ndarray, bias: np.ndarray | None = None, **arguments: int | None) -> dict[str, Any]:
    """Spikes of every layer [machine steps, size in C order of (C, H, W)], and v of the last one.

    Args:
        stream: what the input sends in every machine step.
        bias: bias_mant of an input block (C, H, W), for files that have one.
        arguments: of `hdf5.Network`.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.save(folder / "in.npy", stream)
        if bias is not None:
            np.save(folder / "bias.npy", bias)
        (folder / "arguments.json").write_text(json.dumps(arguments))
        threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
        done = subprocess.run(
            [sys.executable, __file__, str(net), str(folder)],
            env={**os.environ, **threads, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr[-3000:] + done.stdout[-1000:]
        with np.load(folder / "out.npz") as arrays:
            return {key: _flat(arrays[key]) for key in arrays}


def _flat(values: np.ndarray) -> np.ndarray:
    """[steps, W, H, C] to [steps, C * H * W]."""
    return values.transpose(0, *range(values.ndim - 1, 0, -1)).reshape(len(values), -1)


def _main(net: str, folder: Path) -> None:
    from deploy.lava import shims

    shims.apply()
    sys.modules["lava.lib.dl.slayer.object_detection"] = types.ModuleType("object_detection")
    from lava.lib.dl.netx import hdf5
    from lava.magma.core.run_conditions import RunSteps
    from lava.magma.core.run_configs import Loihi2SimCfg
    from lava.proc.io.sink import Read
    from lava.proc.io.sink import RingBuffer as Sink
    from lava.proc.io.source import RingBuffer as Source

    stream = np.load(folder / "in.npy")
    steps = len(stream)
    network = hdf5.Network(net_config=net, **json.loads((folder / "arguments.json").read_text()))
    if (folder / "bias.npy").exists():
        network.in_layer.neuron.bias_mant.init = np.load(folder / "bias.npy").transpose(2, 1, 0)
    else:
        shape = network.inp.shape
        data = stream.reshape(steps, -1) if len(shape) == 1 else stream.reshape(steps, *shape[::-1])
        source = Source(data=np.ascontiguousarray(data.transpose(*range(data.ndim - 1, 0, -1), 0)))
        source.s_out.connect(network.inp)
    sinks = []
    for layer in network.layers:
        sinks.append(Sink(shape=layer.out.shape, buffer=steps))
        layer.out.connect(sinks[-1].a_in)
    membrane = Read(buffer=steps)
    membrane.connect_var(network.layers[-1].neuron.v)
    network.run(condition=RunSteps(num_steps=steps), run_cfg=Loihi2SimCfg(select_tag="fixed_pt"))
    found = {f"s{index}": np.moveaxis(sink.data.get(), -1, 0) for index, sink in enumerate(sinks)}
    found["v"] = np.moveaxis(membrane.data.get(), -1, 0)
    network.stop()
    np.savez(folder / "out.npz", **found)


if __name__ == "__main__":
    _main(sys.argv[1], Path(sys.argv[2]))
