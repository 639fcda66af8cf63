"""Temporal shift of a sum of currents, as weights: `export.passes.shift_of_currents` says why this is the same.

    channels [0, future):    (W x[t] + b) + alpha (W x[t + 1] + b)
    channels [future, past): (W x[t] + b) + alpha (W x[t - 1] + b)
    channels [past, C):      (1 + alpha) (W x[t] + b)
The weights of the neighbouring step, alpha W, and what its missing bias takes away at the window's edges are weights of
their own from here on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from train.layers.temporal_shift import Split
from train.quantise.fold import scaled_rows
from train.quantise.synapses import ForNeighbours, IntegerSynapses
from train.quantise.wiring import CurrentShift, Spikes, Synapse


@dataclass(frozen=True, eq=False)
class Edges(Synapse):
    """What a neighbour outside the window does not bring: one weight for each of the shifted channels, (past,)."""

    split: Split = field(kw_only=True)


@dataclass(frozen=True, eq=False)
class ShiftedCurrents:
    """The layers of a population whose current is shifted, and its bias (O, ...) before that."""

    shift: CurrentShift
    synapses: tuple[Synapse, ...]
    unshifted: Tensor

    @property
    def bias(self) -> Tensor:
        """Of the neuron, where both steps lie in the window."""
        return self.unshifted * (1 + self.shift.alpha)

    @property
    def all(self) -> tuple[Synapse, ...]:
        """For the step itself, for the neighbouring one (the first channels alone), and the edges."""
        past, alpha = self.shift.split.past, self.shift.alpha
        rows = torch.ones_like(self.unshifted.flatten(1)[:, 0] if self.unshifted.ndim > 1 else self.unshifted)
        rows[past:] += alpha
        present = [replace(s, weight=scaled_rows(s.weight, rows)) for s in self.synapses]
        neighbours = [_first_rows(replace(s, path=_neighbour(s.path)), past, alpha) for s in self.synapses]
        one = rows.new_ones(past)
        edges = Edges(
            path=self.shift.path,
            weight=-alpha * self.unshifted[:past].reshape(-1),
            bias=0 * one,
            source=Spikes((past,), 0 * one, one, one),
            shape=self.synapses[0].shape,
            split=self.shift.split,
        )
        return (*present, *neighbours, edges)

    def joined(self, built: Mapping[str, IntegerSynapses]) -> dict[str, nn.Module]:
        """The modules of `all`, those of the same layer in one."""
        pairs = {
            s.path: ForNeighbours(built[s.path], built[_neighbour(s.path)], self.shift.split) for s in self.synapses
        }
        return {**pairs, self.shift.path: built[self.shift.path]}


def _first_rows(synapse: Synapse, count: int, alpha: float) -> Synapse:
    source, weight = synapse.source, synapse.weight[:count] * alpha
    if weight.ndim == 1:  # one weight a channel, so that fewer channels arrive too
        few = slice(count)
        source = replace(source, low=source.low[few], high=source.high[few], factor=source.factor[few])
    return replace(synapse, weight=weight, source=source)


def _neighbour(path: str) -> str:
    return f"{path}.neighbour"
