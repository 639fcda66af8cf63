"""python -m train: train a spiking network; see --help."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Annotated

import tyro

from train import allocator, config, presets, runs
from train.console import console, main
from train.errors import UserError

MAY_CHANGE = ("--epochs", "--data-dir", "--teacher", "--device", "--workers", "--evaluate-every", "--tensorboard")


@dataclass(frozen=True)
class Options:
    """Train a spiking network with surrogate gradients and leave it in a run folder.

    Examples:
      python -m train --preset digits
      python -m train --dataset digits --temporal-shift --time-steps 4 --out runs/mine
      python -m train --resume --out runs/mine
    """

    train: Annotated[config.TrainConfig, tyro.conf.arg(name="")] = field(default_factory=config.TrainConfig)
    preset: str | None = None
    """Start from a recipe by name, for example digits or ts-snn-cifar10 (docs/training.md lists them). Other options
    override it."""
    config: Path | None = None
    """Start from the config.json of another run. Other options override it."""
    out: Path | None = None
    """Run folder to write (default: runs/<dataset>-<time>)."""
    no_malloc_tuning: bool = False
    """Leave the C library's allocator alone: slower for large T, and memory goes back to the system at once."""
    resume: bool = False
    """Go on with the run in --out where it was interrupted; of its options, only --epochs, --data-dir, --teacher,
    --device, --workers, --evaluate-every and --tensorboard may change."""
    overwrite: bool = False
    """Train anew into a run folder that holds a trained network, which is lost."""


def _peek(arguments: list[str], flag: str) -> str | None:
    """The value of `flag` on the command line, before it is parsed: it decides the defaults of all others."""
    for index, argument in enumerate(arguments):
        if argument == flag and index + 1 < len(arguments):
            return arguments[index + 1]
        if argument.startswith(flag + "="):
            return argument.removeprefix(flag + "=")
    return None


def _defaults(arguments: list[str]) -> Options:
    name, file, out = (_peek(arguments, flag) for flag in ("--preset", "--config", "--out"))
    if name and file:
        raise UserError("can't use both --preset and --config")
    if "--resume" in arguments:
        if name or file:
            raise UserError("--resume takes its options from the run, not from --preset or --config")
        if not out:
            raise UserError("--resume needs --out, the run folder to go on with")
        return Options(train=config.from_json(Path(out) / runs.CONFIG))
    if file:
        return Options(train=config.from_json(Path(file)))
    return Options(train=presets.preset(name) if name else config.TrainConfig())


def command(options: Options) -> None:
    """Run `python -m train` with parsed options."""
    tuned = None if options.no_malloc_tuning else allocator.tune()  # before torch is imported
    if tuned:
        console.print(f"[dim]{tuned}[/]")
    from train import loop  # torch is slow to import: --help should not wait for it

    run = options.out or runs.ROOT / f"{options.train.dataset}-{datetime.now():%Y%m%d-%H%M%S}"
    _check(options, run)
    loop.train(options.train, run, options.resume)


def _check(options: Options, run: Path) -> None:
    """A run folder holds one network with the options that made it.

    Raises:
        UserError: it would lose its network, or go on with other options.
    """
    if options.resume:
        before = config.from_json(run / runs.CONFIG)
        changed = [option for option in config.differences(before, options.train) if option not in MAY_CHANGE]
        if changed:
            hint = "train anew in another folder"
            raise UserError(f"--resume with another {', '.join(changed)}", where=str(run), hint=hint)
    elif (run / runs.CHECKPOINT).exists() and not options.overwrite:
        hint = "--resume to go on with it, --overwrite to lose it, or another --out"
        raise UserError("holds a trained network", where=str(run), hint=hint)


if __name__ == "__main__":
    main(Options, command, "python -m train", default=lambda: _defaults(sys.argv[1:]))
