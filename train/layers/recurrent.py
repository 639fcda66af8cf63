"""A spiking layer with recurrent weights, one step late."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from train.layers.lif import LIF
from train.layers.neurons import LearnableNeuron


class Recurrent(nn.Module):
    """V_t = leak H_{t-1} + gain (x_t + R S_{t-1});  S_t = 1[V_t > threshold];  H_t = V_t (1 - S_t);  S_0 = H_0 = 0.

    Currents [T, B, F] to spikes of the same shape; R (F, F) learnable, N(0, 1 / F) at first, as for linear layers.
    Leak, gain, threshold and surrogate are those of `neuron`. None of the six papers has such a layer: this project's.
    """

    def __init__(self, neuron: LIF | LearnableNeuron, size: int) -> None:
        super().__init__()
        self.neuron = neuron
        self.weight = nn.Parameter(torch.empty(size, size).normal_(0.0, 1.0 / size))

    def forward(self, current: Tensor) -> Tensor:
        neuron = self.neuron
        leak, gain = neuron.leak, getattr(neuron, "gain", 1.0)
        membrane = spike = torch.zeros_like(current[0])
        spikes = []
        for x in current:
            potential = leak * membrane + gain * (x + functional.linear(spike, self.weight))
            slope = neuron.surrogate.derivative(potential.detach(), neuron.threshold)
            # the second term is zero, its gradient is the surrogate's
            spike = (potential > neuron.threshold).to(x.dtype) + (potential - potential.detach()) * slope
            membrane = potential * (1 - spike)
            spikes.append(spike)
        return torch.stack(spikes)
