"""Whether a model computes in integers, and what keeps its weights within what the chip can hold."""

from __future__ import annotations

from torch import nn

from train.quantise.neurons import IntegerLIF, IntegerReadout
from train.quantise.synapses import IntegerSynapses


def is_prepared(model: nn.Module) -> bool:
    """Whether a model computes in integers."""
    return any(isinstance(module, IntegerReadout) for module in model.modules())


def constrain(model: nn.Module) -> None:
    """After a step of the optimiser: back to what the chip can hold, for every layer."""
    for module in model.modules():
        if isinstance(module, IntegerSynapses | IntegerLIF):
            module.constrain()
