"""A population of the integer network: neurons that share a program, a shape and a window."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from export.programs import Attention, Program


@dataclass(frozen=True, eq=False)
class Population:
    """Neurons that share a program, a shape and a window.

    Attributes:
        id: unique, stable through every pass, and safe as an HDF5 name.
        origin: the module path (or NIR node) that it comes from, "" for none.
        shape: (C, H, W) or (N,).
        start: the machine step at which its first window begins.
        program: what its neurons do.
        readout: its output is the membrane potential in its window, not spikes; it never fires.
    """

    id: str
    origin: str
    shape: tuple[int, ...]
    start: int
    program: Program
    readout: bool = False

    @property
    def size(self) -> int:
        """Number of neurons."""
        return int(np.prod(self.shape))

    @property
    def waits(self) -> bool:
        """Whether it sends nothing of a sample before it has seen all of it."""
        return isinstance(self.program, Attention) and self.program.waits

    def sends(self, steps: int) -> int:
        """The machine step at which it first sends, for windows of `steps` steps."""
        return self.start + (steps if self.waits else 0)
