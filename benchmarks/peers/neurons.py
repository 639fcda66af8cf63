"""SpikingJelly's multi-step LIF alone, by each of its implementations; current and spikes [T, B, C, H, W].

Settings as in `networks.py`. SpikingJelly 2.0 chooses by itself, unless an environment variable says which; CuPy is in
its releases before 2.0 only. Its `LIFNode` keeps the state in the type of the current, which 2.0's kernels do not take
in 16 bits: there the function behind it is called, with a state in float32 as this project has it, or in bf16.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Callable

import numpy
import torch
from torch import Tensor

from benchmarks.peers.networks import lif_node

Neuron = Callable[[Tensor], Tensor]


def _node(**options: str) -> Neuron:
    from spikingjelly.activation_based import functional

    node = lif_node(step_mode="m", **options)

    def run(current: Tensor) -> Tensor:
        functional.reset_net(node)
        spikes: Tensor = node(current)
        return spikes

    return run


def _function(state: torch.dtype) -> Neuron:
    """What `LIFNode` calls, with a state of this type; one that is not float32 takes kernels of its own."""
    from spikingjelly.activation_based import functional, surrogate

    atan = surrogate.ATan()
    storage = {} if state == torch.float32 else {"neuron_storage": state}

    def run(current: Tensor) -> Tensor:
        rest = torch.zeros_like(current[0], dtype=state)
        spikes: Tensor = functional.lif_multi_step(current, rest, 2.0, False, 1.0, 0.0, atan, True, **storage)[0]
        return spikes

    return run


def _choose(implementation: str) -> None:
    """Before SpikingJelly 2.0 is imported; one that is not there then fails instead of giving way to another."""
    os.environ["SJ_LIF_CUDA_IMPLEMENTATION"] = implementation


def _triton(precision: str) -> Neuron:
    importlib.import_module("triton")
    _choose("triton")
    return _node() if precision == "fp32" else _function(torch.float32)


def _triton_bf16_state(precision: str) -> Neuron:
    importlib.import_module("triton")
    _choose("triton")
    return _function(torch.bfloat16)


def _cuda(precision: str) -> Neuron:
    _choose("cuda")
    if importlib.util.find_spec("spikingjelly._ops.lif._C") is None:
        raise ModuleNotFoundError(name="SpikingJelly's kernels in CUDA, see benchmarks/peers/build.py")
    return _node() if precision == "fp32" else _function(torch.float32)


def _cupy(precision: str) -> Neuron:
    importlib.import_module("cupy")
    if not hasattr(numpy, "int"):
        numpy.int = int  # type: ignore[attr-defined]  # that release still asks for it
    return _node(backend="cupy")


def _torch(precision: str) -> Neuron:
    _choose("torch" if precision == "fp32" else "auto")  # told which, it refuses a state in 16 bits
    return _node()


NEURONS: dict[str, Callable[[str], Neuron]] = {
    "spikingjelly-triton": _triton,
    "spikingjelly-triton-bf16-state": _triton_bf16_state,
    "spikingjelly-cuda": _cuda,
    "spikingjelly-cupy": _cupy,
    "spikingjelly-torch": _torch,
}
"""By precision of the current; `ModuleNotFoundError`, whose name says what is missing."""
