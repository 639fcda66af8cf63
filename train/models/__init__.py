"""Backbones by name."""

from __future__ import annotations

from torch import nn

from train.config import ModelConfig
from train.data.spec import DataSpec
from train.errors import UserError
from train.models.small import SmallConv as SmallConv


def build(config: ModelConfig, data: DataSpec) -> nn.Module:
    """The model that `config` describes, for images of `data`.

    Raises:
        UserError: no such model.
    """
    if config.model == "small-conv":
        return SmallConv(data, config.temporal_shift)
    raise UserError(f"unknown model {config.model!r}", hint="known models: small-conv")
