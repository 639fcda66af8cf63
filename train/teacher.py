"""The teacher of a distillation: any trained run of the same classes and frames."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from train import data
from train.errors import UserError
from train.restore import restore

Teacher = Callable[[Tensor], Tensor]


def load(run: Path, spec: data.DataSpec, device: torch.device) -> Teacher:
    """Frames of a batch to the teacher's logits [B, K], its own number of time steps, no gradient.

    Raises:
        UserError: there is no such run, or it was trained for other classes or frames.
    """
    if not run.is_dir():
        hint = f"train it first: python -m train --neuron relu --time-steps 1 --out {run}, or a teacher's --preset"
        raise UserError("no such run to learn from", where=str(run), hint=hint)
    trained = restore(run)
    if (trained.data.classes, trained.data.shape) != (spec.classes, spec.shape):
        raise UserError(
            f"the teacher knows {trained.data.classes} classes of {trained.data.shape} frames, the student has "
            f"{spec.classes} of {spec.shape}",
            where=str(run),
        )
    model = trained.model.to(device).requires_grad_(False)
    steps = trained.config.model.time_steps

    @torch.no_grad()
    def logits(frames: Tensor) -> Tensor:
        answer: Tensor = model(data.over_time(frames, steps))
        return answer.float()

    return logits
