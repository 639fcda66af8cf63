"""What the command line's switches change inside a backbone, as one value that every builder takes."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import nn

from train.choices import ShiftPosition, ShiftSplit
from train.layers import NeuronSpec, TemporalShift, make

MIN_CHANNELS = 4  # temporal shift needs three groups


@dataclass(frozen=True)
class Parts:
    """Neuron and attention, temporal shift (None: without) and the factor on channel counts."""

    neuron: NeuronSpec = field(default_factory=NeuronSpec)
    shift: ShiftPosition | None = None
    shift_split: ShiftSplit = "random"
    width: float = 1.0

    def channels(self, count: int) -> int:
        """A backbone's channel count, scaled."""
        return max(MIN_CHANNELS, round(count * self.width))

    def spiking(self, channels: int) -> nn.Module:
        """[attention + neuron] for currents of `channels` channels."""
        return make(self.neuron, channels)

    def shifted(self, place: ShiftPosition, channels: int) -> dict[str, nn.Module]:
        """{"shift": a temporal shift} where this network has one at `place`, else {}."""
        return {"shift": TemporalShift(channels, split=self.shift_split)} if self.shift == place else {}
