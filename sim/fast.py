"""The `integer` engine: the network file executed layer by layer, see `export.execute`."""

from __future__ import annotations

from collections.abc import Callable

import torch

from export import execute
from export.network import Ints, Network
from sim.recording import Recording, recording


def run(
    network: Network,
    inputs: Ints,
    *,
    device: torch.device | str = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> Recording:
    """Simulate samples; arguments as in `export.execute.run`."""
    windows = execute.run(network, inputs, device=device, progress=progress)
    return recording("integer", network, windows)
