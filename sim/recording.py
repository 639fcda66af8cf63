"""What an engine saw in every window: spikes, graded spikes of attention, the read-out's membrane potential."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from export.network import LIF, Attention, Network


@dataclass(frozen=True, eq=False)
class Recording:
    """One engine's output for a batch of samples.

    Attributes:
        engine: its name ("integer", "torch", "lava", "lava-models", "onnx", "reference").
        spikes: population id -> bool [samples, T, *shape]; every LIF population but the read-out, in network order.
        membrane: population id -> int64 [samples, T, *shape], the read-out's membrane potential in units of v.
        graded: population id -> int64 [samples, T, *shape], what attention sends.
    """

    engine: str
    spikes: Mapping[str, npt.NDArray[np.bool_]]
    membrane: Mapping[str, npt.NDArray[np.int64]]
    graded: Mapping[str, npt.NDArray[np.int64]] = field(default_factory=dict)

    def values(self, population: str) -> npt.NDArray[np.bool_] | npt.NDArray[np.int64] | None:
        """What was recorded of a population; None: nothing."""
        for found in (self.spikes, self.graded, self.membrane):
            if population in found:
                return found[population]
        return None

    @property
    def samples(self) -> int:
        """Number of samples in the batch."""
        return len(next(iter([*self.spikes.values(), *self.membrane.values(), *self.graded.values()])))


def recording(engine: str, network: Network, windows: Mapping[str, npt.NDArray[Any]]) -> Recording:
    """What an engine saw of a network, from population id -> windows [samples, T, *shape]."""
    seen = [p for p in network.populations if p.id in windows]
    spiking = [p for p in seen if isinstance(p.program, LIF)]
    return Recording(
        engine=engine,
        spikes={p.id: windows[p.id] for p in spiking if not p.readout},
        membrane={p.id: windows[p.id] for p in spiking if p.readout},
        graded={p.id: windows[p.id] for p in seen if isinstance(p.program, Attention)},
    )
