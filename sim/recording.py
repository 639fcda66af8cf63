"""What an engine saw: the spikes of every population in every window, and the read-out's membrane potential."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, eq=False)
class Recording:
    """One engine's output for a batch of samples.

    Attributes:
        engine: its name ("integer", "torch", "lava", "lava-models", "onnx", "reference").
        spikes: population id -> bool [samples, T, *shape]; every LIF population but the read-out, in network order.
        membrane: population id -> int64 [samples, T, *shape], the read-out's membrane potential in units of v.
    """

    engine: str
    spikes: Mapping[str, npt.NDArray[np.bool_]]
    membrane: Mapping[str, npt.NDArray[np.int64]]

    @property
    def samples(self) -> int:
        """Number of samples in the batch."""
        return len(next(iter([*self.spikes.values(), *self.membrane.values()])))
