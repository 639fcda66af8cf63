"""A trained model back from its run folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from train import checkpoint, config, data, models, runs


@dataclass(frozen=True, eq=False)
class Trained:
    """The model in evaluation mode on the CPU, with its configuration and its data's specification."""

    model: nn.Module
    config: config.TrainConfig
    data: data.DataSpec


def restore(run: Path) -> Trained:
    """Load the model of a run folder.

    Raises:
        UserError: config.json or the checkpoint is missing, damaged, or they do not belong together.
    """
    settings = config.from_json(run / runs.CONFIG)
    spec = data.spec(settings.dataset)
    model = models.build(settings.model, spec)
    path = run / runs.CHECKPOINT
    checkpoint.restore_model(checkpoint.load(path), model, path)
    return Trained(model.eval(), settings, spec)
