"""The training loop: epochs, evaluation, checkpoint, metrics; resumes where it was, alone or on several processes."""

from __future__ import annotations

import copy
import math
import platform
import shutil
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy
import torch
from rich.progress import Progress
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from train import checkpoint, data, distributed, losses, models, optimise, runs, teacher
from train.config import TrainConfig, to_json
from train.console import console, progress
from train.data import augment
from train.distributed import Processes
from train.errors import UserError
from train.layers.sync_norm import synchronise
from train.metrics import Metrics
from train.quantise.coding import InputCoding
from train.quantise.layers import constrain, is_prepared
from train.quantise.prepare import prepare
from train.restore import as_sent, coded, dataset_of, start_from, trained_coding

EVALUATION_BATCH = 256


def resolve_device(name: str, local_rank: int = 0) -> torch.device:
    """`auto` is CUDA where there is one, one device for each process.

    Raises:
        UserError: not a device, or not on this machine.
    """
    if name in ("auto", "cuda") and torch.cuda.is_available():
        return torch.device("cuda", local_rank)
    if name == "auto":
        return torch.device("cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {name}: {str(error).splitlines()[0]}") from error


def versions() -> dict[str, str]:
    """The versions that produced a run."""
    return {"python": platform.python_version(), "torch": torch.__version__, "numpy": numpy.__version__}


@dataclass(frozen=True, eq=False)
class Session:
    """What training works with: of a run, or of any model that learns from a run's data."""

    config: TrainConfig
    dataset: data.Dataset
    augmentation: data.Augmentation
    mixing: augment.Mixing | None
    model: models.Classifier
    stepper: nn.Module  # the model, or its DistributedDataParallel wrapper
    optimiser: torch.optim.Optimizer
    teacher: teacher.Teacher | None
    device: torch.device
    processes: Processes

    def autocast(self) -> Any:
        """bf16 where the configuration asks for it."""
        bf16 = self.config.precision == "bf16"
        return torch.autocast(self.device.type, torch.bfloat16) if bf16 else nullcontext()


def train(config: TrainConfig, run: Path, resume: bool = False) -> float:
    """Train, leaving config.json, checkpoint.safetensors and metrics.jsonl in `run`; the test accuracy in [0, 1].

    Epoch e draws its batch order, augmentation and random splits from (seed, e) alone, so a resumed run equals an
    uninterrupted one; one that was interrupted before its first checkpoint begins anew.

    Raises:
        UserError: unknown data set, model or device; a checkpoint that does not fit; a loss that is not finite.
    """
    with distributed.join() as processes:
        return _train(config, run, resume, processes)


def _train(config: TrainConfig, run: Path, resume: bool, processes: Processes) -> float:
    if resume and not (run / runs.CHECKPOINT).exists() and (run / runs.CONFIG).exists():
        resume = False
        if processes.first:
            console.print(f"{run} was interrupted in its first epoch: from the start")
    session = _prepare(config, processes, resume)
    session, first = _resume(run, session) if resume else (session, 0)
    if processes.first and not resume:
        _forget_previous(run)
    metrics = Metrics(run, config.tensorboard, first) if processes.first else None
    if processes.first:
        runs.write_json(run / runs.CONFIG, to_json(config, {"versions": versions()}))
    accuracy = 0.0
    with progress() if processes.first else nullcontext() as bar:
        for epoch in range(first, config.epochs):
            if epoch >= config.float_epochs and not is_prepared(session.model):
                session = _in_integers(session)
            accuracy = _epoch_and_test(session, epoch, run, metrics, bar)
    if metrics is not None:
        metrics.close()
        accuracy = metrics.last("test_accuracy")
        console.print(f"test accuracy {accuracy:.2%} ({len(session.dataset.test)} samples); everything is in {run}")
        console.print(f"next: python -m export {run} --target loihi2")
    return accuracy


def _prepare(config: TrainConfig, processes: Processes, resume: bool) -> Session:
    device = resolve_device(config.device, processes.local)
    dataset = dataset_of(config)
    if processes.first:
        console.print(data.found(dataset), markup=False)
    if config.coding == "poisson" and dataset.spec.has_time:
        raise UserError("--coding poisson is for images", hint=f"{config.dataset} holds events")
    if config.batch_size % processes.world:
        raise UserError(f"--batch-size {config.batch_size} is not a multiple of the {processes.world} processes")
    torch.manual_seed(config.seed)
    model = models.build(config.model, as_sent(config, dataset.spec)).to(device)
    if config.init and not resume:
        start_from(Path(config.init), model)
    if config.quantize:  # on a copy: what cannot be trained in integers is refused before the float epochs
        prepare(copy.deepcopy(model), as_sent(config, dataset.spec), config.model.time_steps, config.quantize_bits)
    return session_of(config, dataset, model, processes, device)


def session_of(
    config: TrainConfig, dataset: data.Dataset, model: models.Classifier, processes: Processes, device: torch.device
) -> Session:
    """What training `model`, on `device`, by the recipe of `config` works with.

    Raises:
        UserError: an augmentation that the data do not take; a teacher that is missing or of other data.
    """
    if processes.world > 1:
        synchronise(model)
    return Session(
        config=config,
        dataset=data.Dataset(
            dataset.spec, _part(dataset.train, config.train_samples), _part(dataset.test, config.test_samples)
        ),
        augmentation=augment.recipe(config.augment, dataset.spec),
        mixing=augment.mixing(config.mixup, config.cutmix, config.mix_probability),
        model=model,
        stepper=_stepper(model, processes, device),
        optimiser=optimise.optimiser(model, config),
        teacher=teacher.load(Path(config.teacher), config, dataset.spec, device) if config.teacher else None,
        device=device,
        processes=processes,
    )


def _part(split: data.Split, samples: int) -> data.Split:
    return data.Subset(split, data.spread(len(split), samples)) if samples else split


def _stepper(model: models.Classifier, processes: Processes, device: torch.device) -> nn.Module:
    stepper = _Logits(model)
    if processes.world == 1:
        return stepper
    return DistributedDataParallel(stepper, device_ids=[device.index] if device.type == "cuda" else None)


def _in_integers(session: Session, coding: InputCoding | None = None) -> Session:
    """The session that goes on in integers, with a new optimiser; the input's coding is chosen by rule if not given."""
    config = session.config
    spec = as_sent(config, session.dataset.spec)
    model = prepare(session.model, spec, config.model.time_steps, config.quantize_bits, coding).to(session.device)
    return replace(
        session,
        model=model,
        stepper=_stepper(model, session.processes, session.device),
        optimiser=optimise.optimiser(model, config),
    )


class _Logits(nn.Module):
    """The model's logits at every step as a forward pass, which DistributedDataParallel needs."""

    def __init__(self, model: models.Classifier) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model.logits(x)


def _resume(run: Path, session: Session) -> tuple[Session, int]:
    path = run / runs.CHECKPOINT
    state = checkpoint.load(path)
    if state.integer:
        session = _in_integers(session, trained_coding(state, as_sent(session.config, session.dataset.spec), path))
    checkpoint.restore_model(state, session.model, path)
    checkpoint.restore_optimiser(state, session.model, session.optimiser)
    return session, state.epoch


def _forget_previous(run: Path) -> None:
    """A new training run invalidates what an older one in the same folder left."""
    made = (runs.MODEL_NIR, *runs.OF_A_NETWORK, runs.ATTENTION, runs.EQUIVALENCE, runs.ACTIVITY)
    runs.remove(run, (runs.CHECKPOINT, runs.METRICS, *made))
    shutil.rmtree(run / runs.TENSORBOARD, ignore_errors=True)


def _epoch_and_test(session: Session, epoch: int, run: Path, metrics: Metrics | None, bar: Progress | None) -> float:
    begin = time.perf_counter()
    loss = run_epoch(session, epoch, bar)
    seconds = time.perf_counter() - begin
    every, last = session.config.evaluate_every, session.config.epochs - 1
    tested = epoch == last or (epoch + 1) % every == 0
    accuracy = evaluate(session) / len(session.dataset.test) if tested else float("nan")
    if metrics is not None:
        speed = len(session.dataset.train) / seconds
        phase = "integer" if is_prepared(session.model) else "float"
        row: dict[str, float | str] = {"phase": phase, "loss": loss, "samples_per_second": round(speed, 1)}
        metrics.write(epoch + 1, row | ({"test_accuracy": accuracy} if tested else {}))
        # After its row: a run that is killed between the two does the epoch again, and its row with it.
        checkpoint.save(run / runs.CHECKPOINT, epoch + 1, session.model, session.optimiser)
        if bar is not None:
            note = f"loss {loss:.3f}" + (f"  test {accuracy:.2%}" if tested else "")
            bar.update(bar.task_ids[0], note=note)
            if not console.is_terminal:
                console.print(f"epoch {epoch + 1} of {session.config.epochs}  {note}  {speed:,.0f} samples/s")
    return accuracy


def batch_count(session: Session) -> int:
    """Batches of an epoch in this process."""
    return data.batch_count(len(session.dataset.train), session.config.batch_size, session.processes.world)


def _batches(session: Session, epoch: int) -> Iterator[data.Batch]:
    config, processes = session.config, session.processes
    return data.training_batches(
        session.dataset.train,
        config.batch_size,
        config.seed,
        epoch,
        session.augmentation,
        repeats=config.augment_repeats,
        rank=processes.rank,
        world=processes.world,
        workers=config.workers,
        pin=session.device.type == "cuda",
    )


def run_epoch(session: Session, epoch: int, bar: Progress | None) -> float:
    """One pass over the training split, counted from 0; the mean loss over all processes' batches of this one.

    Raises:
        UserError: a loss that is not finite.
    """
    config, device = session.config, session.device
    torch.manual_seed(config.seed * 1_000_003 + epoch + 1)  # random splits and dropout: the same in every process
    own_seed = (config.seed * 1_000_003 + epoch) * 4096 + session.processes.rank
    draws, pairs = torch.Generator(device).manual_seed(own_seed), torch.Generator().manual_seed(own_seed)
    session.model.train()
    count = batch_count(session)
    if bar is not None and not bar.task_ids:
        bar.add_task("train", total=config.epochs * count, completed=epoch * count, unit="batches", note="")
    total = torch.zeros((), device=device)
    for index, batch in enumerate(_batches(session, epoch)):
        for group in session.optimiser.param_groups:
            group["lr"] = optimise.rate(config, epoch * count + index, count)
        frames = batch.frames.to(device, non_blocking=True)
        labels = batch.labels.to(device, non_blocking=True)
        if session.mixing:
            mixed = session.mixing(frames, labels, session.dataset.spec.classes, pairs)
            frames, labels = mixed.frames, mixed.targets
        taught = session.teacher(frames) if session.teacher else None
        with session.autocast():
            logits = session.stepper(coded(config, session.dataset.spec, frames, draws))
        loss = losses.loss(config, logits.float(), labels, taught)
        session.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        session.optimiser.step()
        constrain(session.model)
        total += loss.detach()
        if bar is not None:
            bar.advance(bar.task_ids[0])
    mean = session.processes.mean(total) / count
    if not math.isfinite(mean):
        raise UserError(f"the loss is {mean} in epoch {epoch + 1}", hint="lower --learning-rate")
    return mean


@torch.no_grad()
def evaluate(session: Session) -> int:
    """Number of correct answers on the session's test samples, over all processes."""
    session.model.eval()
    place, spec = session.processes, session.dataset.spec
    correct = 0
    batches = data.evaluation_batches(
        session.dataset.test, EVALUATION_BATCH, rank=place.rank, world=place.world, workers=session.config.workers
    )
    for batch in batches:
        with session.autocast():
            answer = session.model(coded(session.config, spec, batch.frames.to(session.device))).argmax(1)
        correct += int((answer.cpu() == batch.labels).sum())
    return place.total(correct, session.device)
