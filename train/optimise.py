"""The optimiser and its learning rate."""

from __future__ import annotations

import math

import torch
from torch import nn

from train.config import TrainConfig
from train.lamb import LAMB

QUANTIZE_RATE = 0.1  # peak of the epochs in integers against that of the float ones; this project's choice


def optimiser(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """SGD with Nesterov momentum, AdamW or LAMB; weight decay for convolution and linear weights only.

    Not for batch norm, biases, learned decays, alpha, nor for position codes, which are biases of five axes; nor for
    the layers of integer training, whose scale no batch norm undoes.
    """
    decayed: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for module in model.modules():
        weights = isinstance(module, nn.Conv2d | nn.Linear)
        for name, parameter in module.named_parameters(recurse=False):
            (decayed if weights and name == "weight" else rest).append(parameter)
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": rest, "weight_decay": 0.0}]
    groups = [group for group in groups if group["params"]]
    match config.optimizer:
        case "sgd":
            return torch.optim.SGD(groups, config.learning_rate, config.momentum, nesterov=config.momentum > 0)
        case "adamw":
            return torch.optim.AdamW(groups, config.learning_rate)
        case "lamb":
            return LAMB(groups, config.learning_rate)


def rate(config: TrainConfig, step: int, steps_per_epoch: int) -> float:
    """Learning rate at `step`: a line up over the warm-up epochs, then half a cosine down to the final rate.

    The epochs in integers of --quantize have a half cosine of their own, from QUANTIZE_RATE times the peak.
    """
    warm, total = config.warmup_epochs * steps_per_epoch, config.float_epochs * steps_per_epoch
    low, peak = config.final_learning_rate, config.learning_rate
    if step >= total and config.quantize:
        warm, total = total, config.epochs * steps_per_epoch
        peak = peak * QUANTIZE_RATE
        low = min(low, peak)
    elif step < warm:
        return low + (peak - low) * (step + 1) / warm
    phase = (step - warm) / max(total - warm, 1)
    return low + (peak - low) * 0.5 * (1 + math.cos(math.pi * phase))
