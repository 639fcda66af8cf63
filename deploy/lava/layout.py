"""What the engine and its Lava worker agree on: which machine steps are a window, and which file holds what."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from export.network import LIF, Attention, Network, Population

ERRORS = "errors.txt"
UNRECORDED = 255  # in a file of spikes: a machine step that has not been run
UNSENT = -(1 << 31)  # in a file of graded spikes


def window_steps(network: Network, population: Population, samples: int) -> npt.NDArray[np.int64]:
    """Machine steps of the windows in which the population sends, [samples, T]."""
    first = population.sends(network.steps) + network.period * np.arange(samples, dtype=np.int64)
    return first[:, None] + np.arange(network.steps, dtype=np.int64)


def outside_windows(network: Network, population: Population, samples: int) -> npt.NDArray[np.bool_]:
    """Which machine steps lie outside these windows, [machine_steps]."""
    outside = np.ones(network.machine_steps(samples), dtype=np.bool_)
    outside[window_steps(network, population, samples)] = False
    return outside


def spiking(network: Network) -> tuple[Population, ...]:
    """The populations whose spikes are recorded: every LIF population but the read-out."""
    return tuple(p for p in network.populations if isinstance(p.program, LIF) and not p.readout)


def attending(network: Network) -> tuple[Population, ...]:
    """The populations of attention, whose graded spikes are recorded."""
    return tuple(p for p in network.populations if isinstance(p.program, Attention))


def graded_file(folder: Path, population: Population) -> Path:
    """int32 [machine_steps, size]: graded spikes, or UNSENT."""
    return folder / f"{population.id}.graded.npy"


def spikes_file(folder: Path, population: Population) -> Path:
    """uint8 [machine_steps, size]: 0, 1 or UNRECORDED."""
    return folder / f"{population.id}.spikes.npy"


def membrane_file(folder: Path, population: Population) -> Path:
    """int64 [machine_steps, size]: membrane potential at the end of each machine step, in units of v."""
    return folder / f"{population.id}.membrane.npy"
