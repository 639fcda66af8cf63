"""Neurons beside the plain LIF: integrate-and-fire, learnable leaks and gains, and ReLU for teachers.

All spiking ones are V_t = leak * H_{t-1} + gain * x_t;  S_t = 1[V_t > threshold];  H_t = V_t (1 - S_t);  H_0 = 0, over
the whole window, current [T, B, C, ...] to spikes of the same shape. They differ in what leak and gain are; both are
attributes of every one of them, a number, a scalar tensor or one value for each channel (C,).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from train import kernels
from train.layers.lif import LIF
from train.surrogate import Surrogate, TanhWindow


class IF(LIF):
    """Integrate and fire: leak 1, gain 1; threshold and hard reset as the LIF's [U: none of the six papers has it]."""

    def __init__(self, threshold: float = 0.5, surrogate: Surrogate | None = None) -> None:
        super().__init__(1.0, threshold, surrogate)


class LearnableNeuron(nn.Module):
    """What neurons with learnable leak or gain share."""

    detach_reset = False

    def __init__(self, threshold: float, surrogate: Surrogate | None) -> None:
        super().__init__()
        self.threshold = threshold
        self.surrogate = surrogate or TanhWindow()

    @property
    def leak(self) -> Tensor:
        """Factor of the potential that the step before left."""
        raise NotImplementedError

    @property
    def gain(self) -> float | Tensor:
        """Factor of the input current."""
        return 1.0

    def forward(self, current: Tensor) -> Tensor:
        return kernels.lif(current, self.leak, self.threshold, self.surrogate, gain=self.gain)

    def extra_repr(self) -> str:
        return f"threshold={self.threshold}, surrogate={self.surrogate}"


def _parameter(value: float, channels: int | None) -> nn.Parameter:
    """One learnable scalar, or one for each channel (C,)."""
    return nn.Parameter(torch.full(() if channels is None else (channels,), value))


class PLIF(LearnableNeuron):
    """Parametric LIF: leak = sigmoid(w), w learnable, one a layer or one a channel; gain 1.

    Initial leak 0.25. Source: the idea is Fang et al. 2021; their form also scales the input by 1 - leak, this one
    does not, as the LIF of the FSTA-SNN code does not [U: this project's choice].
    """

    def __init__(
        self,
        leak: float = 0.25,
        threshold: float = 0.5,
        surrogate: Surrogate | None = None,
        channels: int | None = None,
    ) -> None:
        super().__init__(threshold, surrogate)
        self.w = _parameter(math.log(leak / (1 - leak)), channels)

    @property
    def leak(self) -> Tensor:
        return torch.sigmoid(self.w)


class DALIF(LearnableNeuron):
    """Dual adaptive LIF: V_t = beta H_{t-1} + alpha x_t, alpha = tanh(tau_a) in space, beta = tanh(tau_b) in time.

    One learnable pair a layer [C], or one a channel with `channels` [U: an option of this project]. tanh [I, and the
    best activation of the paper's ablation S]; initial tau_a 1 (alpha 0.762), tau_b atanh(0.25) (beta 0.25) [I].
    Neither is clamped, so both may become negative. Keep them out of weight decay [I].
    Source: DA-LIF (arXiv 2502.10422), update [C], hard reset and threshold as in the FSTA-SNN code [I].
    """

    def __init__(
        self,
        leak: float = 0.25,
        threshold: float = 0.5,
        surrogate: Surrogate | None = None,
        channels: int | None = None,
    ) -> None:
        super().__init__(threshold, surrogate)
        self.tau_a = _parameter(1.0, channels)
        self.tau_b = _parameter(math.atanh(leak), channels)

    @property
    def leak(self) -> Tensor:
        return torch.tanh(self.tau_b)

    @property
    def gain(self) -> Tensor:
        return torch.tanh(self.tau_a)


class AdaptiveLIF(LearnableNeuron):
    """STAA-SNN's adaptive LIF: V_t = M H_{t-1} + N x_t with learnable M and N for each channel.

    Initial M 0.25, N 1; one value a channel, (C,): the paper says coefficient matrices and leaves their shape open
    [I]. Source: STAA-SNN (arXiv 2503.02689), update [S]; one source has it fire at V_t >= threshold, here
    it fires above, as all neurons do [I].
    """

    def __init__(
        self, channels: int, leak: float = 0.25, threshold: float = 0.5, surrogate: Surrogate | None = None
    ) -> None:
        super().__init__(threshold, surrogate)
        self.m = _parameter(leak, channels)
        self.n = _parameter(1.0, channels)

    @property
    def leak(self) -> Tensor:
        return self.m

    @property
    def gain(self) -> Tensor:
        return self.n


class ReLU(nn.Module):
    """max(x, 0) in the place of a spiking neuron: the network without spikes, for teachers; [T, B, ...]."""

    def forward(self, current: Tensor) -> Tensor:
        return torch.relu(current)
