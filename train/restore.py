"""A trained model back from its run folder."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from train import checkpoint, config, data, models, runs
from train.errors import UserError
from train.quantise.coding import InputCoding
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
    model = models.build(settings.model, as_sent(settings, spec))
    path = run / runs.CHECKPOINT
    state = checkpoint.load(path)
    if state.integer:
        coding = trained_coding(state, as_sent(settings, spec), path)
        model = prepare(model, as_sent(settings, spec), settings.model.time_steps, settings.quantize_bits, coding)
    checkpoint.restore_model(state, model, path)
    return Trained(model.eval(), settings, spec)


def trained_coding(state: checkpoint.Checkpoint, sent: data.DataSpec, where: Path) -> InputCoding:
    """The input coding of a model that was trained in integers; which one it is decides the shape of its weights.

    Raises:
        UserError: it is none that this data can have.
    """
    found = {name.rpartition(".")[2]: value for name, value in state.model.items()}
    if "low_bits" not in found:
        return InputCoding(sent.bits)
    low_bits = _whole(found, "low_bits", sent.bits - 1, 1, where)
    offset = _whole(found, "offset", sent.levels, sent.shape[0], where)
    return InputCoding(sent.bits, offset, low_bits[0])


def _whole(found: Mapping[str, Tensor], name: str, most: int, count: int, where: Path) -> tuple[int, ...]:
    """A tensor of 1 or `count` whole numbers in 0..most."""
    value = found.get(name)
    if value is None or value.dtype != torch.int64 or value.numel() not in (1, count):
        raise UserError(f"tensor {name} of the input's coding is not 1 or {count} whole numbers", where=str(where))
    low, high = int(value.min()), int(value.max())
    if low < 0 or high > most:
        raise UserError(f"tensor {name} of the input's coding holds {low}..{high}, allowed 0..{most}", where=str(where))
    return tuple(int(number) for number in value.reshape(-1))


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
    return data.load(settings.dataset, folder, settings.model.time_steps, settings.event_split, settings.crop_scale)


def as_sent(settings: config.TrainConfig, spec: data.DataSpec) -> data.DataSpec:
    """The specification of what a network gets at each step.

    Rate coding makes a pixel of value v a spike of mean v / levels, so statistics of pixels shrink by `levels`.
    """
    if settings.coding != "poisson" or spec.has_time:
        return spec
    mean, std = (tuple(value / spec.levels for value in values) for values in (spec.mean, spec.std))
    return dataclasses.replace(spec, levels=1, mean=mean, std=std)


def coded(
    settings: config.TrainConfig, spec: data.DataSpec, frames: Tensor, generator: torch.Generator | None = None
) -> Tensor:
    """Raw frames of a batch as the model's input [T, B, C, H, W]: clips as they are, images by `--coding`."""
    if settings.coding == "poisson" and not spec.has_time:
        drawn = generator or torch.Generator(frames.device).manual_seed(settings.seed)
        return data.poisson(frames, settings.model.time_steps, spec.levels, drawn)
    return data.over_time(frames, settings.model.time_steps)
