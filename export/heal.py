"""Healing: the folded model learns from the model with attention what folding took from it."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from export.passes.fold_attention import Gate
from train import layers, loop
from train.config import LossConfig, TrainConfig
from train.console import progress
from train.distributed import Processes
from train.models import Classifier
from train.restore import Trained, dataset_of


def static_model(model: Classifier, gates: Sequence[Gate]) -> Classifier:
    """A copy of `model` that computes what `fold_attention` leaves of its graph: the same weights, static gains.

    Time-step dropout goes with the gates it acts on.
    """
    static = copy.deepcopy(model)
    reference = next(model.parameters())
    for gate in gates:
        parent, _, name = gate.origin.rpartition(".")
        mean = torch.from_numpy(gate.mean).to(reference)
        setattr(static.get_submodule(parent), name, layers.StaticGain(mean))
    for module in static.modules():
        if isinstance(module, layers.STAANeuron):
            module.drop = 0.0
    return static


def heal(trained: Trained, run: Path, static: Classifier, epochs: int, rate: float) -> list[float]:
    """Train `static` in place on the run's data, with the run's own model as teacher; the losses of its epochs.

    The recipe is the run's (data, augmentation, batch size) but for the loss, cross-entropy and KL to the teacher's
    mean logits in equal parts at temperature 4, and the learning rate, half a cosine from `rate` to 0.

    Raises:
        UserError: the data set is not there; a loss that is not finite.
    """
    config = recipe(trained.config, run, epochs, rate)
    device = loop.resolve_device(config.device)
    session = loop.session_of(config, dataset_of(config), static.to(device), Processes(), device)
    losses = []
    with progress() as bar:
        bar.add_task("heal", total=epochs * loop.batch_count(session), note="")
        for epoch in range(epochs):
            losses.append(loop.run_epoch(session, epoch, bar))
            bar.update(bar.task_ids[0], note=f"loss {losses[-1]:.3f}")
    static.eval().cpu()
    return losses


def recipe(config: TrainConfig, run: Path, epochs: int, rate: float) -> TrainConfig:
    """How the folded model of a run trained by `config` is healed."""
    minimised: dict[str, Any] = {**asdict(LossConfig()), "label_smoothing": config.label_smoothing, "distill": "kl"}
    return replace(
        config,
        **minimised,
        teacher=str(run),
        epochs=epochs,
        warmup_epochs=0,
        learning_rate=rate,
        final_learning_rate=0.0,
        init="",
        tensorboard=False,
    )
