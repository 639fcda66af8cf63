"""One neuron, several implementations: `reference` is the obvious one that every other is tested against."""

from __future__ import annotations

import importlib.util
import logging
from functools import cache
from typing import Literal

from torch import Tensor, nn

from train.kernels import reference
from train.surrogate import Surrogate

Backend = Literal["auto", "cpu", "triton", "reference"]
SMALL = 1 << 19  # elements over all T: below, a step takes milliseconds, and compiling the kernel takes seconds
_log = logging.getLogger(__name__)


def lif(
    current: Tensor,
    leak: float | Tensor,
    threshold: float,
    surrogate: Surrogate,
    gain: float | Tensor = 1.0,
    detach_reset: bool = False,
    bias: float | Tensor = 0.0,
    backend: Backend = "auto",
) -> Tensor:
    """Spikes of a multi-step LIF by the fastest implementation for this device; see `reference.lif`."""
    chosen = choose(current.device.type, surrogate, current.numel()) if backend == "auto" else backend
    if chosen == "cpu":
        from train.kernels import cpu

        return cpu.lif(current, leak, cpu.Neuron(threshold, surrogate, detach_reset), gain, bias)
    if chosen == "triton":
        from train.kernels import triton_lif

        return triton_lif.lif(current, leak, threshold, surrogate, gain, detach_reset, bias)
    return reference.lif(current, leak, threshold, surrogate, gain, detach_reset, bias)


def norm_lif(
    current: Tensor,
    norm: nn.BatchNorm2d,
    leak: float | Tensor,
    threshold: float,
    surrogate: Surrogate,
    gain: float | Tensor = 1.0,
    detach_reset: bool = False,
    steps: int | None = None,
) -> Tensor:
    """Spikes of lif(norm(current)), [T, B, C, H, W], as one operation where there is one; else one after the other.

    With `steps` T, a current [1, B, C, H, W] is that of every step.

    Spikes can differ from those of the two operations only where the potential meets the threshold up to rounding.
    """
    steps = steps or len(current)
    elements = steps * current.shape[1:].numel()
    if choose(current.device.type, surrogate, elements) == "cpu":
        from train.kernels import cpu
        from train.kernels import norm as fused

        if fused.fits(current, norm):
            return fused.norm_lif(current, norm, leak, cpu.Neuron(threshold, surrogate, detach_reset), gain, steps)
    return lif(norm(current.expand(steps, *current.shape[1:])), leak, threshold, surrogate, gain, detach_reset)


def choose(device: str, surrogate: Surrogate, elements: int) -> Backend:
    """The implementation that `auto` stands for on a device; says so once where it is the slow one."""
    if device == "cpu" and elements < SMALL:
        return "reference"
    if type(surrogate).__hash__ is None:
        return _slow("the surrogate cannot be hashed: make it a frozen dataclass")
    if device == "cuda":
        return on_cuda()
    if device == "cpu":
        return "cpu" if _installed("numba") else _slow("Numba is not installed")
    return _slow(f"no fused kernel for {device}")


def on_cuda() -> Backend:
    """The implementation for CUDA devices, of this neuron and of Loihi's."""
    return "triton" if _installed("triton") else _slow("Triton is not installed")


@cache
def _installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


@cache
def _slow(reason: str) -> Backend:
    _log.warning("LIF neurons run step by step in PyTorch, which is slower: %s", reason)
    return "reference"
