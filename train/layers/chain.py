"""Layers in sequence, where a batch norm and the neuron behind it run as one operation, in as few steps as differ."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from train import kernels
from train.layers.lif import LIF
from train.layers.neurons import DALIF, IF, PLIF, AdaptiveLIF, LearnableNeuron
from train.layers.repeated import at_every_step, once
from train.layers.stateless import BatchNorm2d, Conv2d

KNOWN = (Conv2d, BatchNorm2d, LIF, IF, PLIF, DALIF, AdaptiveLIF)


class Chain(nn.Sequential):
    """`nn.Sequential` with the same modules, names and parameters, in fewer passes over memory; [T, B, C, H, W].

    Batch norm and a neuron next to each other become one operation, whose spikes can differ from those of the two only
    where the potential meets the threshold up to rounding. Of an image that is the same at every step, convolutions
    are computed once. Neither where something listens to these modules (a hook), nor under symbolic tracing.
    """

    def forward(self, input: Tensor) -> Tensor:
        if not isinstance(input, Tensor):
            return super().forward(input)
        modules, steps = list(self), len(input)
        x, index = once(input), 0
        while index < len(modules):
            match modules[index : index + 2]:
                case [BatchNorm2d() as norm, LIF() | LearnableNeuron() as cell] if _plain(norm) and _plain(cell):
                    numbers = (cell.leak, cell.threshold, cell.surrogate, cell.gain, cell.detach_reset)
                    x = kernels.norm_lif(x, norm, *numbers, steps)
                    index += 2
                case [module, *_]:
                    if not (isinstance(module, Conv2d) and _plain(module)):
                        x = at_every_step(x, steps)
                    x = module(x)
                    index += 1
        return at_every_step(x, steps)


def _plain(module: nn.Module) -> bool:
    """Whether a module is of just one of the known types and nothing listens to it or to all modules."""
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return type(module) in KNOWN and not any(hooks) and not _has_any_global_hook()
