"""LAMB against its equations, weight by weight."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from train.lamb import LAMB

RATE, DECAY = 0.03, 0.02


def expected(weights: list[np.ndarray], steps: list[list[np.ndarray]], decays: list[float]) -> list[np.ndarray]:
    weights = [w.copy() for w in weights]
    m, v = [np.zeros_like(w) for w in weights], [np.zeros_like(w) for w in weights]
    for t, gradients in enumerate(steps, 1):
        norm = np.sqrt(sum((g**2).sum() for g in gradients))
        for i, g in enumerate(gradients):
            g = g / max(1.0, norm)
            m[i] = 0.9 * m[i] + 0.1 * g
            v[i] = 0.999 * v[i] + 0.001 * g**2
            u = m[i] / (1 - 0.9**t) / (np.sqrt(v[i] / (1 - 0.999**t)) + 1e-6) + decays[i] * weights[i]
            length, size = np.sqrt((weights[i] ** 2).sum()), np.sqrt((u**2).sum())
            ratio = length / size if decays[i] and length > 0 and size > 0 else 1.0
            weights[i] = weights[i] - RATE * ratio * u
    return weights


def test_lamb_equals_its_equations() -> None:
    generator = np.random.default_rng(0)
    shapes = [(3, 4), (4,), (2, 3), (5,)]
    weights = [generator.normal(size=shape) for shape in shapes]
    weights[2][:] = 0  # no length of its own: the ratio is 1
    steps = [[generator.normal(size=shape) * scale for shape in shapes] for scale in (0.01, 1.0, 5.0)]
    parameters = [nn.Parameter(torch.tensor(w)) for w in weights]
    groups = [{"params": parameters[::2], "weight_decay": DECAY}, {"params": parameters[1::2]}]
    optimiser = LAMB(groups, RATE)
    for gradients in steps:
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = torch.tensor(gradient)
        optimiser.step()
    wanted = expected(weights, steps, [DECAY, 0.0, DECAY, 0.0])
    for parameter, w in zip(parameters, wanted, strict=True):
        np.testing.assert_allclose(parameter.detach().numpy(), w, rtol=1e-7)
