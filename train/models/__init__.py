"""Backbones by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from train import surrogate
from train.choices import ModelName
from train.config import ModelConfig
from train.data.spec import DataSpec
from train.layers import NeuronSpec
from train.models import resnet, vgg
from train.models.base import Classifier as Classifier
from train.models.parts import Parts as Parts
from train.models.recurrent import RecurrentDense as RecurrentDense
from train.models.resnet import ResNet as ResNet
from train.models.small import SmallConv as SmallConv
from train.models.vgg import VGG as VGG

BUILDERS: dict[ModelName, Callable[[Parts, DataSpec], Classifier]] = {
    "small-conv": SmallConv,
    "vgg-11": partial(VGG, vgg.PLANS["vgg-11"]),
    "vgg-16": partial(VGG, vgg.PLANS["vgg-16"]),
    "resnet-18": partial(ResNet, resnet.PLANS["resnet-18"]),
    "resnet-19": partial(ResNet, resnet.PLANS["resnet-19"]),
    "resnet-20": partial(ResNet, resnet.PLANS["resnet-20"]),
    "resnet-34": partial(ResNet, resnet.PLANS["resnet-34"]),
    "resnet-18-imagenet": partial(ResNet, resnet.PLANS["resnet-18-imagenet"]),
    "resnet-34-imagenet": partial(ResNet, resnet.PLANS["resnet-34-imagenet"]),
    "recurrent": RecurrentDense,
}


def parts(config: ModelConfig) -> Parts:
    """What `config` changes inside a backbone."""
    neuron = NeuronSpec(
        neuron=config.neuron,
        attention=config.attention,
        surrogate=surrogate.by_name(config.surrogate, config.attention),
        steps=config.time_steps,
        leak=config.leak,
        threshold=config.threshold,
        per_channel=config.per_channel,
    )
    shift = config.shift_position if config.temporal_shift else None
    return Parts(neuron, shift, config.shift_split, config.width)


def build(config: ModelConfig, data: DataSpec) -> Classifier:
    """The model that `config` describes, for samples of `data`; its convolutions are channels last.

    Raises:
        UserError: the samples do not fit the model.
    """
    model = BUILDERS[config.model](parts(config), data)
    for module in model.modules():  # not `model.to`, which refuses the five axes of a position code
        if isinstance(module, nn.Conv2d):
            module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model
