"""The training loop: epochs, evaluation, checkpoint, metrics; resumes where it was."""

from __future__ import annotations

import json
import math
import platform
import time
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor, nn

from train import checkpoint, data, models, runs
from train.config import TrainConfig, to_json
from train.console import console, progress
from train.errors import UserError


def resolve_device(name: str) -> torch.device:
    """`auto` is CUDA where there is one.

    Raises:
        UserError: not a device, or not on this machine.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {name}: {str(error).splitlines()[0]}") from error


def cosine(step: int, total: int, peak: float) -> float:
    """Learning rate at `step` of `total`: from `peak` to zero along half a cosine."""
    return peak * 0.5 * (1 + math.cos(math.pi * step / total))


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Weight decay for convolution and linear weights only; not for batch norm, biases and scalars (alpha, decays)."""
    decayed = [p for p in model.parameters() if p.ndim > 1]
    rest = [p for p in model.parameters() if p.ndim <= 1]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0.0}]


@torch.no_grad()
def evaluate(model: nn.Module, split: data.Split, steps: int, device: torch.device, batch: int = 256) -> int:
    """Number of correct answers on a split."""
    model.eval()
    correct = 0
    for frames, labels in zip(split.frames.split(batch), split.labels.split(batch), strict=True):
        logits = model(data.repeat_over_time(frames.to(device), steps))
        correct += int((logits.argmax(1).cpu() == labels).sum())
    return correct


def versions() -> dict[str, str]:
    """The versions that produced a run."""
    return {"python": platform.python_version(), "torch": torch.__version__, "numpy": numpy.__version__}


def train(config: TrainConfig, run: Path, resume: bool = False) -> float:
    """Train, leaving config.json, checkpoint.safetensors and metrics.jsonl in `run`; the test accuracy in [0, 1].

    Epoch e draws its batch order and random splits from (seed, e) alone, so a resumed run equals an uninterrupted one.

    Raises:
        UserError: unknown data set, model or device; a checkpoint that does not fit; a loss that is not finite.
    """
    device = resolve_device(config.device)
    dataset = data.load(config.dataset)
    torch.manual_seed(config.seed)
    model = models.build(config.model, dataset.spec).to(device)
    optimiser = torch.optim.SGD(
        parameter_groups(model, config.weight_decay), config.learning_rate, config.momentum, nesterov=True
    )
    first, metrics = _resume(run, model, optimiser) if resume else (0, [])
    runs.write_json(run / runs.CONFIG, to_json(config, {"versions": versions()}))
    if not resume:
        _forget_previous(run)
    total = len(dataset.test.labels)
    with progress() as bar:
        task = bar.add_task("train", total=config.epochs, completed=first, note="")
        for epoch in range(first, config.epochs):
            begin = time.perf_counter()
            loss = _epoch(config, epoch, model, optimiser, dataset.train, device)
            correct = evaluate(model, dataset.test, config.model.time_steps, device)
            samples_per_second = len(dataset.train.labels) / (time.perf_counter() - begin)
            metrics.append(
                {
                    "epoch": epoch + 1,
                    "loss": loss,
                    "test_accuracy": correct / total,
                    "samples_per_second": round(samples_per_second, 1),
                }
            )
            checkpoint.save(run / runs.CHECKPOINT, epoch + 1, model, optimiser)
            runs.write_text(run / runs.METRICS, "".join(json.dumps(row) + "\n" for row in metrics))
            note = f"loss {loss:.3f}  test {correct / total:.2%}  {samples_per_second:,.0f} samples/s"
            bar.update(task, advance=1, note=note)
    accuracy = float(metrics[-1]["test_accuracy"])
    console.print(f"test accuracy {accuracy:.2%} ({total} samples); everything is in {run}")
    return accuracy


def _forget_previous(run: Path) -> None:
    """A new training run invalidates what an older one in the same folder left."""
    for name in (runs.CHECKPOINT, runs.METRICS, runs.MODEL_NIR, runs.NETWORK, runs.EQUIVALENCE, runs.ACTIVITY):
        (run / name).unlink(missing_ok=True)


def _resume(run: Path, model: nn.Module, optimiser: torch.optim.Optimizer) -> tuple[int, list[dict[str, Any]]]:
    state = checkpoint.load(run / runs.CHECKPOINT)
    checkpoint.restore_model(state, model, run / runs.CHECKPOINT)
    checkpoint.restore_optimiser(state, model, optimiser)
    path = run / runs.METRICS
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    return state.epoch, [row for row in rows if row["epoch"] <= state.epoch]


def _epoch(
    config: TrainConfig,
    epoch: int,
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    split: data.Split,
    device: torch.device,
) -> float:
    """One pass over the training split; the mean loss."""
    torch.manual_seed(config.seed * 1_000_003 + epoch + 1)
    model.train()
    order = torch.randperm(len(split.labels))
    batches = [b for b in order.split(config.batch_size) if len(b) > 1]  # batch norm needs two samples
    losses: list[Tensor] = []
    for index, batch in enumerate(batches):
        rate = cosine(epoch * len(batches) + index, config.epochs * len(batches), config.learning_rate)
        for group in optimiser.param_groups:
            group["lr"] = rate
        frames = data.repeat_over_time(split.frames[batch].to(device), config.model.time_steps)
        logits = model(frames)
        loss = nn.functional.cross_entropy(
            logits, split.labels[batch].to(device), label_smoothing=config.label_smoothing
        )
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        losses.append(loss.detach())
    mean = float(torch.stack(losses).mean())
    if not math.isfinite(mean):
        raise UserError(f"the loss is {mean} in epoch {epoch + 1}", hint="lower --learning-rate")
    return mean
