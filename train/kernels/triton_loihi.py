"""Loihi's neurons fused over time on a GPU, in Triton: one program takes a block of neurons through all steps.

The arithmetic is that of `fixed_point.loihi_lif`, bit for bit. The state is in 32 bits where the currents prove that
enough, else in 64 (`Neurons.narrowest`). Has run in Triton's interpreter, not yet on a GPU.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from train.kernels.cells import Neurons
from train.kernels.fixed_point import DECAY_SHIFT, STATE_LIMIT, STATE_SHIFT

BLOCK = 256
LIMIT, SHIFT = tl.constexpr(STATE_LIMIT), tl.constexpr(STATE_SHIFT)
DECAY, LOW = tl.constexpr(DECAY_SHIFT), tl.constexpr((1 << DECAY_SHIFT) - 1)


@dataclass(frozen=True, eq=False)
class OnDevice:
    """Neurons and their state on a device, int32 or int64; parameters as in `Neurons`.

    Attributes:
        u, v: state [B, neurons], which `scan` changes; u is empty where no current has a memory.
    """

    threshold: Tensor
    bias: Tensor
    keep_u: Tensor
    keep_v: Tensor
    subtract: bool
    u: Tensor
    v: Tensor


def at_rest(cells: Neurons, samples: int, peak: int, device: torch.device) -> OnDevice:
    """Neurons before a window; `peak`: no |a_in| is larger."""
    cells = cells.narrowest(peak)
    threshold, bias, keep_u, keep_v = (
        torch.from_numpy(x).to(device) for x in (cells.threshold, cells.bias, cells.keep_u, cells.keep_v)
    )
    u, v = (torch.zeros((samples, len(keep)), dtype=keep.dtype, device=device) for keep in (keep_u, keep_v))
    return OnDevice(threshold, bias, keep_u, keep_v, cells.subtract, u, v)


def scan(neurons: OnDevice, current: Tensor, fired: Tensor, membrane: Tensor | None = None, begin: int = 0) -> None:
    """Run neurons on currents from their state on, which becomes the state after the last step.

    Args:
        current: a_in of the steps from `begin` on, whole numbers in float32 or float64 [B, steps, neurons], contiguous.
        fired: gets the spikes of these steps, uint8 [B, T, neurons].
        membrane: gets v before a spike resets it, int64 [B, T, neurons].
    """
    n, size = neurons.v.numel(), neurons.v.shape[1]
    parameters = (neurons.threshold, neurons.bias, neurons.keep_u, neurons.keep_v, neurons.u, neurons.v)
    numbers = (n, size, current.shape[1], fired.shape[1], begin)
    options = {"memory": len(neurons.keep_u) > 0, "subtract": neurons.subtract, "watched": membrane is not None}
    watched = fired if membrane is None else membrane
    with torch.cuda.device_of(current):  # Triton launches on the current device, wherever the tensors are
        scan_kernel[(triton.cdiv(n, BLOCK),)](current, fired, watched, *parameters, *numbers, **options, block=BLOCK)


def _round_to_zero(x, keep):  # type: ignore[no-untyped-def]
    """rz(x * keep, 12), keep in 0..4096."""
    size = tl.abs(x)
    kept = (size >> DECAY) * keep + ((size & LOW) * keep >> DECAY)
    return tl.where(x < 0, -kept, kept)


kept: Any = triton.jit(_round_to_zero)


def _scan(current, fired, membrane, thresholds, biases, keeps_u, keeps_v, us, vs, n, size, steps, window, begin,  # type: ignore[no-untyped-def]
          memory: tl.constexpr, subtract: tl.constexpr, watched: tl.constexpr, block: tl.constexpr):  # fmt: skip
    i = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    inside = i < n
    sample, cell = i // size, i % size
    threshold, bias = tl.load(thresholds + cell, mask=inside, other=0), tl.load(biases + cell, mask=inside, other=0)
    keep_v, v = tl.load(keeps_v + cell, mask=inside, other=0), tl.load(vs + i, mask=inside, other=0)
    if memory:
        keep_u, last = tl.load(keeps_u + cell, mask=inside, other=0), tl.load(us + i, mask=inside, other=0)
    read, write = sample * steps * size + cell, (sample * window + begin) * size + cell
    for _ in range(steps):
        u = tl.load(current + read, mask=inside, other=0).to(v.dtype) << SHIFT
        if memory:
            u += kept(last, keep_u)
        u = tl.where(u > LIMIT, u - 2 * LIMIT, tl.where(u <= -LIMIT, u + 2 * LIMIT, u))
        if memory:
            last = u
        v = kept(v, keep_v) + u + bias
        v = tl.minimum(tl.maximum(v, 1 - LIMIT), LIMIT - 1)
        if watched:
            tl.store(membrane + write, v.to(tl.int64), mask=inside)
        spike = v > threshold
        tl.store(fired + write, spike.to(tl.uint8), mask=inside)
        v = tl.where(spike, v - threshold if subtract else 0, v)
        read += size
        write += size
    tl.store(vs + i, v, mask=inside)
    if memory:
        tl.store(us + i, last, mask=inside)


scan_kernel = triton.jit(_scan, do_not_specialize=["steps", "begin"])  # they differ from chunk to chunk
