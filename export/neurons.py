"""A population's neurons over its window: compiled for the CPU, in Triton on a GPU, or step by step in PyTorch.

All give the same. Arrays are [B, T, *shape] with the channels last, (H, W, C).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from export import limits
from export.network import LIF, Population
from train import kernels
from train.kernels.cells import Neurons
from train.kernels.cells import neurons as cells_of

if TYPE_CHECKING:
    from train.kernels.loihi import Arriving

COMPILED_FROM = 1 << 21  # neurons times images: below, loading what is compiled takes longer than the layer

Way = Literal["compiled", "triton", "steps"]
Update = Callable[[Tensor, int], None]  # runs on a_in [B, steps, *shape] for the steps from this one on


@dataclass(frozen=True, eq=False)
class Output:
    """Where a population's window goes: spikes bool, and v int64 where it is wanted; [B, T, *shape]."""

    spikes: Tensor
    membrane: Tensor | None


def on_currents(population: Population, output: Output, peak: int) -> Update:
    """Neurons at rest, which take the currents of a window in order, a few steps at a time.

    Args:
        peak: no |a_in| is larger.
    """
    match way(output.spikes.device, output.spikes.numel()):
        case "compiled":
            return _compiled(population, output, peak)
        case "triton":
            return _triton(population, output, peak)
    return _step_by_step(State(population, output, peak))


def on_spikes(
    population: Population, output: Output, peak: int, arriving: tuple[Arriving, ...], exponent: int, sums: type
) -> None:
    """Run a whole window on the spikes that arrive, compiled for the CPU.

    Args:
        peak: no |a_in| is larger.
        arriving, exponent, sums: as in `loihi.layer`.
    """
    from train.kernels import loihi

    cells = _cells(population).narrowest(peak)
    state = cells.at_rest(len(output.spikes))
    loihi.layer(cells, arriving, exponent, state, as_bytes(output.spikes), _flat(output.membrane), sums)


def way(device: torch.device, size: int) -> Way:
    """How to run a population on its currents; `size`: neurons times images."""
    if device.type == "cuda":
        return "triton" if kernels.on_cuda() == "triton" else "steps"
    return "compiled" if device.type == "cpu" and size >= COMPILED_FROM else "steps"


def channels_last(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A population's shape with its channels last."""
    return (*shape[1:], shape[0])


def as_bytes(x: Tensor) -> np.ndarray:
    """Spikes of the CPU, [B, T, neurons]."""
    return x.flatten(2).numpy().view(np.uint8)


def _flat(x: Tensor | None) -> np.ndarray | None:
    return None if x is None else x.flatten(2).numpy()


def _cells(population: Population) -> Neurons:
    program = population.program
    assert isinstance(program, LIF)
    vth, bias, dv, du = (
        np.moveaxis(np.broadcast_to(x, population.shape), 0, -1)
        for x in (program.vth, program.bias, program.dv, program.du)
    )
    return cells_of(vth, bias, dv, du, channels_last(population.shape), subtract=program.reset == "subtract")


def _compiled(population: Population, output: Output, peak: int) -> Update:
    from train.kernels import loihi

    cells = _cells(population).narrowest(peak)
    state, spikes, membrane = cells.at_rest(len(output.spikes)), as_bytes(output.spikes), _flat(output.membrane)
    return lambda current, begin: loihi.scan(cells, current.flatten(2).numpy(), state, spikes, membrane, begin)


def _triton(population: Population, output: Output, peak: int) -> Update:
    from train.kernels import triton_loihi

    neurons = triton_loihi.at_rest(_cells(population), len(output.spikes), peak, output.spikes.device)
    spikes = output.spikes.flatten(2).view(torch.uint8)
    membrane = None if output.membrane is None else output.membrane.flatten(2)
    return lambda current, begin: triton_loihi.scan(neurons, current.flatten(2).contiguous(), spikes, membrane, begin)


def _step_by_step(state: State) -> Update:
    def run(current: Tensor, begin: int) -> None:
        for index in range(current.shape[1]):
            state.step(begin + index, current[:, index])

    return run


class State:
    """A population that runs step by step in PyTorch, in float64, which holds its 36-bit products exactly."""

    def __init__(self, population: Population, output: Output, peak: int) -> None:
        cells, zero = _cells(population), torch.zeros_like(output.spikes[:, 0], dtype=torch.float64)

        def each(values: np.ndarray) -> Tensor:
            return torch.from_numpy(values).to(zero).view(zero.shape[1:])

        self.output, self.subtract, self.forgets = output, cells.subtract, not len(cells.keep_u)
        self.bias, self.threshold = each(cells.bias), each(cells.threshold)
        self.kept = each(cells.keep_v) / limits.DECAY_UNITY
        self.kept_current = zero[0] if self.forgets else each(cells.keep_u) / limits.DECAY_UNITY
        self.wraps = not self.forgets or peak >= limits.CURRENT_LIMIT
        self.u, self.v = zero, zero.clone()

    def step(self, index: int, current: Tensor) -> None:
        """Step `index` of the window, with a_in [B, *shape]."""
        limit = limits.STATE_LIMIT
        u = current.to(torch.float64) * (1 << limits.STATE_SHIFT)
        if not self.forgets:
            u += torch.trunc(self.u * self.kept_current)
        if self.wraps:
            u = torch.where(u > limit, u - 2 * limit, torch.where(u <= -limit, u + 2 * limit, u))
        self.u = u
        v = self.v.mul_(self.kept).trunc_().add_(u).add_(self.bias).clamp_(1 - limit, limit - 1)
        if self.output.membrane is not None:
            self.output.membrane[:, index] = v.long()
        fired = v > self.threshold
        self.output.spikes[:, index] = fired
        self.v = v - fired * self.threshold if self.subtract else v.masked_fill_(fired, 0)
