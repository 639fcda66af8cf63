"""Loihi's LIF in integers, multi-step, in plain PyTorch: the arithmetic that training and export agree on."""

from __future__ import annotations

import torch
from torch import Tensor

STATE_LIMIT = 1 << 23
DECAY_SHIFT, STATE_SHIFT = 12, 6


def round_to_zero(x: Tensor, shift: int) -> Tensor:
    """sign(x) * (|x| >> shift), for int64 tensors."""
    return torch.sign(x) * (torch.abs(x) >> shift)


def loihi_step(a_in: Tensor, v: Tensor, vth: Tensor, bias: Tensor, dv: Tensor | int) -> tuple[Tensor, Tensor, Tensor]:
    """One step of `loihi_lif` without synaptic current: spikes, v after the reset to zero, v before it; v int64."""
    u = a_in << STATE_SHIFT
    u = torch.where(u > STATE_LIMIT, u - 2 * STATE_LIMIT, torch.where(u <= -STATE_LIMIT, u + 2 * STATE_LIMIT, u))
    before = (round_to_zero(v * (4096 - dv), DECAY_SHIFT) + u + bias).clamp(1 - STATE_LIMIT, STATE_LIMIT - 1)
    spike = before > vth << STATE_SHIFT
    return spike, before.masked_fill(spike, 0), before


def loihi_lif(
    current: Tensor, vth: Tensor, bias: Tensor, dv: Tensor | int, du: Tensor | int = 4095, *, subtract: bool = False
) -> tuple[Tensor, Tensor]:
    """Spikes (bool) and membrane potential before reset (int64) for synaptic input a_in; all [T, B, *shape], int64.

    u <- rz(u (4096 - (du + 1)), 12) + (a_in << 6), wrapped once;  v <- clip(rz(v (4096 - dv), 12) + u + bias)
    spike when v > (vth << 6), then v <- 0, or with `subtract` v <- v - (vth << 6).
    vth, bias, dv and du are int64 and broadcast to *shape. Source: lava-nc 0.10.0, `PyLifResetModelBitAcc`, which has
    the reset to zero only.
    """
    threshold = vth << STATE_SHIFT
    forgets = bool((torch.as_tensor(du) == 4095).all())
    u = torch.zeros_like(current[0])
    v = torch.zeros_like(current[0])
    spikes, membrane = [], []
    for a_in in current:
        u = (a_in << STATE_SHIFT) + (0 if forgets else round_to_zero(u * (4096 - (du + 1)), DECAY_SHIFT))
        u = torch.where(u > STATE_LIMIT, u - 2 * STATE_LIMIT, torch.where(u <= -STATE_LIMIT, u + 2 * STATE_LIMIT, u))
        v = round_to_zero(v * (4096 - dv), DECAY_SHIFT) + u + bias
        v = v.clamp(1 - STATE_LIMIT, STATE_LIMIT - 1)
        spike = v > threshold
        membrane.append(v)
        spikes.append(spike)
        v = v - spike * threshold if subtract else v.masked_fill(spike, 0)
    return torch.stack(spikes), torch.stack(membrane)
