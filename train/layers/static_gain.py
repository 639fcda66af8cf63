"""What a folded attention gate leaves in a model: a gain that no longer depends on the sample or the step."""

from __future__ import annotations

from torch import Tensor, nn


class StaticGain(nn.Module):
    """y = gain x, gain (1 or C, 1 or H, 1 or W), positive; [T, B, C, H, W] to the same shape.

    Its logarithm is learned, so a gain stays positive: a chip takes it as a factor on thresholds or weights.

    Raises:
        ValueError: a gain that is not positive.
    """

    def __init__(self, gain: Tensor) -> None:
        super().__init__()
        if not bool((gain > 0).all()):
            raise ValueError(f"a gain of {float(gain.min()):g}, must be above 0")
        self.logarithm = nn.Parameter(gain.log())

    @property
    def gain(self) -> Tensor:
        """The gain itself, with gradient."""
        return self.logarithm.exp()

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gain
