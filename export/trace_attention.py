"""The attention layers of `train` as graph nodes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from export import attention
from export.graph import Floats, Node
from train import layers


def _array(tensor: torch.Tensor) -> Floats:
    return tensor.detach().cpu().double().numpy().copy()


def _fsta(module: layers.FSTA, path: str, inputs: tuple[str, ...]) -> Node:
    return attention.FrequencyAttention(
        path,
        path,
        inputs,
        alpha=module.alpha.item(),
        beta=module.beta.item(),
        temporal=_array(module.temporal),
        kernels=_array(module.dct)[:, 0],
        spatial=_array(module.spatial)[0],
        t=module.t.item(),
        s=module.s.item(),
    )


def _context(module: layers.GlobalContext, path: str, inputs: tuple[str, ...]) -> Node:
    return attention.GlobalContext(
        path,
        path,
        inputs,
        key=_array(module.key),
        squeeze=_array(module.squeeze),
        squeeze_bias=_array(module.squeeze_bias),
        scale=_array(module.norm.weight),
        shift=_array(module.norm.bias),
        epsilon=module.norm.eps,
        excite=_array(module.excite),
        excite_bias=_array(module.excite_bias),
    )


def _step(module: layers.StepAttention, path: str, inputs: tuple[str, ...]) -> Node:
    parameters = (module.squeeze, module.squeeze_bias, module.excite, module.excite_bias)
    return attention.StepAttention(path, path, inputs, *map(_array, parameters))


RULES: dict[type[nn.Module], Callable[[Any, str, tuple[str, ...]], Node]] = {
    layers.FSTA: _fsta,
    layers.GlobalContext: _context,
    layers.StepAttention: _step,
    layers.StaticGain: lambda m, path, inputs: attention.Gain(path, path, inputs, _array(m.gain)),
}
