"""Attention as graph nodes: gains that a sample's whole window decides, and the static values that replace them.

A layer with attention computes y = x gain(x), x and y [T, B, C, H, W]: three kinds of node, which know their
parameters, and one function `gain`. `Gain` is what folding leaves of them, `Relay` what graded spikes need behind them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, TypeAlias

import numpy as np
import torch
from torch.nn import functional

from export.graph import Floats, Gating, Node, Shape, fits
from train.errors import UserError


@dataclass(frozen=True, eq=False)
class FrequencyAttention(Gating):
    """FSTA-SNN (arXiv 2501.14744): gain (1 + g_t) (t + s (1 + g_s)) / 2, one g_t a step and one g_s a place.

    g_t = sigmoid(mean_C temporal (alpha mean_HW x + beta max_HW x)), temporal (T, T);
    g_s = sigmoid(spatial * F), F_k = kernels_k * mean_T sum_C (1 + g_t) x; kernels and spatial (K, k, k), zero padding.
    """

    alpha: float
    beta: float
    temporal: Floats
    kernels: Floats
    spatial: Floats
    t: float
    s: float

    def check(self, shape: Shape) -> None:
        _maps(self, shape)


@dataclass(frozen=True, eq=False)
class GlobalContext(Gating):
    """STAA-SNN's context block (arXiv 2503.02689): one gain in (0, 1) for each step and channel.

    a = softmax_HW(key x), key (C,);  z = sum_HW a x;  h = ReLU(LN(squeeze z + squeeze_bias)), squeeze (R, C), LN with
    `scale`, `shift` (R,) and `epsilon`;  gain = sigmoid(excite h + excite_bias), excite (C, R).
    """

    key: Floats
    squeeze: Floats
    squeeze_bias: Floats
    scale: Floats
    shift: Floats
    epsilon: float
    excite: Floats
    excite_bias: Floats
    waits: ClassVar[bool] = False

    def check(self, shape: Shape) -> None:
        _channels(self, shape, len(self.key))


@dataclass(frozen=True, eq=False)
class StepAttention(Gating):
    """STAA-SNN's step attention: one gain in (0, 1) for each step, of spikes.

    gain = sigmoid(excite ReLU(squeeze mean_CHW x + squeeze_bias) + excite_bias), squeeze (R, T), excite (T, R).
    """

    squeeze: Floats
    squeeze_bias: Floats
    excite: Floats
    excite_bias: Floats

    def check(self, shape: Shape) -> None:
        _maps(self, shape)


@dataclass(frozen=True, eq=False)
class Relay(Gating):
    """y = x: a sum of graded spikes, on its way to a neuron."""

    waits: ClassVar[bool] = False


@dataclass(frozen=True, eq=False)
class Gain(Node):
    """x gain, gain of the shape of x with sides of 1 where it is the same: (1 or C, 1 or H, 1 or W)."""

    gain: Floats

    def check(self, shape: Shape) -> None:
        if not fits(self.gain, shape):
            raise UserError(f"gain {self.gain.shape} for an input of {shape}", where=self.where)


Attention: TypeAlias = FrequencyAttention | GlobalContext | StepAttention | Relay


def _maps(node: Node, shape: Shape) -> None:
    if len(shape) != 3:
        raise UserError(f"input {shape}, expected (C, H, W)", where=node.where)


def _channels(node: Node, shape: Shape, channels: int) -> None:
    _maps(node, shape)
    if shape[0] != channels:
        raise UserError(f"{channels} channels for an input of {shape}", where=node.where)


def gain(node: Attention, x: Floats) -> Floats:
    """The gain of an attention node for x [T, B, C, H, W], of the same shape with sides of 1 where it is the same."""
    match node:
        case FrequencyAttention():
            amplitude = node.alpha * x.mean((3, 4)) + node.beta * x.max((3, 4))
            step = 1 + _sigmoid(node.temporal @ amplitude.mean(2))  # [T, B]
            summed = (step[..., None, None] * x.sum(2)).mean(0)  # [B, H, W]
            frequencies = _same(torch.from_numpy(summed)[:, None], node.kernels[:, None])
            place = 1 + _sigmoid(_same(frequencies, node.spatial[None]).numpy())  # [B, 1, H, W]
            return step[:, :, None, None, None] * (node.t + node.s * place) / 2
        case GlobalContext():
            pixels = x.reshape(*x.shape[:3], -1)
            score = np.einsum("tbcn,c->tbn", pixels, node.key)
            weight = np.exp(score - score.max(-1, keepdims=True))
            context = np.einsum("tbcn,tbn->tbc", pixels, weight / weight.sum(-1, keepdims=True))
            hidden = context @ node.squeeze.T + node.squeeze_bias
            centred = hidden - hidden.mean(-1, keepdims=True)
            normal = centred / np.sqrt(hidden.var(-1, keepdims=True) + node.epsilon) * node.scale + node.shift
            channel = _sigmoid(np.maximum(normal, 0) @ node.excite.T + node.excite_bias)
            return channel[..., None, None]
        case StepAttention():
            hidden = np.maximum(node.squeeze @ x.mean((2, 3, 4)) + node.squeeze_bias[:, None], 0)
            return _sigmoid(node.excite @ hidden + node.excite_bias[:, None])[:, :, None, None, None]
        case Relay():
            return np.ones((1,) * x.ndim)


def _sigmoid(x: Floats) -> Floats:
    result: Floats = torch.sigmoid(torch.from_numpy(np.asarray(x))).numpy()  # exact at large |x|, without overflow
    return result


def _same(images: torch.Tensor, kernels: Floats) -> torch.Tensor:
    """Cross-correlation with odd square kernels and as much padding as keeps the size."""
    return functional.conv2d(images, torch.from_numpy(kernels), padding=kernels.shape[-1] // 2)
