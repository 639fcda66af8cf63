"""What a model and the exporter must know of a data set."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DataSpec:
    """Shape (C, H, W) of a frame, number of classes, and its raw values: integers in [0, levels].

    `mean` and `std` per channel, in raw units, are what the model normalises with.
    """

    name: str
    shape: tuple[int, int, int]
    classes: int
    levels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
