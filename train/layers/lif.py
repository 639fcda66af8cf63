"""The leaky integrate-and-fire neuron."""

from __future__ import annotations

from torch import Tensor, nn

from train import kernels
from train.surrogate import Surrogate, TanhWindow


class LIF(nn.Module):
    """LIF over the whole window: input current [T, B, ...] to spikes (0 or 1) of the same shape.

    V_t = leak * H_{t-1} + x_t;  S_t = 1[V_t > threshold];  H_t = V_t (1 - S_t);  H_0 = 0.
    With `detach_reset` the reset passes no gradient.
    Defaults: leak 0.25, threshold 0.5, hard reset to 0, as in the official FSTA-SNN code [C for FSTA, I else].
    """

    gain = 1.0

    def __init__(
        self,
        leak: float = 0.25,
        threshold: float = 0.5,
        surrogate: Surrogate | None = None,
        detach_reset: bool = False,
    ) -> None:
        super().__init__()
        self.leak = leak
        self.threshold = threshold
        self.surrogate = surrogate or TanhWindow()
        self.detach_reset = detach_reset

    def forward(self, current: Tensor) -> Tensor:
        return kernels.lif(current, self.leak, self.threshold, self.surrogate, detach_reset=self.detach_reset)

    def extra_repr(self) -> str:
        return f"leak={self.leak}, threshold={self.threshold}, surrogate={self.surrogate}"
