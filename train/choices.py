"""The names that the command line and config.json take. No torch here: --help should not wait for it."""

from __future__ import annotations

from typing import Literal, TypeAlias

ModelName: TypeAlias = Literal[
    "small-conv",
    "vgg-11",
    "vgg-16",
    "resnet-18",
    "resnet-19",
    "resnet-20",
    "resnet-34",
    "resnet-18-imagenet",
    "resnet-34-imagenet",
    "recurrent",
]
NeuronName: TypeAlias = Literal["lif", "plif", "da-lif", "adaptive-lif", "if", "relu"]
AttentionName: TypeAlias = Literal["none", "staa", "fsta"]
SurrogateName: TypeAlias = Literal["auto", "tanh", "rectangle", "sigmoid", "atan", "triangle"]
ShiftPosition: TypeAlias = Literal["conv-input", "block-input", "current"]
ShiftSplit: TypeAlias = Literal["random", "fixed"]
LossName: TypeAlias = Literal["ce", "tsce", "tet", "bce"]
OptimizerName: TypeAlias = Literal["sgd", "adamw", "lamb"]
CodingName: TypeAlias = Literal["direct", "poisson"]
EventSplit: TypeAlias = Literal["number", "time"]
PrecisionName: TypeAlias = Literal["fp32", "bf16"]
DistillName: TypeAlias = Literal["none", "kl", "hta-kl", "tser"]
