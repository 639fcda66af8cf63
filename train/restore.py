"""A trained model back from its run folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from train import checkpoint, config, data, models, runs
from train.errors import UserError
from train.quantise.prepare import prepare


@dataclass(frozen=True, eq=False)
class Trained:
    """The model in evaluation mode on the CPU, with its configuration and its data's specification."""

    model: nn.Module
    config: config.TrainConfig
    data: data.DataSpec


def restore(run: Path) -> Trained:
    """Load the model of a run folder; one that was trained in integers comes back in integers.

    Raises:
        UserError: config.json or the checkpoint is missing, damaged, or they do not belong together.
    """
    runs.find(run, {runs.CONFIG: "python -m train", runs.CHECKPOINT: "python -m train"})
    settings = config.from_json(run / runs.CONFIG)
    spec = data.spec(settings.dataset)
    model = models.build(settings.model, spec)
    path = run / runs.CHECKPOINT
    state = checkpoint.load(path)
    if state.integer:
        model = prepare(model, spec, settings.model.time_steps, settings.quantize_bits)
    checkpoint.restore_model(state, model, path)
    return Trained(model.eval(), settings, spec)


def start_from(run: Path, model: nn.Module) -> None:
    """Load the weights of another run's float model into `model`.

    Raises:
        UserError: they are missing, damaged, of another network, or were trained in integers.
    """
    path = run / runs.CHECKPOINT
    state = checkpoint.load(path)
    if state.integer:
        raise UserError("was trained in integers, --init needs a float model", where=str(path))
    checkpoint.restore_model(state, model, path)


def dataset_of(settings: config.TrainConfig) -> data.Dataset:
    """The data set that a run was trained on.

    Raises:
        UserError: its folder is missing or damaged.
    """
    folder = Path(settings.data_dir) if settings.data_dir else None
    return data.load(settings.dataset, folder, settings.model.time_steps, settings.event_split)


def coded(
    settings: config.TrainConfig, spec: data.DataSpec, frames: Tensor, generator: torch.Generator | None = None
) -> Tensor:
    """Raw frames of a batch as the model's input [T, B, C, H, W]: clips as they are, images by `--coding`."""
    if settings.coding == "poisson" and not spec.has_time:
        drawn = generator or torch.Generator(frames.device).manual_seed(settings.seed)
        return data.poisson(frames, settings.model.time_steps, spec.levels, drawn)
    return data.over_time(frames, settings.model.time_steps)
