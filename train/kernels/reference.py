"""The multi-step LIF as a loop over time in plain PyTorch: slow, obvious, and what faster kernels must equal."""

from __future__ import annotations

import torch
from torch import Tensor

from train.layers.surrogate import TanhWindow


class _Spike(torch.autograd.Function):
    """Heaviside step forward, surrogate derivative backward."""

    @staticmethod
    def forward(ctx, membrane: Tensor, threshold: float, surrogate: TanhWindow) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.save_for_backward(membrane)
        ctx.threshold, ctx.surrogate = threshold, surrogate
        return (membrane > threshold).to(membrane.dtype)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[no-untyped-def]
        (membrane,) = ctx.saved_tensors
        return gradient * ctx.surrogate.derivative(membrane, ctx.threshold), None, None


def lif(current: Tensor, leak: float, threshold: float, surrogate: TanhWindow) -> Tensor:
    """Spikes of leaky integrate-and-fire neurons with hard reset; current and spikes [T, B, ...].

    V_t = leak * H_{t-1} + x_t;  S_t = 1[V_t > threshold];  H_t = V_t (1 - S_t);  H_0 = 0.
    The gradient flows through S in the reset. Source: official FSTA-SNN code [C for FSTA, I else].
    """
    membrane = torch.zeros_like(current[0])
    spikes = []
    for x in current:
        potential = leak * membrane + x
        spike: Tensor = _Spike.apply(potential, threshold, surrogate)  # type: ignore[no-untyped-call]
        membrane = potential * (1 - spike)
        spikes.append(spike)
    return torch.stack(spikes)
