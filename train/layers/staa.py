"""STAA-SNN: position code, global context and step attention around a spiking neuron.

Order of a layer: current - position code - global context - neuron - step attention [S]. What the paper leaves open
inside the blocks is inferred from their names and published hyperparameters [I]; see each class.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional

from train.layers.parameters import uniform


class PositionCode(nn.Module):
    """x + P, P [T, 1, C, 1, 1] learnable, zero at first [I]; before the spatial aggregation [S]."""

    def __init__(self, channels: int, steps: int) -> None:
        super().__init__()
        self.code = nn.Parameter(torch.zeros(steps, 1, channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.code


class GlobalContext(nn.Module):
    """y = x g, one gate g for each step, sample and channel; [T, B, C, H, W] to the same shape.

    a = softmax_HW(W_k x), W_k: C -> 1;  z = sum_HW a x;  g = sigmoid(W_2 ReLU(LN(W_1 z + b_1)) + b_2), W_1: C -> C / r,
    W_2: C / r -> C. r = 4 and the sigmoid gate [S]; the inside is read as a global-context block (GCNet) [I]; PyTorch's
    default initial values and at least two hidden channels (LN of one value is constant) [U]. W_k has no bias: softmax
    would cancel it.
    """

    def __init__(self, channels: int, reduction: int = 4) -> None:
        super().__init__()
        hidden = max(2, channels // reduction)
        self.key = uniform(channels, fan_in=channels)
        self.squeeze = uniform(hidden, channels, fan_in=channels)
        self.squeeze_bias = uniform(hidden, fan_in=channels)
        self.norm = nn.LayerNorm(hidden)
        self.excite = uniform(channels, hidden, fan_in=hidden)
        self.excite_bias = uniform(channels, fan_in=hidden)

    def gate(self, x: Tensor) -> Tensor:
        """g [T, B, C] for currents [T, B, C, H, W]."""
        pixels = x.flatten(3)
        weights = torch.softmax(torch.einsum("tbcn,c->tbn", pixels, self.key), -1)
        context = torch.einsum("tbcn,tbn->tbc", pixels, weights)
        hidden = torch.relu(self.norm(functional.linear(context, self.squeeze, self.squeeze_bias)))
        return torch.sigmoid(functional.linear(hidden, self.excite, self.excite_bias))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(x)[..., None, None]


class StepAttention(nn.Module):
    """y_t = w_t y_t, one gate for each step and sample; [T, B, C, H, W] to the same shape.

    s = mean_CHW y [B, T];  w = sigmoid(W_b ReLU(W_a s + b_a) + b_b), W_a: T -> max(1, T / r), W_b back to T.
    Average pool, convolution, ReLU, convolution, sigmoid [S]; shapes [I]; r = 1 and PyTorch's initial values [U].
    """

    def __init__(self, steps: int, reduction: int = 1) -> None:
        super().__init__()
        hidden = max(1, steps // reduction)
        self.squeeze = uniform(hidden, steps, fan_in=steps)
        self.squeeze_bias = uniform(hidden, fan_in=steps)
        self.excite = uniform(steps, hidden, fan_in=hidden)
        self.excite_bias = uniform(steps, fan_in=hidden)

    def gate(self, y: Tensor) -> Tensor:
        """w [T, B] for spikes [T, B, C, H, W]."""
        hidden = torch.relu(functional.linear(y.mean((2, 3, 4)).T, self.squeeze, self.squeeze_bias))
        return torch.sigmoid(functional.linear(hidden, self.excite, self.excite_bias)).T

    def forward(self, y: Tensor) -> Tensor:
        return y * self.gate(y)[..., None, None, None]


class STAANeuron(nn.Sequential):
    """Position code, global context, neuron and step attention in the place of one neuron; currents [T, B, C, H, W].

    Its output is spikes times the step's gate, so no longer binary. Time-step random dropout, training only: at a step
    drawn with probability `drop` = 0.1 [S], for the whole batch, the neuron takes the plain current and its spikes are
    not gated; nothing is rescaled [I].
    A Sequential, so that symbolic tracing sees its four parts.
    """

    def __init__(self, neuron: nn.Module, channels: int, steps: int, drop: float = 0.1) -> None:
        parts: OrderedDict[str, nn.Module] = OrderedDict(
            position=PositionCode(channels, steps),
            context=GlobalContext(channels),
            neuron=neuron,
            step=StepAttention(steps),
        )
        super().__init__(parts)
        self.drop = drop

    def forward(self, input: Tensor) -> Tensor:
        position, context, neuron, step = self
        if not self.training:
            gated: Tensor = step(neuron(context(position(input))))
            return gated
        # drawn on the CPU, so that a seed gives the same steps on every device
        keep = (torch.rand(len(input)) >= self.drop).to(input.device).view(-1, 1, 1, 1, 1)
        spikes: Tensor = neuron(torch.where(keep, context(position(input)), input))
        return torch.where(keep, step(spikes), spikes)

    def extra_repr(self) -> str:
        return f"drop={self.drop}"
