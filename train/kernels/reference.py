"""The multi-step LIF as a loop over time in plain PyTorch: slow, obvious, and what faster kernels must equal."""

from __future__ import annotations

import torch
from torch import Tensor

from train.surrogate import Surrogate


class _Spike(torch.autograd.Function):
    """Heaviside step forward, surrogate derivative backward."""

    @staticmethod
    def forward(ctx, membrane: Tensor, threshold: float, surrogate: Surrogate) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.save_for_backward(membrane)
        ctx.threshold, ctx.surrogate = threshold, surrogate
        return (membrane > threshold).to(membrane.dtype)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[no-untyped-def]
        (membrane,) = ctx.saved_tensors
        return gradient * ctx.surrogate.derivative(membrane, ctx.threshold), None, None


def per_channel(value: float | Tensor, like: Tensor) -> float | Tensor:
    """A scalar as it is; one value for each channel, (C,), shaped to multiply [B, C, ...]."""
    if isinstance(value, Tensor) and value.ndim == 1:
        return value.view(-1, *(1,) * (like.ndim - 2))
    return value


def lif(
    current: Tensor,
    leak: float | Tensor,
    threshold: float,
    surrogate: Surrogate,
    gain: float | Tensor = 1.0,
    detach_reset: bool = False,
    bias: float | Tensor = 0.0,
) -> Tensor:
    """Spikes of leaky integrate-and-fire neurons with hard reset; current and spikes [T, B, C, ...].

    V_t = leak * H_{t-1} + (gain * x_t + bias);  S_t = 1[V_t > threshold];  H_t = V_t (1 - S_t);  H_0 = 0.
    Leak, gain and bias are numbers, scalar tensors or one value for each channel (C,); gradients flow to tensors.
    The gradient flows through S in the reset, unless `detach_reset`. A 16-bit current has its state in float32.
    Source: official FSTA-SNN code [C for FSTA, I else].
    """
    if current.dtype in (torch.float16, torch.bfloat16):
        return lif(current.float(), leak, threshold, surrogate, gain, detach_reset, bias).to(current.dtype)
    leak, gain, bias = (per_channel(value, current[0]) for value in (leak, gain, bias))
    membrane = torch.zeros_like(current[0])
    spikes = []
    for x in current:
        potential = leak * membrane + (gain * x + bias)
        spike: Tensor = _Spike.apply(potential, threshold, surrogate)  # type: ignore[no-untyped-call]
        membrane = potential * (1 - (spike.detach() if detach_reset else spike))
        spikes.append(spike)
    return torch.stack(spikes)
