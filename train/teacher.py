"""The teacher of a distillation: any trained run of the same classes and frames."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from train import data
from train.config import TrainConfig
from train.errors import UserError
from train.quantise.layers import is_prepared
from train.restore import coded, restore

Teacher = Callable[[Tensor], Tensor]


def load(run: Path, student: TrainConfig, spec: data.DataSpec, device: torch.device) -> Teacher:
    """Frames of a batch to the teacher's logits [B, K], coded as it was trained, in its own time steps; no gradient.

    Raises:
        UserError: there is no such run; it was trained for other classes or frames, or on clips of another length; it
            computes in integers and the student's samples are mixed.
    """
    if not run.is_dir():
        hint = f"train it first: python -m train --neuron relu --time-steps 1 --out {run}, or a teacher's --preset"
        raise UserError("no such run folder to learn from", where=str(run), hint=hint)
    trained = restore(run)
    if (trained.data.classes, trained.data.shape) != (spec.classes, spec.shape):
        raise UserError(
            f"the teacher knows {trained.data.classes} classes of {trained.data.shape} frames, the student has "
            f"{spec.classes} of {spec.shape}",
            where=str(run),
        )
    steps = trained.config.model.time_steps
    if spec.has_time and steps != student.model.time_steps:
        what = f"the teacher was trained on clips of {steps} frames, the student has {student.model.time_steps}"
        raise UserError(what, where=str(run), hint="give both the same --time-steps")
    if is_prepared(trained.model) and (student.mixup or student.cutmix):
        raise UserError("the teacher computes in integers, which mixed samples are not", where=str(run))
    model = trained.model.to(device).requires_grad_(False)

    @torch.no_grad()
    def logits(frames: Tensor) -> Tensor:
        answer: Tensor = model(coded(trained.config, trained.data, frames))
        return answer.float()

    return logits
