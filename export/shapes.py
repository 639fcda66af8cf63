"""Shapes as users write them: axes of size 1 may be left out, so that (C, L) is (C, 1, L)."""

from __future__ import annotations

from collections.abc import Sequence


def without_ones(shape: Sequence[int]) -> tuple[int, ...]:
    """The sides that are not 1: two shapes with the same ones hold the same values in the same order."""
    return tuple(int(side) for side in shape if side != 1)
