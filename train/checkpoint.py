"""`checkpoint.safetensors`: weights, optimiser state and progress in one atomic file; nothing in it is executed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from train import runs
from train.errors import UserError
from train.quantise.layers import is_prepared

SCHEMA_VERSION = "1"
MAX_TEXT = 200  # characters of a file's text that a message repeats
_MODEL, _OPTIMISER = "model.", "optimiser."


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """State after `epoch` whole epochs. Optimiser tensors are named `<parameter>.<slot>`.

    `integer`: the model computes in integers (see `train.quantise`); its weights are the latent ones.
    """

    epoch: int
    model: dict[str, Tensor]
    optimiser: dict[str, Tensor]
    integer: bool = False


def save(path: Path, epoch: int, model: nn.Module, optimiser: torch.optim.Optimizer) -> None:
    """Write a checkpoint atomically."""
    names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    tensors = {_MODEL + name: value for name, value in model.state_dict().items()}
    for parameter, state in optimiser.state.items():
        for slot, value in state.items():
            if isinstance(value, Tensor):
                tensors[f"{_OPTIMISER}{names[parameter]}.{slot}"] = value
    contiguous = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    phase = "integer" if is_prepared(model) else "float"
    metadata = {"schema_version": SCHEMA_VERSION, "epoch": str(epoch), "phase": phase}
    with runs.atomic_path(path) as temporary:
        save_file(contiguous, temporary, metadata=metadata)


def load(path: Path) -> Checkpoint:
    """Read a checkpoint.

    Raises:
        UserError: missing, truncated, not a safetensors file, or of another schema.
    """
    if not path.is_file():
        raise UserError("no checkpoint", where=str(path), hint="train first: python -m train")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            version = metadata.get("schema_version")
            if version != SCHEMA_VERSION:
                said = "none" if version is None else said_by(version)
                raise UserError(f"schema version {said}, this program reads {SCHEMA_VERSION}", where=str(path))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
            epoch = int(metadata["epoch"])
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise UserError(f"damaged, or not a checkpoint: {said_by(str(error))}", where=str(path)) from error
    return Checkpoint(
        epoch=epoch,
        integer=metadata.get("phase") == "integer",
        model={name.removeprefix(_MODEL): value for name, value in tensors.items() if name.startswith(_MODEL)},
        optimiser={n.removeprefix(_OPTIMISER): value for n, value in tensors.items() if n.startswith(_OPTIMISER)},
    )


def said_by(text: str) -> str:
    """A text from a file, short and printable, for a message of one line."""
    line = "".join(letter if letter.isprintable() else "?" for letter in text)
    return line if len(line) <= MAX_TEXT else f"{line[:MAX_TEXT]}..."


def restore_model(checkpoint: Checkpoint, model: nn.Module, where: Path) -> None:
    """Load the weights into `model`.

    Raises:
        UserError: the checkpoint was made by another network; the message names the first tensor that differs.
    """
    expected = model.state_dict()
    for name in [*expected, *checkpoint.model]:
        ours, theirs = expected.get(name), checkpoint.model.get(name)
        if ours is None or theirs is None or ours.shape != theirs.shape:
            found = "missing" if theirs is None else f"of shape {said_by(str(tuple(theirs.shape)))}"
            wanted = "no such tensor" if ours is None else f"shape {tuple(ours.shape)}"
            raise UserError(f"tensor {said_by(name)} is {found}, the model has {wanted}", where=str(where))
        if ours.dtype != theirs.dtype:
            found, wanted = (str(tensor.dtype).removeprefix("torch.") for tensor in (theirs, ours))
            raise UserError(f"tensor {name} is of dtype {found}, the model has {wanted}", where=str(where))
        if theirs.is_floating_point() and not torch.isfinite(theirs).all():
            raise UserError(f"tensor {name} holds NaN or infinity", where=str(where), hint="the training diverged")
    model.load_state_dict(checkpoint.model)


def restore_optimiser(checkpoint: Checkpoint, model: nn.Module, optimiser: torch.optim.Optimizer) -> None:
    """Load the optimiser's state, parameter by parameter; what is of its shape lies in memory as the parameter does.

    Sums over such tensors, as LAMB's norms, are rounded in the order of memory.
    """
    for name, parameter in model.named_parameters():
        for key, value in checkpoint.optimiser.items():
            owner, _, slot = key.rpartition(".")
            if owner == name:
                like = parameter if value.shape == parameter.shape else value
                held = torch.empty_like(like, dtype=value.dtype, device=parameter.device)
                optimiser.state[parameter][slot] = held.copy_(value)
