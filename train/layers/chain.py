"""Layers in sequence, where a batch norm and the neuron behind it run as one operation."""

from __future__ import annotations

from torch import Tensor, nn

from train import kernels
from train.layers.lif import LIF
from train.layers.stateless import BatchNorm2d


class Chain(nn.Sequential):
    """`nn.Sequential` with the same modules, names and parameters, in fewer passes over memory; [T, B, C, H, W].

    [BatchNorm2d, LIF] next to each other become one operation, whose spikes can differ from those of the two only
    where the potential meets the threshold up to rounding. They stay two where something listens to one of them (a
    forward hook), where the neuron is not the plain LIF, and under symbolic tracing.
    """

    def forward(self, input: Tensor) -> Tensor:
        modules = list(self)
        x, index = input, 0
        while index < len(modules):
            pair = modules[index : index + 2]
            if isinstance(x, Tensor) and _fuses(pair):
                norm, neuron = pair
                assert isinstance(norm, BatchNorm2d)
                assert isinstance(neuron, LIF)
                x = kernels.norm_lif(x, norm, neuron.leak, neuron.threshold, neuron.surrogate, neuron.detach_reset)
                index += 2
            else:
                x = modules[index](x)
                index += 1
        return x


def _fuses(pair: list[nn.Module]) -> bool:
    if [type(module) for module in pair] != [BatchNorm2d, LIF]:
        return False
    return not any(module._forward_hooks or module._forward_pre_hooks for module in pair)
