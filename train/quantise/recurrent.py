"""A population with recurrent weights in integers; [T, B, F] in and out."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from train.kernels.fixed_point import loihi_step
from train.quantise import limits
from train.quantise.neurons import IntegerLIF
from train.quantise.straight_through import rows
from train.quantise.synapses import IntegerLinear


class IntegerRecurrent(nn.Module):
    """`layers.Recurrent` in Loihi's integers: a_in of each step and R times the spikes of the one before.

    Forward `loihi_step`; backward that of `layers.Recurrent`, straight through the rounding, in float units.
    """

    def __init__(self, neurons: IntegerLIF, weights: IntegerLinear) -> None:
        super().__init__()
        self.neurons, self.weights = neurons, weights

    def forward(self, current: Tensor) -> Tensor:
        with torch.autocast(current.device.type, enabled=False):
            return self._forward(current)

    def _forward(self, current: Tensor) -> Tensor:
        lif = self.neurons
        weight, bias = self.weights.effective().flatten(1), lif.bias_in_v
        unit = rows(lif.scale, lif.bias) * (1 << limits.STATE_SHIFT)
        vth, leak = rows(lif.vth, lif.bias), 1 - lif.dv / limits.DECAY_UNITY
        v = torch.zeros_like(current[0], dtype=torch.int64)
        left = spike = torch.zeros_like(current[0])
        spikes = []
        for x in current:
            a_in = x + nn.functional.linear(spike.to(weight.dtype), weight)
            fired, v, before = loihi_step(torch.round(a_in.detach()).long(), v, vth, bias.detach().long(), lif.dv)
            # zero forward; backward the potential in float units that the integers stand for
            whole = (a_in.double() * (1 << limits.STATE_SHIFT) + bias) / unit + leak * left
            potential = (before / unit + (whole - whole.detach())).float()
            slope = lif.surrogate.derivative(potential.detach(), lif.threshold)
            spike = fired.to(potential.dtype) + (potential - potential.detach()) * slope
            left = potential * (1 - spike)
            spikes.append(spike)
        return torch.stack(spikes)
