"""What a model and the exporter must know of a data set."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DataSpec:
    """Shape (C, H, W) of a frame, number of classes, and its raw values: integers in [0, levels].

    `mean` and `std` per channel, in raw units, are what the model normalises with. `has_time` is set where a sample is
    a clip of T frames (event cameras); without it a sample is one image, which input coding turns into T steps.
    """

    name: str
    shape: tuple[int, int, int]
    classes: int
    levels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    has_time: bool = False

    @property
    def bits(self) -> int:
        """Of a raw value."""
        return max(1, self.levels.bit_length())
