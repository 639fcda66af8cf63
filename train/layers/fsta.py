"""FSTA-SNN: frequency-based spatial-temporal attention on the input current of a spiking layer."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from train.layers.parameters import uniform

SIZE = 7  # of the DCT kernels and of the convolution that weighs them


def dct_kernels(size: int = SIZE) -> Tensor:
    """The orthonormal 2-D DCT-II basis: [size * size, size, size], kernel k = u + size v [C].

    D_k[i, j] = c_u c_v cos((2 i + 1) u pi / (2 size)) cos((2 j + 1) v pi / (2 size)), c_0 = sqrt(1 / size), else
    sqrt(2 / size); u is the vertical frequency, v the horizontal one.
    """
    position = torch.arange(size, dtype=torch.float64)
    basis = torch.cos((2 * position + 1) * position.view(-1, 1) * math.pi / (2 * size)) * math.sqrt(2 / size)
    basis[0] = math.sqrt(1 / size)
    return torch.einsum("ui,vj->vuij", basis, basis).reshape(size * size, size, size).float()


class FSTA(nn.Module):
    """out = x (1 + g_t) (t + s (1 + g_s)) / 2 for currents x [T, B, C, H, W]; all statistics use the whole window.

    Temporal amplitude: p = alpha mean_HW x + beta max_HW x;  g_t = sigmoid(mean_C (W_t p)), [T, B], W_t (T, T).
    Spatial frequency:  u = mean_T x (1 + g_t);  F_k = sum_C D_k * u, the 49 DCT kernels, padding 3;
                        g_s = sigmoid(w * F), [B, H, W], w a 7x7 convolution of 49 channels to 1, padding 3.
    Neither W_t nor w has a bias. The mean over C, the sum over C and the kernels are linear, so they are taken in the
    cheaper order; x is multiplied once.
    Initial values: alpha = beta = 0.5, t = 0.6, s = 0.5, W_t and w PyTorch's defaults.
    Source: `DCTSA` in the official code of FSTA-SNN (arXiv 2501.14744) [C]; whether the paper differs is [U].
    """

    dct: Tensor

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps = steps
        self.alpha = nn.Parameter(torch.tensor(0.5))
        self.beta = nn.Parameter(torch.tensor(0.5))
        self.temporal = uniform(steps, steps, fan_in=steps)
        self.spatial = uniform(1, SIZE * SIZE, SIZE, SIZE, fan_in=SIZE**4)
        self.t = nn.Parameter(torch.tensor(0.6))
        self.s = nn.Parameter(torch.tensor(0.5))
        self.register_buffer("dct", dct_kernels().unsqueeze(1), persistent=False)

    def gates(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """g_t [T, B] and g_s [B, H, W] for currents [T, B, C, H, W]."""
        amplitude = self.alpha * x.mean((3, 4)) + self.beta * x.amax((3, 4))
        g_t = torch.sigmoid(self.temporal @ amplitude.mean(2))
        u = ((1 + g_t)[..., None, None] * x.sum(2)).mean(0)
        frequencies = functional.conv2d(u.unsqueeze(1), self.dct, padding=SIZE // 2)
        g_s = torch.sigmoid(functional.conv2d(frequencies, self.spatial, padding=SIZE // 2))
        return g_t, g_s.squeeze(1)

    def forward(self, x: Tensor) -> Tensor:
        g_t, g_s = self.gates(x)
        spatial = (self.t + self.s * (1 + g_s)) / 2
        return x * ((1 + g_t)[:, :, None, None] * spatial).unsqueeze(2)

    def extra_repr(self) -> str:
        return f"steps={self.steps}"
