"""Layers in sequence, where a batch norm and the neuron behind it run as one operation, in as few steps as differ."""

from __future__ import annotations

from torch import Tensor, nn

from train import kernels
from train.layers.lif import LIF
from train.layers.repeated import at_every_step, once
from train.layers.stateless import BatchNorm2d, Conv2d


class Chain(nn.Sequential):
    """`nn.Sequential` with the same modules, names and parameters, in fewer passes over memory; [T, B, C, H, W].

    [BatchNorm2d, LIF] next to each other become one operation, whose spikes can differ from those of the two only
    where the potential meets the threshold up to rounding. Of an image that is the same at every step, convolutions
    are computed once. Neither where something listens to these modules (a forward hook), nor under symbolic tracing.
    """

    def forward(self, input: Tensor) -> Tensor:
        if not isinstance(input, Tensor):
            return super().forward(input)
        modules, steps = list(self), len(input)
        x, index = once(input), 0
        while index < len(modules):
            match modules[index : index + 2]:
                case [BatchNorm2d() as norm, LIF() as lif] if _plain(norm, BatchNorm2d) and _plain(lif, LIF):
                    x = kernels.norm_lif(x, norm, lif.leak, lif.threshold, lif.surrogate, lif.detach_reset, steps)
                    index += 2
                case [module, *_]:
                    x = module(x if _plain(module, Conv2d) else at_every_step(x, steps))
                    index += 1
        return at_every_step(x, steps)


def _plain(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether a module is of just this type and nothing listens to it."""
    return type(module) is kind and not (module._forward_hooks or module._forward_pre_hooks)
