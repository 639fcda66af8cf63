"""Direct coding shows a network the same image at every step: what has no memory is computed for one step, not T."""

from __future__ import annotations

from torch import Tensor


def once(x: Tensor) -> Tensor:
    """[1, B, ...] of a tensor [T, B, ...] whose steps are one memory (by `expand`) and need no gradient, else x."""
    return x[:1] if len(x) > 1 and x.stride(0) == 0 and not x.requires_grad else x


def at_every_step(x: Tensor, steps: int) -> Tensor:
    """[T, B, ...] of a tensor [1, B, ...], without a copy; a tensor of all steps, or what is none, as it is."""
    return x.expand(steps, *x.shape[1:]) if isinstance(x, Tensor) and len(x) < steps else x
