"""The linear parts of a float model folded into the weights behind or before them; exact in real arithmetic."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from train.layers.temporal_shift import Split
from train.quantise.synapses import Geometry


def scaled_rows(values: Tensor, scale: Tensor) -> Tensor:
    """[O, ...] times (O,)."""
    return values * scale.view(-1, *(1,) * (values.ndim - 1))


def through_shift(weight: Tensor, split: Split, alpha: float) -> tuple[Tensor, Tensor]:
    """W (X + alpha Z) = W' [X | Z]: weight [O, 2 I, kH, kW], and which of the 2 I channels have synapses, 0 or 1.

    Channels [past, I) are their own neighbour, so they need no second synapse. From here on both halves are free.
    """
    channel = torch.arange(weight.shape[1], device=weight.device)
    shifted = (channel < split.past).to(weight)
    main = torch.where(channel < split.past, 1.0, 1.0 + alpha).to(weight)
    stacked = torch.cat([weight * main.view(-1, 1, 1), weight * (alpha * shifted).view(-1, 1, 1)], 1)
    return stacked, torch.cat([torch.ones_like(shifted), shifted])


def through_normalisation(
    weight: Tensor, bias: Tensor, offset: Tensor, shape: tuple[int, int, int], geometry: Geometry
) -> Tensor:
    """The bias (O, H, W) that a constant added to every pixel becomes behind a convolution.

    A convolution pads the normalised image with zeros, so at the border the constant counts less: hence the map.
    """
    image = offset.view(1, -1, 1, 1).expand(1, *shape).to(weight)
    g = geometry
    extra = functional.conv2d(image, weight, None, g.stride, g.padding, g.dilation, g.groups)[0]
    return bias.view(-1, 1, 1) + extra
