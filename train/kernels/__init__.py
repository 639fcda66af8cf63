"""One neuron, several implementations: `reference` is the obvious one that every other is tested against."""

from __future__ import annotations

from torch import Tensor

from train.kernels import reference
from train.surrogate import Surrogate


def lif(
    current: Tensor,
    leak: float | Tensor,
    threshold: float,
    surrogate: Surrogate,
    gain: float | Tensor = 1.0,
    detach_reset: bool = False,
) -> Tensor:
    """Spikes of a multi-step LIF by the fastest implementation for this device; see `reference.lif`."""
    return reference.lif(current, leak, threshold, surrogate, gain, detach_reset)
