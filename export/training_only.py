"""What training alone needed and an exported network does without, as lines for the user."""

from __future__ import annotations

from train import layers
from train.restore import Trained


def dropped(trained: Trained) -> list[str]:
    """One line for each kind of thing; none for a model that has nothing of it."""
    config, lines = trained.config, []
    if config.teacher:
        lines.append(f"the teacher {config.teacher} and its {config.distill} loss")
    rates = [module.drop for module in trained.model.modules() if isinstance(module, layers.STAANeuron)]
    if rates:
        lines.append(f"time-step dropout of {len(rates)} layers (probability {max(rates):g})")
    shifts = [module for module in trained.model.modules() if isinstance(module, layers.TemporalShift)]
    if any(shift.split == "random" for shift in shifts):
        lines.append(f"the random channel groups of {len(shifts)} temporal shifts, fixed at evaluation")
    return lines
